"""Listings from the official annotation files of Kinetics, Something-Something v2, UCF101, HMDB51 and Kinetics-600 zero-shot."""

import csv
import re
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from m2clip_lib.csvfiles import SEPARATORS, squeezed
from m2clip_lib.data.classes import class_finder, class_key, loose_key, name_from_folder, read_names, refuse_lookalikes
from m2clip_lib.data.listing.folders import LAST_NUMBER, SPLIT_FOLDERS, list_files
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.listing.walk import passed_over, videos_below
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json, read_lines, read_text

HMDB51_SPLITS = {"1": "train", "2": "test", "0": ""}  # 0: not used in this split


def read_kinetics_table(file: Path) -> list[tuple[str, str, str, str]]:
    """Read a Kinetics CSV into rows (class name, YouTube id, "<start:06d>_<end:06d>", split; "" without that column)."""
    entries, lines = [], read_text(file).split("\n")
    table = csv.DictReader(lines, delimiter=max(SEPARATORS, key=lines[0].count), skipinitialspace=True)
    table.fieldnames = [squeezed(head) for head in table.fieldnames or ()]
    for number, row in enumerate(table, start=2):
        try:
            times = f"{int(float(row['timestart'])):06d}_{int(float(row['timeend'])):06d}"
            split = (row.get("split") or "").strip().lower()
            entries.append((class_key(row["label"].strip()), row["youtubeid"].strip(), times, SPLIT_FOLDERS.get(split, split)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{file}:{number}: expected columns label, youtube_id, time_start, time_end; found {row}") from error
    return entries


def list_kinetics(root: Path, tables: dict[str, Path]) -> Listing:
    """List Kinetics from its CSV: files of any kind, with or without the times in their names, anywhere below root.

    From a table that holds several splits only the rows of the wanted split are taken.
    """
    entries = [(*entry, split) for split, file in tables.items() for entry in _of_split(file, split)]
    class_names = sorted({label for label, *_ in entries})
    labels = {name: label for label, name in enumerate(class_names)}
    refuse_lookalikes(class_names, ", ".join(map(str, tables.values())))
    by_stem, passed = _videos_by_stem(root)
    rows = []
    for name, video, times, split in entries:
        found = by_stem.get(f"{video}_{times}") or by_stem.get(video) or [root / name / f"{video}_{times}.mp4"]
        rows.append((min(found, key=lambda path: _misfit(path, name, split)), labels[name], split))
    return Listing(rows, class_names, passed=passed)


def _videos_by_stem(root: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """The videos below a folder by their names without ending, and what was passed over; looking up every spelling would take longer."""
    by_stem, passed = defaultdict(list), defaultdict(list)
    for path in videos_below(root, passed):
        by_stem[path.stem].append(path)
    return by_stem, passed_over(passed, root)


def _of_split(file: Path, split: str) -> list[tuple[str, str, str]]:
    entries = read_kinetics_table(file)
    found = {entry[3] for entry in entries}
    trusted = len(found) == 1 and not (split == "train" and found & {"val", "test"})  # many evaluate on validation; nobody trains on test
    mine = [entry[:3] for entry in entries if trusted or entry[3] == split]
    if entries and not mine:
        others = ", ".join(map(repr, sorted(found)))
        raise UserError(f"{file}: given for {split!r}, but its column 'split' says {others}; give a table of that split")
    return mine


def _misfit(path: Path, name: str, split: str) -> tuple[bool, bool, Path]:
    """Sort key of files with the same name: the one in the folder of its class and split comes first."""
    folders = {loose_key(folder) for folder in path.parent.parts[-3:]}
    splits = {SPLIT_FOLDERS[folder] for folder in folders if folder in SPLIT_FOLDERS}
    return loose_key(name) not in folders, bool(splits) and split not in splits, path


def list_ssv2(root: Path, tables: dict[str, Path], labels_file: Path) -> Listing:
    """List Something-Something v2: JSON lists of {id, template with [something]}, labels.json, files <id>.webm or of any kind."""
    content = read_json(labels_file)
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
        expected = f", 0 to {len(content) - 1} once each" if isinstance(content, dict) else ""
        raise UserError(f"{labels_file}: expected an object that maps each template to a number{expected}")
    labels = {class_key(name): int(label) for name, label in content.items()}
    refuse_lookalikes(content, str(labels_file))
    rows, (by_stem, passed) = [], _videos_by_stem(root)
    for split, file in tables.items():
        entries = read_json(file)
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
            if not isinstance(entry, dict) or not {"id", "template"} <= entry.keys():
                raise UserError(f"{file}: entry {number}: expected a list of objects with 'id' and 'template'")
            template = class_key(str(entry["template"])).replace("[", "").replace("]", "")
            if template not in labels:
                raise UserError(f"{file}: video {entry['id']}: template {template!r} is not in {labels_file}")
            found = by_stem.get(str(entry["id"]), [root / f"{entry['id']}.webm"])
            rows.append((min(found, key=lambda path: (path.parent != root, path.suffix != ".webm", path)), labels[template], split))
    return Listing(rows, sorted(labels, key=labels.__getitem__), passed=passed)


def ucf101_files(annotations: Path, official_split: int) -> dict[str, Path]:
    """Return the annotation files of one official split of UCF101."""
    names = {"names": "classInd.txt", "train": f"trainlist{official_split:02d}.txt", "test": f"testlist{official_split:02d}.txt"}
    return {part: annotations / name for part, name in names.items()}


def list_ucf101(root: Path, annotations: Path, official_split: int) -> Listing:
    """List UCF101: `Class/v_Class_g01_c01.avi 1` (labels start at 1) for training, without a label for test, classInd.txt.

    Videos are in class folders or in one folder. The label of a test video is that of its folder.
    """
    files = ucf101_files(annotations, official_split)
    folders = read_names(files["names"])
    label_of = class_finder(folders)
    rows, (by_stem, passed) = [], _videos_by_stem(root)
    for split in ("train", "test"):
        for number, line in read_lines(files[split]):
            labelled = LAST_NUMBER.fullmatch(line)
            path = labelled[1] if labelled else line
            folder = PureWindowsPath(path).parent.name  # accepts / and \
            place = int(labelled[2]) - 1 if labelled else label_of(folder)
            if place is None or not 0 <= place < len(folders) or (split == "train" and not labelled):
                form = f"<Class>/<file>{' <label>' if split == 'train' else ''}"
                expected = f"'{form}' with a class of {files['names'].name}, 1 to {len(folders)}"
                raise UserError(f"{files[split]}:{number}: {line!r}: expected {expected}")
            rows.append((_as_found([root / path, root / Path(path).name], by_stem), place, split))
    return Listing(rows, [name_from_folder(name) for name in folders], passed=passed)


def hmdb51_files(annotations: Path, official_split: int) -> dict[str, Path]:
    """Map class folders to the file of one official split of HMDB51. Raises: UserError when a class has files for other splits only."""
    files = sorted(annotations.glob("*_test_split[123].txt"))
    if not files:
        raise UserError(f"annotations: no <class>_test_split{official_split}.txt in {annotations}; set data.annotations to their folder")
    found = {file.stem.rpartition("_test")[0]: file.with_stem(f"{file.stem[:-1]}{official_split}") for file in files}
    missing = next((file for file in found.values() if file not in files), None)
    if missing:
        raise UserError(f"annotations: {missing} is missing; the other splits exist")
    return found


def list_hmdb51(root: Path, annotations: Path, official_split: int) -> Listing:
    """List HMDB51: one file per class, lines `<file> {0,1,2}` (1 train, 2 test, 0 unused); videos in class folders or in one folder."""
    rows, (by_stem, passed) = [], _videos_by_stem(root)
    folders = hmdb51_files(annotations, official_split)
    for label, (folder, file) in enumerate(folders.items()):
        for number, line in read_lines(file):
            found = re.fullmatch(r"(.*\S)[ \t]+([012])", line)
            if not found:
                raise UserError(f"{file}:{number}: {line!r}: expected '<file> <0, 1 or 2>'")
            if HMDB51_SPLITS[found[2]]:
                rows.append((_as_found([root / folder / found[1], root / found[1]], by_stem), label, HMDB51_SPLITS[found[2]]))
    return Listing(rows, [name_from_folder(folder) for folder in folders], passed=passed)


def list_k600_zero_shot(root: Path, test_list: Path, class_names: list[str]) -> Listing:
    """List Kinetics-600 zero-shot: the list file of one split, for evaluation only.

    Labels index the names; of a longer names file (all 220 or 600 classes) only the classes that occur are kept, in order.
    """
    listing = list_files(root, {"test": test_list}, class_names)
    kept = sorted({label for _, label, _ in listing.rows})
    place = {label: i for i, label in enumerate(kept)}
    return Listing([(path, place[label], split) for path, label, split in listing.rows], [class_names[label] for label in kept])


def _as_found(places: list[Path], by_stem: dict[str, list[Path]]) -> Path:
    """The first place that exists, else a video of that name with another ending in their folders; a missing video is a row too."""
    folders = [place.parent for place in places]
    others = [path for path in by_stem.get(places[0].stem, ()) if path.parent in folders]
    others.sort(key=lambda path: (folders.index(path.parent), path))
    return next((place for place in [*places, *others] if place.exists()), places[0])
