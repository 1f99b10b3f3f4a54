"""Listings from class folders and from list files, and the share of training videos that is held out for validation.

The official annotations of known datasets are read in annotations.py.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from m2clip_lib.data.classes import name_from_folder
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

EXTENSIONS = {
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob"),
    *(".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".ogv", ".ogg", ".gif", ".mxf", ".y4m", ".h264", ".hevc", ".ivf"),
}
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.15, 0.15  # of a class's videos, for a folder without split folders
LAST_NUMBER = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # a line that ends with a number; what is before it may contain spaces


@dataclass(frozen=True)
class Listing:
    """Videos with labels, not yet opened. rows: (path, label, split); label is an index into class_names."""

    rows: list[tuple[Path, int, str]]
    class_names: list[str]


def list_folder(root: Path) -> Listing:
    """List root/<class>/* or root/<train|val|test>/<class>/*; without split folders each class is split by a hash of the file names.

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
    rows = []
    for (folder, split), files in sorted(groups.items()):
        named = [(file, split) for file in files] if split else _split_by_hash(files, root)
        rows += [(file, folders.index(folder), part) for file, part in named]
    return Listing(rows, class_names)


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


def _split_by_hash(files: list[Path], root: Path) -> list[tuple[Path, str]]:
    """Sort by a hash of the relative path, then cut: the same files give the same split on every machine."""
    ordered = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.relative_to(root))).hexdigest())
    tests = max(1, round(len(files) * TEST_SHARE)) if len(files) >= 2 else 0
    vals = max(1, round(len(files) * VAL_SHARE)) if len(files) >= 3 else 0
    parts = ["test"] * tests + ["val"] * vals
    parts += ["train"] * (len(files) - len(parts))
    return sorted(zip(ordered, parts, strict=True))


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


# What clips of one recording share. UCF101: class and group. HMDB51: everything before the shot's properties. Kinetics: the YouTube id.
SOURCES = (
    re.compile(r"(v_.+_g[0-9]+)_c[0-9]+"),
    re.compile(r"(.+)_[fhlu]_(?:cm|nm)_np[0-9]+_(?:ba|fr|le|ri)_(?:bad|med|goo)_[0-9]+"),
    re.compile(r"([\w-]{11})_[0-9]{6}_[0-9]{6}"),
)


def hold_out(listing: Listing, share: float, root: Path, numbered: bool = False) -> Listing:
    """Move a share of the training videos to validation if there is a training split and no validation split.

    Recordings are sorted by a hash of their name and taken until the share is reached: the same on every machine. A recording is skipped
    if its class would be left without a training video.

    Args:
        share: of the training videos, in [0, 1); 0 changes nothing.
        numbered: videos whose names differ only in their last number belong to one recording (HMDB51).
    """
    splits = {split for _, _, split in listing.rows}
    if not share or "train" not in splits or "val" in splits:
        return listing
    sources: dict[str, list[int]] = defaultdict(list)
    for i, (path, _, split) in enumerate(listing.rows):
        if split == "train":
            sources[source_of(path, root, numbered)].append(i)
    left = Counter(label for _, label, split in listing.rows if split == "train")
    wanted, held = round(share * left.total()), set()
    for _, rows in sorted(sources.items(), key=lambda item: hashlib.sha256(os.fsencode(item[0])).digest()):
        if len(held) >= wanted:
            break
        taken = Counter(listing.rows[i][1] for i in rows)
        if all(left[label] > count for label, count in taken.items()):
            held.update(rows)
            left -= taken
    rows = [(path, label, "val" if i in held else split) for i, (path, label, split) in enumerate(listing.rows)]
    return Listing(rows, listing.class_names)


def source_of(path: Path, root: Path, numbered: bool = False) -> str:
    """Name the recording that a video was cut from; its own path below root if the file name does not tell."""
    for pattern in SOURCES:
        if found := pattern.fullmatch(path.stem):
            return found[1]
    own = path.relative_to(root) if path.is_relative_to(root) else path
    return re.sub(r"[0-9]+$", "", own.with_suffix("").as_posix()) if numbered else own.as_posix()
