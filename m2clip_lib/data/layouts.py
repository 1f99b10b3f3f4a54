"""The ways datasets lie on disk -> rows of (path, class, split), before any file is opened."""

import csv
import hashlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from m2clip_lib.data.labels import name_from_folder
from m2clip_lib.data.probe import EXTENSIONS
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
    class_names = [name_from_folder(folder) for folder in folders]
    for first, second in combinations(range(len(folders)), 2):
        if class_names[first] == class_names[second]:
            raise UserError(
                f"videos: folders {folders[first]!r} and {folders[second]!r} in {root} are both class {class_names[first]!r}; merge them"
            )
    rows = []
    for (folder, split), files in sorted(groups.items()):
        named = [(file, split) for file in files] if split else _split_by_hash(files, root)
        rows += [(file, folders.index(folder), part) for file, part in named]
    return Listing(rows, class_names)


def _split_by_hash(files: list[Path], root: Path) -> list[tuple[Path, str]]:
    """Order by hash of the relative path, then cut: the same files give the same split on every machine."""
    ordered = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.relative_to(root))).hexdigest())
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
            if not line.strip():
                continue
            path, _, label = line.strip().rpartition(" ")
            if not path or not _is_number(label) or int(label) >= len(class_names):
                raise UserError(f"{file}:{number}: {line!r}: expected '<path> <label>' with a label from 0 to {len(class_names) - 1}")
            head, _, frames = path.rpartition(" ")
            if head and _is_number(frames) and Path(head).suffix.lower() in EXTENSIONS:
                path = head
            rows.append((root / path, int(label), split))
    return Listing(rows, class_names)


def list_kinetics(root: Path, tables: dict[str, Path]) -> Listing:
    """Kinetics CSV (label, youtube_id, time_start, time_end): files lie flat or in class folders, with or without the times."""
    entries = []
    for split, file in tables.items():
        for number, row in enumerate(csv.DictReader(_read_lines(file)), start=2):
            try:
                times = f"{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
                entries.append((row["label"].strip(), row["youtube_id"].strip(), times, split))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{file}:{number}: expected columns label, youtube_id, time_start, time_end; found {row}") from error
    class_names = sorted({label for label, *_ in entries})
    rows = []
    for label, video, times, split in entries:
        files = (f"{video}_{times}.mp4", f"{video}.mp4")
        places = [root / folder / name for folder in (label, label.replace(" ", "_"), "") for name in files]
        rows.append((next((p for p in places if p.exists()), places[0]), class_names.index(label), split))
    return Listing(rows, class_names)


def list_ssv2(root: Path, tables: dict[str, Path], labels_file: Path) -> Listing:
    """Something-Something v2: JSON lists of {id, template with [something]}, labels.json, files <id>.webm."""
    content = _read_json(labels_file)
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
        raise UserError(f"{labels_file}: expected an object that maps each template to a number, 0 to {len(content) - 1} once each")
    labels = {name: int(label) for name, label in content.items()}
    rows = []
    for split, file in tables.items():
        entries = _read_json(file)
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
            if not isinstance(entry, dict) or not {"id", "template"} <= entry.keys():
                raise UserError(f"{file}: entry {number}: expected a list of objects with 'id' and 'template'")
            template = entry["template"].replace("[", "").replace("]", "")
            if template not in labels:
                raise UserError(f"{file}: video {entry['id']}: template {template!r} is not in {labels_file}")
            rows.append((root / f"{entry['id']}.webm", labels[template], split))
    return Listing(rows, sorted(labels, key=labels.__getitem__))


def check_labels_in_paths(listing: Listing) -> None:
    """Compare each label with the class that the path carries, where its folder is named like a class.

    Raises: UserError with counts and three examples when they disagree: names and list do not belong together.
    """
    places = {name_from_folder(name).lower(): label for label, name in enumerate(listing.class_names)}
    wrong, checked = [], 0
    for path, label, _ in listing.rows:
        said = places.get(name_from_folder(path.parent.name).lower())
        checked += said is not None
        if said is not None and said != label:
            wrong.append(f"{path.parent.name}/{path.name} is labelled {listing.class_names[label]!r}")
    if wrong:
        raise UserError(
            f"labels: {len(wrong)} of {checked} videos lie in the folder of another class than their label names: {'; '.join(wrong[:3])}; "
            "the list and the class names do not belong together: check names file and label order"
        )


def read_names(file: Path) -> list[str]:
    """One class name a line; a name's line number is its label, counted from 0."""
    return [line.strip() for line in _read_lines(file) if line.strip()]


def _read_lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"annotations: no such file: {file}; set its path in the data section of the experiment")
    return file.read_text(encoding="utf-8-sig").splitlines()


def _read_json(file: Path) -> object:
    try:
        return json.loads("\n".join(_read_lines(file)))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
