"""From an experiment's data section to a manifest on disk: what notebook 01 and `m2clip prepare` do."""

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data import layouts
from m2clip_lib.data.layouts import Listing
from m2clip_lib.data.manifest import Manifest, listing_sha256, made_from, read_manifest, write_manifest
from m2clip_lib.data.scan import scan
from m2clip_lib.data.synthetic import CLASS_NAMES, SPLITS, SyntheticConfig, make_videos, recipe_hash
from m2clip_lib.data.transcode import transcode
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space

COPIES = "transcoded"  # folder of the fast copies and their manifest, beside the manifest of the originals
BYTES_A_ROW = 1500  # journal, manifest and table of unreadable files, generously


def prepare_data(experiment: Experiment, report: Callable[[str], None] = print) -> Manifest:
    """Make the manifest of an experiment, and the synthetic videos or fast copies where it asks for them.

    An unchanged dataset is left alone; work that was stopped goes on where it was.
    Raises: UserError when videos or annotations are not where the experiment says, or the disk is full.
    """
    manifest = _originals(experiment, report)
    return _copies(experiment, manifest, report) if experiment.data.transcode else manifest


def _originals(experiment: Experiment, report: Callable[[str], None]) -> Manifest:
    processes, limit_s = os.cpu_count() or 1, experiment.data.file_timeout_s
    if experiment.data.layout == "synthetic":
        root = videos_root(experiment)
        if make_videos(root, synthetic_config(experiment), processes):
            report(f"videos: written to {paths.shown(root)}")
    listing = list_videos(experiment)
    if not listing.rows:
        raise UserError(f"experiment {experiment.name!r}: its lists name no video; check data.train_list, val_list and test_list")
    layouts.check_labels_in_paths(listing)
    digest = listing_sha256(listing)
    if made_from(experiment.prepared) == digest:
        report(f"manifest: {paths.shown(experiment.prepared)} is up to date ({len(listing.rows)} videos)")
        return _check_usable(read_manifest(experiment.prepared, ""))
    report(f"manifest: opening {len(listing.rows)} videos of {len(listing.class_names)} classes")
    check_space(experiment.prepared, BYTES_A_ROW * len(listing.rows), "manifest")
    table = scan(listing, processes, experiment.prepared, limit_s, report)
    return _write(table, listing.class_names, experiment.prepared, videos_root(experiment), digest, report)


def _copies(experiment: Experiment, originals: Manifest, report: Callable[[str], None]) -> Manifest:
    folder = experiment.prepared / COPIES
    digest = f"{originals.sha256} {made_from(experiment.prepared)}"  # what was found in the files, and their sizes and times
    if made_from(folder) == digest:
        copies = read_manifest(folder, "")
        if all(Path(path).is_file() for path in copies.table.path[copies.table.status == "ok"]):
            report(f"transcode: {paths.shown(folder)} is up to date ({len(originals.table)} videos)")
            return _check_usable(copies)
    root = videos_root(experiment)
    table = transcode(originals, root, folder, os.cpu_count() or 1, experiment.data.file_timeout_s, report)
    return _write(table, originals.class_names, folder, folder / "videos", digest, report)


def _write(table: pd.DataFrame, class_names: list[str], folder: Path, root: Path, digest: str, report: Callable[[str], None]) -> Manifest:
    manifest = write_manifest(table, class_names, folder, root, digest)
    bad = table.status[table.status != "ok"]
    report(f"manifest: {len(table) - len(bad)} videos ok, {len(bad)} not usable -> {paths.shown(folder)}")
    for reason, count in bad.value_counts().head(5).items():
        report(f"  {count} x {reason}")
    return _check_usable(manifest)


def _check_usable(manifest: Manifest) -> Manifest:
    status = manifest.table.status
    if (status != "ok").all():
        raise UserError(
            f"videos: none of the {len(status)} listed can be read (most often: {status.value_counts().index[0]}); "
            f"first: {manifest.table.path[0]}; check data.root"
        )
    return manifest


def load_manifest(experiment: Experiment) -> Manifest:
    """Raises: UserError naming the command that makes it when there is none."""
    if experiment.data.transcode:
        return read_manifest(experiment.prepared / COPIES, f"m2clip prepare {experiment.name} --transcode")
    return read_manifest(experiment.prepared, f"m2clip prepare {experiment.name}")


def videos_root(experiment: Experiment) -> Path:
    """Folder of the videos; the synthetic ones live beside their manifest."""
    if experiment.data.layout == "synthetic":
        return experiment.prepared / "videos"
    if not experiment.data.root:
        raise UserError(f"experiment {experiment.name!r}: data.root is not set; give the folder of the videos")
    return paths.resolve(experiment.data.root)


def list_videos(experiment: Experiment) -> Listing:
    """The dataset's videos and labels, not yet opened."""
    data, root = experiment.data, videos_root(experiment)
    if data.layout == "synthetic":
        rows = [
            (p, label, split)
            for split in SPLITS
            for label, name in enumerate(CLASS_NAMES)
            for p in sorted((root / split / name).glob("*.mp4"))
        ]
        return Listing(rows, list(CLASS_NAMES))
    if not root.is_dir():
        raise UserError(f"videos of experiment {experiment.name!r}: no such folder: {root}; put them there, or set data.root")
    if data.layout == "folder":
        return layouts.list_folder(root)
    lists = {
        split: paths.resolve(file) for split, file in zip(SPLITS, (data.train_list, data.val_list, data.test_list), strict=True) if file
    }
    if not lists:
        raise UserError(f"experiment {experiment.name!r}: layout {data.layout!r} needs data.train_list (and val_list, test_list)")
    if data.layout == "kinetics":
        return layouts.list_kinetics(root, lists)
    if not data.names_file:
        raise UserError(f"experiment {experiment.name!r}: layout {data.layout!r} needs data.names_file")
    reader = layouts.list_ssv2 if data.layout == "ssv2" else layouts.list_files
    return reader(root, lists, paths.resolve(data.names_file))


def data_fingerprint(experiment: Experiment) -> str:
    """Changes when the videos on disk would give another manifest; cheap: no video is opened."""
    if experiment.data.layout == "synthetic":
        return recipe_hash(synthetic_config(experiment))
    return listing_sha256(list_videos(experiment))


def synthetic_config(experiment: Experiment) -> SyntheticConfig:
    """The part of the data section that decides what is drawn."""
    data = experiment.data
    return SyntheticConfig(data.train_videos, data.val_videos, data.test_videos, seed=data.video_seed)
