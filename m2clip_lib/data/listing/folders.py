"""Listings from class folders and from list files; the official annotations of known datasets are read in annotations.py."""

import os
import re
import unicodedata
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from m2clip_lib.csvfiles import find_header, split_row
from m2clip_lib.data.classes import class_key, name_from_folder, refuse_lookalikes
from m2clip_lib.data.listing.recordings import TEST_SHARE, VAL_SHARE, Listing, split_recordings, without_repeats
from m2clip_lib.data.listing.walk import EXTENSIONS, NO_VIDEO, PassedOver, passed_over, subfolders, utf_8_name, videos_below
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test"}
SPLIT_FOLDERS |= dict.fromkeys(("val", "valid", "validate", "validation"), "val")
PATH_WORDS = {"path", "paths", "file", "filename", "filepath", "video", "videofile", "videoname", "videopath", "clip", "clippath"}
LABEL_WORDS = {"label", "labels", "labelid", "labelindex", "class", "classid", "classindex", "index", "target", "y"}
FRAMES_WORDS = {"frames", "numframes", "nframes", "totalframes", "framecount"}
LAST_NUMBER = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # a line that ends with a number; what is before it may contain spaces


def list_folder(root: Path) -> Listing:
    """List root/<class>/*, root/<train|val|test>/<class>/* or root/<class>/<train|val|test>/*; else recordings are split by their names.

    Raises: UserError when the folder is missing, or holds no video in class folders, or it is not clear what is a split or a class.
    """
    if not root.is_dir():
        raise UserError(f"videos: no such folder: {root}; give the folder that holds one folder per class")
    passed: PassedOver = defaultdict(list)
    found = {child: sorted(videos_below(child, passed)) for child in subfolders(root, passed)}
    passed["videos outside class folders"] += [path for path in root.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file()]
    children = [child for child, files in found.items() if files]
    named = [child for child in children if child.name.lower() in SPLIT_FOLDERS]
    has_splits = bool(named) and len(named) == len(children)
    if not has_splits and any(file.parent != child for child in named for file in found[child]):
        others = ", ".join(repr(p.name) for p in children if p not in named)
        mixed = f"split folders ({', '.join(p.name for p in named)}) and beside them {others} with videos"
        raise UserError(f"videos: {root} holds {mixed}: it is not clear which are classes; keep only splits there, or only classes")
    of_class: dict[Path, list[Path]] = {} if has_splits else found
    for child in children if has_splits else []:
        of_class |= {folder: [file for file in found[child] if folder in file.parents] for folder in subfolders(child, defaultdict(list))}
        passed["videos outside class folders"] += [file for file in found[child] if file.parent == child and file.is_file()]
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for folder, files in of_class.items():
        split, name = SPLIT_FOLDERS[folder.parent.name.lower()] if has_splits else "", utf_8_name(folder)
        for file in files:
            inner = {SPLIT_FOLDERS[part.lower()] for part in file.relative_to(folder).parts[:-1] if part.lower() in SPLIT_FOLDERS}
            if len(inner) > 1 or (split and inner - {split}):
                raise UserError(f"videos: {file} lies in folders of different splits; keep one split folder above each video")
            groups[name, split or "".join(inner)].append(file)
        if not files:
            passed[NO_VIDEO].append(folder)
    splits = {split for _, split in groups}
    if "" in splits and len(splits) > 1:
        examples = [next(files[0] for (_, split), files in groups.items() if bool(split) == kind) for kind in (True, False)]
        mixed = f"some videos are in split folders inside their class folder ({examples[0]}), others are not ({examples[1]})"
        raise UserError(f"videos: {mixed}: put every video of every class into a split folder, or none")
    folders = sorted({folder for folder, _ in groups})
    if not folders:
        raise UserError(f"videos: no class folder with videos ({', '.join(sorted(EXTENSIONS))}) in {root}; expected {root}/<class>/<video>")
    if len(folders) < 2:
        raise UserError(f"videos: only one class ({folders[0]!r}) in {root}; a classifier needs two or more class folders")
    class_names = [name_from_folder(folder) or class_key(folder) for folder in folders]
    for (first, name), (second, other) in combinations(zip(folders, class_names, strict=True), 2):
        if name == other and class_key(first) != class_key(second):
            raise UserError(f"videos: folders {first!r} and {second!r} in {root} are both class {name!r}; merge them")
    refuse_lookalikes([*folders, *class_names], f"videos: folders in {root}")
    rows = [(file, folders.index(folder), split) for (folder, split), files in sorted(groups.items()) for file in files]
    listing = without_repeats(Listing(rows, class_names, passed=passed_over(passed, root)))
    return split_recordings(listing, {"test": TEST_SHARE, "val": VAL_SHARE}, root) if splits == {""} else listing


def list_files(root: Path, lists: dict[str, Path], class_names: list[str]) -> Listing:
    """Read list files, one per split: `<path> <label>` or `<path> <frames> <label>`; labels start at 0 and index the class names.

    Paths are relative to root and may contain spaces: a line is split at its LAST blank. A header with known columns, in any order, is
    understood, and with it commas, semicolons or tabs between them.
    """
    rows = []
    for split, file in lists.items():
        lines = read_lines(file)
        header = find_header(lines[0][1], PATH_WORDS | LABEL_WORDS | FRAMES_WORDS) if lines else None
        if header and not all(any(head in words for head in header[1]) for words in (PATH_WORDS, LABEL_WORDS)):
            raise UserError(f"{file}:{lines[0][0]}: {lines[0][1]!r}: expected the columns path and label in the header")
        for number, line in lines[bool(header) :]:
            path, label = _cells_of(line, *header) if header else _split_line(line)
            if not re.fullmatch("[0-9]+", label) or int(label) >= len(class_names) or not path:
                raise UserError(f"{file}:{number}: {line!r}: expected '<path> <label>' with a label from 0 to {len(class_names) - 1}")
            rows.append((as_stored(root, path), int(label), split))
    return Listing(rows, class_names)


def _split_line(line: str) -> tuple[str, str]:
    """Split "<path> <label>" or "<path> <frames> <label>" into path and label; ("", "") if the line has neither form."""
    found = LAST_NUMBER.fullmatch(line)
    if not found:
        return "", ""
    framed = LAST_NUMBER.fullmatch(found[1])
    has_frames = framed and Path(framed[1]).suffix.lower() in EXTENSIONS  # a number after a complete video file name
    return (framed if has_frames else found)[1], found[2]


def _cells_of(line: str, separator: str, heads: list[str]) -> tuple[str, str]:
    """Split a line of a list into path and label as its header says; ("", "") if it has fewer cells."""
    path, label = (next(i for i, head in enumerate(heads) if head in words) for words in (PATH_WORDS, LABEL_WORDS))
    cells = split_row(line, separator, len(heads), wide=path)
    return (cells[path], cells[label]) if cells else ("", "")


def as_stored(root: Path, path: str) -> Path:
    """Return the path with the bytes that the file has on disk: macOS stores other ones for accents than lists have."""
    forms = [root / path, *(root / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return forms[0] if path.isascii() else next((form for form in forms if os.path.exists(form)), forms[0])  # noqa: PTH110 (never raises)
