"""Class names from a file, in the forms that datasets publish them in, or from torchvision for Kinetics-400."""

import csv
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

KINETICS_400 = "kinetics400"  # as data.names_file: no file needed


def find_names(names_file: str) -> list[str]:
    """The names that data.names_file stands for: "kinetics400", or the path of a file."""
    return kinetics400_names() if names_file == KINETICS_400 else read_names(paths.resolve(names_file))


def kinetics400_names() -> list[str]:
    """The 400 names in their alphabetical order, from the metadata of torchvision's video weights; nothing is downloaded."""
    from torchvision.models.video import R3D_18_Weights  # lazy: slow to import, and seldom wanted

    return list(R3D_18_Weights.DEFAULT.meta["categories"])


def read_names(file: Path) -> list[str]:
    """Class names in the order of their labels.

    Three forms: one name a line; `<index> <name>` a line; CSV, with the header `id,name` or without. Indices count from 0 or from 1, in
    any order.
    Raises: UserError when there are no names, when one stands there twice, or when the indices have gaps.
    """
    lines = [line for _, line in read_lines(file)]
    headed = bool(lines) and re.fullmatch(r"id\s*,\s*name", lines[0], re.IGNORECASE) is not None
    if headed or (lines and all(re.fullmatch(r"[0-9]+\s*,.*\S", line) for line in lines)):
        indexed = [(row[0].strip(), ",".join(row[1:]).strip()) for row in csv.reader(lines[headed:], skipinitialspace=True)]
        names = _in_order(file, indexed)
    elif lines and all(re.fullmatch(r"[0-9]+[ \t]+.+", line) for line in lines):
        names = _in_order(file, [tuple(re.split(r"[ \t]+", line, maxsplit=1)) for line in lines])
    else:
        names = lines
    if not names:
        raise UserError(f"{file}: no class names in it; expected one a line")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"{file}: class name {twice!r} stands there twice: two labels of one prompt; give each its own name")
    return names


def _in_order(file: Path, indexed: list[tuple[str, str]]) -> list[str]:
    numbers = [int(index) for index, _ in indexed if re.fullmatch(r"[0-9]+", index)]
    first = min(numbers, default=0)
    if first > 1 or sorted(numbers) != list(range(first, first + len(indexed))):
        raise UserError(
            f"{file}: {len(indexed)} lines begin with a number, but not with 0 to {len(indexed) - 1} (or 1 to {len(indexed)}) once each; "
            "mend the numbers, or leave them all out"
        )
    return [name for _, name in sorted(indexed, key=lambda entry: int(entry[0]))]


def build_prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Template with one {} + class names -> one prompt a class, in the order of the names."""
    return [template.format(name) for name in class_names]


def build_vocabulary(prompts: Sequence[str]) -> list[str]:
    """The lower-cased whitespace words of all prompts, sorted; a word's index is its place (as in the published code)."""
    return sorted({word for prompt in prompts for word in prompt.lower().split()})


def labels_sha256(class_names: Sequence[str]) -> str:
    """Digest of the names in order: label i means the same class in two runs only if this agrees."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def class_key(name: str) -> str:
    """What is the same in all spellings of a class name: "hurling (sport)", "Hurling_Sport" and "HurlingSport" have one key."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c.isalnum())


def name_from_folder(folder: str) -> str:
    """A folder name as words: "brush_hair" and "brush-hair" -> "brush hair"; "ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    spaced = "".join(" " + c if c.isupper() and i and folder[i - 1].islower() else c for i, c in enumerate(folder))
    return " ".join(spaced.replace("_", " ").replace("-", " ").split())
