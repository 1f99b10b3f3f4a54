"""The ways datasets lie on disk -> rows of (path, class, split), before any file is opened."""

import csv
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from m2clip_lib.data.labels import name_from_folder
from m2clip_lib.data.video import EXTENSIONS
from m2clip_lib.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.15, 0.15  # of a class's videos, where a folder comes without splits


@dataclass(frozen=True)
class Listing:
    """Videos with labels, not yet opened. rows: (path, label, split); label indexes class_names."""

    rows: list[tuple[Path, int, str]]
    class_names: list[str]


def list_folder(root: Path) -> Listing:
    """root/<class>/* or root/<train|val|test>/<class>/*. Without split folders each class is split by a hash of the file names.

    Raises: UserError when there is no such folder or no video in class folders.
    """
    if not root.is_dir():
        raise UserError(f"videos: no such folder: {root}; give the folder that holds one folder per class")
    children = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    has_splits = bool(children) and all(p.name.lower() in SPLIT_FOLDERS for p in children)
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for child in children:
        split = SPLIT_FOLDERS[child.name.lower()] if has_splits else ""
        for folder in sorted(p for p in child.iterdir() if p.is_dir()) if has_splits else [child]:
            groups[folder.name, split] += sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    folders = sorted({folder for (folder, _), files in groups.items() if files})
    if not folders:
        raise UserError(f"videos: no class folder with videos ({', '.join(sorted(EXTENSIONS))}) in {root}; expected {root}/<class>/<video>")
    if len(folders) < 2:
        raise UserError(f"videos: only one class ({folders[0]!r}) in {root}; a classifier needs two or more class folders")
    rows = []
    for (folder, split), files in sorted(groups.items()):
        named = [(file, split) for file in files] if split else _split_by_hash(files, root)
        rows += [(file, folders.index(folder), part) for file, part in named]
    return Listing(rows, [name_from_folder(folder) for folder in folders])


def _split_by_hash(files: list[Path], root: Path) -> list[tuple[Path, str]]:
    """Order by hash of the relative path, then cut: the same files give the same split on every machine."""
    ordered = sorted(files, key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).hexdigest())
    tests = max(1, round(len(files) * TEST_SHARE)) if len(files) >= 2 else 0
    vals = max(1, round(len(files) * VAL_SHARE)) if len(files) >= 3 else 0
    parts = ["test"] * tests + ["val"] * vals
    parts += ["train"] * (len(files) - len(parts))
    return sorted(zip(ordered, parts, strict=True))


def list_files(root: Path, lists: dict[str, Path], names_file: Path) -> Listing:
    """List files `<path> <label>` or `<path> <frames> <label>`, one a split; labels count from 0 and index the names file.

    Paths are relative to root and may hold spaces: a line is split at its LAST space.
    """
    class_names = read_names(names_file)
    rows = []
    for split, file in lists.items():
        for number, line in enumerate(_read_lines(file), start=1):
            path, _, label = line.rpartition(" ")
            if not path or not label.isdigit() or int(label) >= len(class_names):
                raise UserError(f"{file}:{number}: {line!r}: expected '<path> <label>' with a label from 0 to {len(class_names) - 1}")
            head, _, frames = path.rpartition(" ")
            if head and frames.isdigit() and Path(head).suffix.lower() in EXTENSIONS:
                path = head
            rows.append((root / path, int(label), split))
    return Listing(rows, class_names)


def list_kinetics(root: Path, tables: dict[str, Path]) -> Listing:
    """Kinetics CSV (label, youtube_id, time_start, time_end): files lie flat or in class folders, with or without the times."""
    entries = []
    for split, file in tables.items():
        _read_lines(file)
        with file.open(newline="") as handle:
            entries += [(row, split) for row in csv.DictReader(handle)]
    class_names = sorted({row["label"] for row, _ in entries})
    rows = []
    for row, split in entries:
        video = row["youtube_id"]
        timed = f"{video}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}.mp4"
        places = [root / folder / name for folder in (row["label"], row["label"].replace(" ", "_"), "") for name in (timed, f"{video}.mp4")]
        rows.append((next((p for p in places if p.exists()), places[0]), class_names.index(row["label"]), split))
    return Listing(rows, class_names)


def list_ssv2(root: Path, tables: dict[str, Path], labels_file: Path) -> Listing:
    """Something-Something v2: JSON lists of {id, template with [something]}, labels.json, files <id>.webm."""
    labels = {name: int(label) for name, label in json.loads("".join(_read_lines(labels_file))).items()}
    rows = []
    for split, file in tables.items():
        for entry in json.loads("".join(_read_lines(file))):
            template = entry["template"].replace("[", "").replace("]", "")
            if template not in labels:
                raise UserError(f"{file}: video {entry['id']}: template {template!r} is not in {labels_file}")
            rows.append((root / f"{entry['id']}.webm", labels[template], split))
    return Listing(rows, sorted(labels, key=labels.__getitem__))


def read_names(file: Path) -> list[str]:
    """One class name a line; a name's line number is its label, counted from 0."""
    return [line.strip() for line in _read_lines(file) if line.strip()]


def _read_lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"annotations: no such file: {file}; set its path in the data section of the experiment")
    return file.read_text(encoding="utf-8").splitlines()
