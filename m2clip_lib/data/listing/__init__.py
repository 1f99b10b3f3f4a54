"""The videos and labels of an experiment, before any file is opened: chooses the reader for its layout, its files and its hold-out."""

from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.config import DataSection, Experiment
from m2clip_lib.data.classes import KINETICS_400, SPLITS, find_names
from m2clip_lib.data.demo.videos import SHARED, class_names
from m2clip_lib.data.listing import annotations, folders
from m2clip_lib.data.listing.recordings import Listing, hold_out, without_repeats
from m2clip_lib.data.listing.segments import list_annotations
from m2clip_lib.errors import UserError


def videos_root(experiment: Experiment) -> Path:
    """Return the folder of the videos; the synthetic ones are beside their manifest."""
    if experiment.data.layout == "synthetic":
        return experiment.prepared / "videos"
    if not experiment.data.root:
        raise UserError(f"experiment {experiment.name!r}: data.root is not set; give the folder of the videos")
    return paths.resolve(experiment.data.root)


def list_videos(experiment: Experiment) -> Listing:
    """List the dataset's videos and labels; without a validation split, a share of the training videos is held out as one."""
    data, root = experiment.data, videos_root(experiment)
    if data.layout == "synthetic":
        names = class_names(data.colours)
        if data.two_shapes:
            lists = {split: root / f"{split}.csv" for split in SPLITS}
            return list_annotations(root, {split: file for split, file in lists.items() if file.is_file()}, SHARED)
        rows = [
            (p, label, split) for split in SPLITS for label, name in enumerate(names) for p in sorted((root / split / name).glob("*.mp4"))
        ]
        return Listing(rows, names)
    if not root.is_dir():
        raise UserError(f"videos of experiment {experiment.name!r}: no such folder: {root}; put them there, or set data.root")
    listing = folders.list_folder(root) if data.layout == "folder" else _read_annotations(experiment, root)
    if data.layout not in ("folder", "annotations"):  # these have done it
        listing = without_repeats(listing)
    return hold_out(listing, data.hold_out, root, numbered=data.layout == "hmdb51")


def _read_annotations(experiment: Experiment, root: Path) -> Listing:
    data, lists = experiment.data, _lists(experiment.data)
    where = f"experiment {experiment.name!r}: layout {data.layout!r}"
    if data.layout in ("ucf101", "hmdb51"):
        if not data.annotations:
            raise UserError(f"{where} needs data.annotations, the folder of the official split files")
        reader = annotations.list_ucf101 if data.layout == "ucf101" else annotations.list_hmdb51
        return reader(root, paths.resolve(data.annotations), data.official_split)
    if data.layout == "k600_zero_shot" and set(lists) != {"test"}:
        raise UserError(f"{where} is for evaluation only: set data.test_list to the list of one split, and no other list")
    if not lists:
        raise UserError(f"{where} needs data.train_list (and val_list, test_list)")
    if data.layout == "kinetics":
        return annotations.list_kinetics(root, lists)
    if data.layout == "annotations":
        return list_annotations(root, lists, find_names(data.names_file) if data.names_file else ())
    if not data.names_file:
        raise UserError(f"{where} needs data.names_file")
    if data.layout == "ssv2":
        return annotations.list_ssv2(root, lists, paths.resolve(data.names_file))
    names = find_names(data.names_file)
    if data.layout == "k600_zero_shot":
        return annotations.list_k600_zero_shot(root, lists["test"], names)
    return folders.list_files(root, lists, names)


def source_files(data: DataSection) -> list[Path]:
    """Return the files that define labels and texts, whose digests the manifest keeps."""
    files = list(_lists(data).values())
    if data.layout in ("ucf101", "hmdb51"):
        official = annotations.ucf101_files if data.layout == "ucf101" else annotations.hmdb51_files
        files += official(paths.resolve(data.annotations), data.official_split).values()
    named = (data.names_file, data.prompts_file, data.vocabulary_file, data.check_csv)
    return files + [paths.resolve(file) for file in named if file and file != KINETICS_400]


def _lists(data: DataSection) -> dict[str, Path]:
    files = zip(SPLITS, (data.train_list, data.val_list, data.test_list), strict=True)
    return {split: paths.resolve(file) for split, file in files if file}
