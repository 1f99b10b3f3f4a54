"""The names of splits and classes: class names from a file or from torchvision, their digest, and their spellings as folders."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.csvfiles import SEPARATORS, find_header, split_cells, split_row, squeezed
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

SPLITS = ("train", "val", "test")
KINETICS_400 = "kinetics400"  # as data.names_file: no file needed
# What the columns of a list of classes are called, squeezed; "label" and "class" may be either.
INDEX_WORDS = {"", "id", "idx", "index", "number", "no", "target"}
INDEX_WORDS |= {a + b for a in ("class", "label") for b in ("id", "idx", "index", "number")}
NAME_WORDS = {"name", "names", "category", "categories", "action", "actions", "activity", "activities"}
NAME_WORDS |= {a + b for a in ("class", "label", "category", "action", "activity") for b in ("name", "names")}
EITHER_WORDS = {"label", "labels", "class", "classes"}


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

    Four forms: one name per line; one `<index> <name>` per line; a table of indices and names with a known header; the same without
    header. Columns are separated by commas, semicolons or tabs, in any order. Indices may start at 0 or 1 and come in any order.
    Raises: UserError when the form is not recognised, two names are one, or the indices have gaps.
    """
    lines = read_lines(file)
    if not lines:
        raise UserError(f"{file}: no class names; expected one per line")
    names = _table(file, lines) or _plain(file, lines)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"{file}: class name {twice!r} appears twice; class names must be unique")
    refuse_lookalikes(names, str(file))
    return [class_key(name) for name in names]


def _table(file: Path, lines: list[tuple[int, str]]) -> list[str]:
    """The names of a table of indices and names; none if the file is no such table."""
    texts = [line for _, line in lines]
    if found := find_header(texts[0], INDEX_WORDS | EITHER_WORDS | NAME_WORDS):
        separator, heads = found
        ranks = [0 if head in INDEX_WORDS else 1 if head in EITHER_WORDS else 2 for head in heads]
        # In "label,class" the indices are in the only column of numbers.
        places = [i for i in (0, 1) if ranks[i] == min(ranks) and (ranks != [1, 1] or _numbered(_rows(texts[1:], separator, i)))]
        if len(heads) != 2 or len(places) != 1:
            raise _unknown(file, *lines[0])
        rows = _rows(texts[1:], separator, places[0])
        if not rows or (separator == " " and not _numbered(rows)):
            raise _unknown(file, *lines[0])
        if ("", "") in rows:
            number, line = lines[1 + rows.index(("", ""))]
            raise UserError(f"{file}:{number}: {line!r}: expected an index and a name, as the header {texts[0]!r} says")
        return _in_order(file, rows)
    for separator in (*SEPARATORS, " "):
        first, last = (_rows(texts, separator, index) for index in (0, 1))
        if _numbered(first):
            return _in_order(file, first)
        if separator != " " and _complete(last):
            return _in_order(file, last)
        headed = _complete(first[1:]) or (separator != " " and _complete(last[1:]))
        numbers_or_names = _complete(last) and len({name for _, name in last}) == len(last)  # "run 0", but not "step 1", "step 2"
        if numbers_or_names or (headed and len(texts) > 2):
            raise _unknown(file, *lines[0])
    return []


def _plain(file: Path, lines: list[tuple[int, str]]) -> list[str]:
    """The names of a file with one name per line, under a header or none."""
    texts = [line for _, line in lines]
    first, known = texts[0], INDEX_WORDS | EITHER_WORDS | NAME_WORDS
    separators = [separator for separator in SEPARATORS if all(separator in line for line in texts)]
    has_columns = any(squeezed(cell) in known for separator in separators for cell in first.split(separator)[1:])
    is_json = first[0] + texts[-1][-1] in ("{}", "[]")
    if has_columns or is_json or first.startswith(("# ", "//")) or all(text.startswith("- ") for text in texts):
        raise _unknown(file, *lines[0])
    if all(len(text) > 1 and text[0] == text[-1] == '"' for text in texts):
        texts = [split_cells(text, ",")[0] for text in texts]
    if squeezed(texts[0]) not in EITHER_WORDS | NAME_WORDS:
        return texts
    if len(texts) == 1 or _table(file, lines[1:]):
        raise _unknown(file, *lines[0])
    return texts[1:]


