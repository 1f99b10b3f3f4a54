"""The names of splits and classes: class names from a file or from torchvision, their digest, and their spellings as folders."""

import csv
import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

SPLITS = ("train", "val", "test")
KINETICS_400 = "kinetics400"  # as data.names_file: no file needed


def no_split(name: str, splits: Collection[str]) -> str:
    """Return what is wrong with a dataset that lists no video of a split, and what to do."""
    found = [split for split in ("test", "val", "train") if split in splits]
    advice = f"evaluate another one with -o eval.split={found[0]}, or " if name != "train" and found[0] != "train" else ""
    return f"the dataset has no {name} split, only {' and '.join(reversed(found))}; {advice}add {name} videos and prepare again"


def find_names(names_file: str) -> list[str]:
    """Return the class names for data.names_file, which is "kinetics400" or the path of a file."""
    return kinetics400_names() if names_file == KINETICS_400 else read_names(paths.resolve(names_file))


def kinetics400_names() -> list[str]:
    """Return the 400 names in alphabetical order, from the metadata of torchvision's video weights; nothing is downloaded."""
    from torchvision.models.video import R3D_18_Weights  # slow to import and rarely needed

    return list(R3D_18_Weights.DEFAULT.meta["categories"])


def read_names(file: Path) -> list[str]:
    """Read class names in label order.

    Three formats: one name per line; one `<index> <name>` per line; CSV with or without the header `id,name`. Indices may start at 0 or 1
    and come in any order.
    Raises: UserError when the file has no names, a name appears twice, or the indices have gaps.
    """
    lines = [line for _, line in read_lines(file)]
    headed = bool(lines) and re.fullmatch(r"id\s*,\s*name", lines[0], re.IGNORECASE) is not None
    if headed or (lines and all(re.fullmatch(r"[0-9]+\s*,.*\S", line) for line in lines)):
        rows = csv.reader(lines[headed:], skipinitialspace=True)
        names = _in_order(file, [(row[0].strip(), ",".join(row[1:]).strip()) for row in rows])
    elif all(re.fullmatch(r"[0-9]+[ \t]+.+", line) for line in lines):
        names = _in_order(file, [tuple(re.split(r"[ \t]+", line, maxsplit=1)) for line in lines])
    else:
        names = lines
    if not names:
        raise UserError(f"{file}: no class names; expected one per line")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"{file}: class name {twice!r} appears twice; class names must be unique")
    return names


def _in_order(file: Path, indexed: list[tuple[str, str]]) -> list[str]:
    numbers = [int(index) for index, _ in indexed if re.fullmatch(r"[0-9]+", index)]
    first = min(numbers, default=0)
    if first > 1 or sorted(numbers) != list(range(first, first + len(indexed))):
        count = len(indexed)
        raise UserError(
            f"{file}: {count} lines begin with a number, but these are not 0 to {count - 1} (or 1 to {count}) once each; "
            "correct the numbers, or remove all of them"
        )
    return [name for _, name in sorted(indexed, key=lambda entry: int(entry[0]))]


def labels_sha256(class_names: Sequence[str]) -> str:
    """Return a digest of the names in order: two runs with the same digest give every label the same meaning."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def class_key(name: str) -> str:
    """Return a key shared by all spellings of a class name: "hurling (sport)", "Hurling_Sport" and "HurlingSport" have the same one."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c.isalnum())


def name_from_folder(folder: str) -> str:
    """Turn a folder name into words: "brush_hair" and "brush-hair" -> "brush hair"; "ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    spaced = "".join(" " + c if c.isupper() and i and folder[i - 1].islower() else c for i, c in enumerate(folder))
    return " ".join(spaced.replace("_", " ").replace("-", " ").split())
