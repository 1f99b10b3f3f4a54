"""Listings from class folders and from list files; the official annotations of known datasets are read in annotations.py."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from m2clip_lib.data.classes import name_from_folder
from m2clip_lib.data.listing.recordings import EXTENSIONS, TEST_SHARE, VAL_SHARE, Listing, split_recordings, without_repeats
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAST_NUMBER = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # a line that ends with a number; what is before it may contain spaces


def list_folder(root: Path) -> Listing:
    """List root/<class>/* or root/<train|val|test>/<class>/*; without split folders the recordings are split by their names.

    Raises: UserError when the folder is missing, or holds no video in class folders.
    """
    if not root.is_dir():
        raise UserError(f"videos: no such folder: {root}; give the folder that holds one folder per class")
    children = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and any(videos_below(p))]
    named = [p for p in children if p.name.lower() in SPLIT_FOLDERS]
    has_splits = bool(named) and len(named) == len(children)
    if not has_splits and any(any(videos_below(folder)) for p in named for folder in p.iterdir() if folder.is_dir()):
        others = ", ".join(repr(p.name) for p in children if p not in named)
        raise UserError(
            f"videos: {root} holds split folders ({', '.join(p.name for p in named)}) and beside them {others} with videos: "
            "it is not clear which are classes; keep only splits there, or only classes"
        )
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for child in children:
        split = SPLIT_FOLDERS[child.name.lower()] if has_splits else ""
        for folder in sorted(p for p in child.iterdir() if p.is_dir()) if has_splits else [child]:
            groups[folder.name, split] += sorted(videos_below(folder))
    folders = sorted({folder for (folder, _), files in groups.items() if files})
    if not folders:
        raise UserError(f"videos: no class folder with videos ({', '.join(sorted(EXTENSIONS))}) in {root}; expected {root}/<class>/<video>")
    if len(folders) < 2:
        raise UserError(f"videos: only one class ({folders[0]!r}) in {root}; a classifier needs two or more class folders")
    class_names = [name_from_folder(folder) for folder in folders]
    for (first, name), (second, other) in combinations(zip(folders, class_names, strict=True), 2):
        if name == other:
            raise UserError(f"videos: folders {first!r} and {second!r} in {root} are both class {name!r}; merge them")
    rows = [(file, folders.index(folder), split) for (folder, split), files in sorted(groups.items()) for file in files]
    listing = without_repeats(Listing(rows, class_names))
    return listing if has_splits else split_recordings(listing, {"test": TEST_SHARE, "val": VAL_SHARE}, root)


def videos_below(folder: Path) -> Iterator[Path]:
    """Find the videos below a folder; links are followed, each folder is visited once.

    Names that begin with a dot are skipped: macOS writes such a twin beside a file, and caches are kept in such folders.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in [*folders, *files] if not name.startswith(".")):
            if path.suffix.lower() in EXTENSIONS:  # a folder with such a name is listed too, and gets a status
                yield path


def list_files(root: Path, lists: dict[str, Path], class_names: list[str]) -> Listing:
    """Read list files, one per split: `<path> <label>` or `<path> <frames> <label>`; labels start at 0 and index the class names.

    Paths are relative to root and may contain spaces: a line is split at its LAST blank.
    """
    rows = []
    for split, file in lists.items():
        for number, line in read_lines(file):
            found = LAST_NUMBER.fullmatch(line)
            if not found or int(found[2]) >= len(class_names):
                raise UserError(f"{file}:{number}: {line!r}: expected '<path> <label>' with a label from 0 to {len(class_names) - 1}")
            framed = LAST_NUMBER.fullmatch(found[1])
            has_frames = framed and Path(framed[1]).suffix.lower() in EXTENSIONS  # a number after a complete video file name
            rows.append((root / (framed if has_frames else found)[1], int(found[2]), split))
    return Listing(rows, class_names)
