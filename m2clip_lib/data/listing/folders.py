"""Listings from class folders and from list files, and the splits of a dataset that brings none, or no validation.

The official annotations of known datasets are read in annotations.py.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, combinations
from pathlib import Path

from m2clip_lib.csvfiles import find_header, split_cells
from m2clip_lib.data.classes import SPLITS, class_key, loose_key, name_from_folder, refuse_lookalikes
from m2clip_lib.data.listing.walk import EXTENSIONS, NO_VIDEO, PassedOver, passed_over, subfolders, utf_8_name, videos_below
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.15, 0.15  # of the recordings, for a folder without split folders
PATH_WORDS = {"path", "paths", "file", "filename", "filepath", "video", "videofile", "videoname", "videopath", "clip", "clippath"}
LABEL_WORDS = {"label", "labels", "labelid", "labelindex", "class", "classid", "classindex", "index", "target", "y"}
FRAMES_WORDS = {"frames", "numframes", "nframes", "totalframes", "framecount"}
LAST_NUMBER = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # a line that ends with a number; what is before it may contain spaces


@dataclass(frozen=True)
class Listing:
    """Videos with labels, not yet opened.

    rows: (path, label, split); label is an index into class_names. notes: what listing them decided, one line each.
    passed: what was passed over, one line per reason.
    """

    rows: list[tuple[Path, int, str]]
    class_names: list[str]
    notes: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()


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
        raise UserError(
            f"videos: {root} holds split folders ({', '.join(p.name for p in named)}) and beside them {others} with videos: "
            "it is not clear which are classes; keep only splits there, or only classes"
        )
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
        raise UserError(
            f"videos: some videos are in split folders inside their class folder ({examples[0]}), others are not ({examples[1]}): "
            "put every video of every class into a split folder, or none"
        )
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
    return _split_recordings(listing, {"test": TEST_SHARE, "val": VAL_SHARE}, root) if splits == {""} else listing


def real_paths(paths: Iterable[Path]) -> list[Path]:
    """Where each path leads, links followed. A folder is looked up once: a dataset has many videos in few folders."""

    @cache
    def real(path: Path) -> Path:
        try:
            return Path(os.path.realpath(path))
        except ValueError:  # a name that no file can have: the scan gives the reason
            return path

    # is_symlink would raise for a name that is too long
    # A link to a device or a folder is no video, and stays what it is called.
    paths = list(paths)
    linked = [os.path.islink(path) and os.path.isfile(path) for path in paths]  # noqa: PTH113, PTH114
    return [real(path) if link else real(path.parent) / path.name for path, link in zip(paths, linked, strict=True)]


def without_repeats(listing: Listing) -> Listing:
    """Keep the first of several rows with the same file (links followed), label and split; a note says how many repeat another."""
    first: dict[tuple, tuple[Path, int, str]] = {}
    for place, row in zip(real_paths(path for path, *_ in listing.rows), listing.rows, strict=True):
        first.setdefault((place, *row[1:]), row)
    repeats = len(listing.rows) - len(first)
    note = f"lists: {repeats} lines repeat a video; each counts once"
    return replace(listing, rows=list(first.values()), notes=(*listing.notes, note)) if repeats else listing


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
            rows.append((_as_stored(root, path), int(label), split))
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
    """Split a line of a list into path and label as its header says; ("", "") if it has another number of cells."""
    if separator == " " and heads[-1] in LABEL_WORDS:
        return _split_line(line)
    cells = line.split(maxsplit=len(heads) - 1) if separator == " " else split_cells(line, separator)
    of = {"path" if head in PATH_WORDS else "label" if head in LABEL_WORDS else "": cell for head, cell in zip(heads, cells, strict=False)}
    return (of["path"], of["label"]) if len(cells) == len(heads) else ("", "")


def _as_stored(root: Path, path: str) -> Path:
    """The path with the bytes that the file has on disk: macOS stores other ones for accents than lists have."""
    forms = [root / path, *(root / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return forms[0] if path.isascii() else next((form for form in forms if os.path.exists(form)), forms[0])  # noqa: PTH110 (never raises)


# What clips of one recording share, tried in this order.
SOURCES = (
    re.compile(r"(v_.+_g[0-9]+)_c[0-9]+"),  # UCF101: class and group
    re.compile(r"(.+)_[fhlu]_(?:cm|nm)_np[0-9]+_(?:ba|fr|le|ri)_(?:bad|med|goo)_[0-9]+"),  # HMDB51: all but the shot's properties
    re.compile(r"(.+)_0[0-9]{5}_0[0-9]{5}"),  # Kinetics: the YouTube id, without start and end in seconds
    re.compile(r"(.+?)[ _-]+(?:clip|part|scene|segment|seg|chunk)[ _-]*[0-9]+", re.IGNORECASE),  # party_clip3
    re.compile(r"(?!.*[0-9]{4}-[0-9]{2}-[0-9]{2}$)(.*[0-9])[ _-][a-zA-Z]?[0-9]{1,5}"),  # video-01_002; not the day of a date
)


def source_of(path: Path, root: Path, numbered: bool = False) -> str:
    """Name the recording that a video was cut from; its own path below root, without its ending, if the file name does not tell.

    A name that says no more than the class, or nothing, is no recording: `clip 3`, `003` and `ski/ski_003` are recordings of their own.

    Args:
        numbered: videos whose names differ only in their last number belong to one recording (HMDB51).
    """
    own = path.relative_to(root) if path.is_relative_to(root) else path
    own = own.with_suffix("") if own.suffix.lower() in EXTENSIONS else own
    found = next(filter(None, (pattern.fullmatch(own.name) for pattern in SOURCES)), None)
    if found and loose_key(found[1]) not in ("", loose_key(path.parent.name)):
        name = found[1]
    else:
        name = re.sub(r"[0-9]+$", "", own.as_posix()) if numbered else own.as_posix()
    return class_key(name)  # macOS stores other bytes for the same name


def hold_out(listing: Listing, share: float, root: Path, numbered: bool = False) -> Listing:
    """Move a share of the training recordings to validation if there is a training split and no validation split.

    Args:
        share: of the recordings, in [0, 1); 0 changes nothing.
        numbered: see source_of.
    """
    splits = {split for _, _, split in listing.rows}
    if not share or "train" not in splits or "val" in splits:
        return listing
    return _split_recordings(listing, {"val": share}, root, numbered, among="train")


def _split_recordings(listing: Listing, shares: dict[str, float], root: Path, numbered: bool = False, among: str = "") -> Listing:
    """Give each recording of the split `among` to one of `shares` or to training, by a hash of its own name.

    So a recording is never torn, more videos or classes leave the others where they are, and it is the same on every machine. Only where
    names leave a class without a training video, or a split empty, does a recording move; a note says so.
    """
    videos: dict[str, list[int]] = defaultdict(list)
    for i, (path, _, split) in enumerate(listing.rows):
        if split == among:
            videos[source_of(path, root, numbered)].append(i)
    place = {name: int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64 for name in videos}
    order, limits = sorted(videos, key=place.__getitem__), list(zip(accumulate(shares.values()), shares, strict=True))
    named = {name: next((split for limit, split in limits if place[name] < limit), "train") for name in order}
    parts, labels = dict(named), {name: {listing.rows[i][1] for i in rows} for name, rows in videos.items()}
    for label in sorted(set().union(*labels.values())):
        of_class = [name for name in order if label in labels[name]]
        if all(parts[name] != "train" for name in of_class):
            parts[of_class[-1]] = "train"
    for split in [split for split, share in shares.items() if not among or round(share * len(videos))]:
        left = Counter(label for name, part in parts.items() if part == "train" for label in labels[name])
        spare = (name for name in order if parts[name] == "train" and all(left[label] > 1 for label in labels[name]))
        if split not in parts.values() and (name := next(spare, None)):
            parts[name] = split
    split_of = {i: parts[name] for name, rows in videos.items() for i in rows}
    rows = [(path, label, split_of.get(i, split)) for i, (path, label, split) in enumerate(listing.rows)]
    counts, recordings = Counter(split_of.values()), Counter(parts.values())
    note = "splits: " + ", ".join(f"{split} {counts[split]} videos of {recordings[split]} recordings" for split in SPLITS if counts[split])
    moved = sum(parts[name] != named[name] for name in order)
    if moved:
        note += f"; {moved} of them fill a split or class that would have none, and may move when there are more"
    return replace(listing, rows=rows, notes=(*listing.notes, note))