def _unknown(file: Path, number: int, line: str) -> UserError:
    known = "one name per line, or a table headed 'index,name' with an index from 0 and a name on each line"
    return UserError(f"{file}:{number}: {line!r}: this file's form is not known; write {known}")


def _rows(lines: list[str], separator: str, index: int) -> list[tuple[str, str]]:
    """Split lines into (index, name), where the column of the indices is given; ("", "") for a line that does not hold both."""
    rows = [split_row(line, separator, 2, wide=1 - index) for line in lines]
    return [(row[index].rstrip(".:)"), row[1 - index]) if row and all(row) else ("", "") for row in rows]


def _numbered(rows: list[tuple[str, str]]) -> bool:
    return all(re.fullmatch("[0-9]+", index) for index, _ in rows)


def _complete(rows: list[tuple[str, str]]) -> bool:
    """Whether the indices are 0 to n-1, or 1 to n, once each."""
    return _numbered(rows) and sorted(int(index) for index, _ in rows) in ([*range(len(rows))], [*range(1, len(rows) + 1)])


def _in_order(file: Path, rows: list[tuple[str, str]]) -> list[str]:
    if not _complete(rows):
        wanted = f"0 to {len(rows) - 1} (or 1 to {len(rows)}) once each"
        raise UserError(f"{file}: {len(rows)} lines begin with a number, but these are not {wanted}; correct the numbers, or remove all")
    return [name for _, name in sorted(rows, key=lambda row: int(row[0]))]


def labels_sha256(class_names: Sequence[str]) -> str:
    """Return a digest of the names in order: two runs with the same digest give every label the same meaning."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def class_key(name: str) -> str:
    """Return what makes two names the same class: the exact name, whichever way its accents are stored (macOS stores other bytes)."""
    return unicodedata.normalize("NFC", name)


def loose_key(name: str) -> str:
    """Return a key shared by the usual spellings of a name as a folder: "hurling (sport)", "Hurling_Sport" and "HurlingSport".

    Signs that tell classes apart stay: "C++" and "C#", "volume +" and "volume -" have keys of their own.
    """
    inner = re.sub(r"(?<=\w)-+(?=\w)", "", class_key(name).casefold().replace("_", " "))
    kept = (c for c in inner if c in "-#%&@*" or not (c.isspace() or unicodedata.category(c)[0] == "P"))
    return "".join(kept)


def class_finder(class_names: Sequence[str]) -> Callable[[str], int | None]:
    """Return a function from a name or folder to its label: the same name, or else the only one with the same loose key."""
    exact = {class_key(name): label for label, name in enumerate(class_names)}
    keys = Counter(map(loose_key, class_names))
    loose = {key: label for label, key in enumerate(map(loose_key, class_names)) if key and keys[key] == 1}
    return cache(lambda name: exact.get(class_key(name), loose.get(loose_key(name))))


def refuse_lookalikes(names: Iterable[str], where: str) -> None:
    """Raises: UserError when two names differ only in how accents are stored, capitals, blanks or characters without width."""
    seen: dict[str, str] = {}
    for name in names:
        visible = "".join(c for c in class_key(name).casefold() if unicodedata.category(c) != "Cf")
        other = seen.setdefault(class_key(" ".join(visible.split())), name)
        if other != name:
            show = ascii if class_key(other) == class_key(name) else repr
            raise UserError(f"{where}: {show(other)} and {show(name)} look like one class; give them one spelling, or two clear names")


def name_from_folder(folder: str) -> str:
    """Turn a folder name into words: "brush_hair" and "brush-hair" -> "brush hair"; "ApplyEyeMakeup" -> "Apply Eye Makeup".

    A hyphen that joins no words is a sign: "volume -" and "-1" stay.
    """
    folder = class_key(folder)
    spaced = "".join(" " + c if c.isupper() and i and folder[i - 1].islower() else c for i, c in enumerate(folder))
    return " ".join(re.sub(r"(?<=\w)-+(?=\w)", " ", spaced.replace("_", " ")).split())
