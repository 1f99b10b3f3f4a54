"""From an experiment's data section to a manifest on disk: what notebook 01 and `m2clip prepare` do."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.demo.videos import SyntheticConfig, make_videos, recipe_hash
from m2clip_lib.data.listing import list_videos, source_files, videos_root
from m2clip_lib.data.listing.checks import check_labels_in_paths, check_leaks, check_mirror, read_kinetics_names
from m2clip_lib.data.listing.folders import Listing
from m2clip_lib.data.manifest import Manifest, add_to_manifest, listing_sha256, made_from, read_manifest, read_side_file, write_manifest
from m2clip_lib.data.prompts import experiment_texts
from m2clip_lib.data.scan import scan
from m2clip_lib.data.video.transcode import transcode
from m2clip_lib.data.workers import PASSING
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space, file_sha256

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
    check_listing(experiment, listing, report)
    report(f"texts: {experiment_texts(experiment.data, listing.class_names).summary()}")
    about = _about(experiment, listing.class_names)
    digest = listing_sha256(listing)
    if made_from(experiment.prepared) == digest and not _to_try_again(known := read_manifest(experiment.prepared, "")):
        add_to_manifest(experiment.prepared, about)
        report(f"manifest: {paths.shown(experiment.prepared)} is up to date ({len(listing.rows)} videos)")
        return _check_usable(known)
    report(f"manifest: opening {len(listing.rows)} videos of {len(listing.class_names)} classes")
    check_space(experiment.prepared, BYTES_A_ROW * len(listing.rows), "manifest")
    table = scan(listing, processes, experiment.prepared, limit_s, report)
    return _write(table, listing.class_names, experiment.prepared, videos_root(experiment), digest, about, report)


def _copies(experiment: Experiment, originals: Manifest, report: Callable[[str], None]) -> Manifest:
    folder = experiment.prepared / COPIES
    about = _about(experiment, originals.class_names)
    digest = f"{originals.sha256} {made_from(experiment.prepared)}"  # what was found in the files, and their sizes and times
    if made_from(folder) == digest:
        copies = read_manifest(folder, "")
        there = all(Path(path).is_file() for path in copies.table.path[copies.table.status == "ok"])
        if there and not _to_try_again(copies):
            add_to_manifest(folder, about)
            report(f"transcode: {paths.shown(folder)} is up to date ({len(originals.table)} videos)")
            return _check_usable(copies)
    root = videos_root(experiment)
    table = transcode(originals, root, folder, os.cpu_count() or 1, experiment.data.file_timeout_s, report)
    return _write(table, originals.class_names, folder, folder / "videos", digest, about, report)


def _about(experiment: Experiment, class_names: list[str]) -> dict[str, object]:
    """What labels and texts were made from, for the manifest's side file."""
    texts = experiment_texts(experiment.data, class_names)
    return {
        "sources": {paths.shown(file): file_sha256(file) for file in source_files(experiment.data)},
        "prompts": [[prompt.text for prompt in of_class] for of_class in texts.prompts],
        "vocabulary": texts.vocabulary,
    }


def _write(
    table: pd.DataFrame, class_names: list[str], folder: Path, root: Path, digest: str, about: dict, report: Callable[[str], None]
) -> Manifest:
    manifest = write_manifest(table, class_names, folder, root, digest)
    add_to_manifest(folder, about)
    bad = table.status[table.status != "ok"]
    report(f"manifest: {len(table) - len(bad)} videos ok, {len(bad)} not usable -> {paths.shown(folder)}")
    for reason, count in bad.value_counts().head(5).items():
        report(f"  {count} x {reason}")
    return _check_usable(manifest)


def check_listing(experiment: Experiment, listing: Listing, report: Callable[[str], None]) -> None:
    """All that can be known to be wrong before a video is opened; says what was checked, and which classes lack training videos.

    Raises: UserError for labels that disagree with the paths, a video in two splits, or mirroring of left and right.
    """
    table = experiment.data.check_csv
    checked = check_labels_in_paths(listing, read_kinetics_names(paths.resolve(table)) if table else None)
    repeated = check_leaks(listing)
    check_mirror(listing.class_names, experiment.data.mirror)
    if checked:
        report(f"labels: {checked} of {len(listing.rows)} videos carry their class in their path or table, and all of these agree")
    else:
        report(
            f"labels: NOT CHECKED: none of {len(listing.rows)} videos carries its class in its path; give a table of the dataset "
            "(data.check_csv), or look at notebook 02; training asks frozen CLIP before it starts"
        )
    if repeated:
        report(f"lists: {repeated} lines name a video again; it counts as often as it is listed")
    splits = {split for _, _, split in listing.rows}
    empty = sorted(set(range(len(listing.class_names))) - {label for _, label, split in listing.rows if split == "train"})
    if "train" in splits and empty:
        named = ", ".join(repr(listing.class_names[label]) for label in empty[:3])
        report(f"labels: {len(empty)} of {len(listing.class_names)} classes have no training video: {named}")
    if "train" in splits and "val" not in splits:
        report("splits: no validation videos; the last epoch will count as the best")


def _to_try_again(manifest: Manifest) -> bool:
    return bool(manifest.table.status.str.removeprefix("transcode: ").str.startswith(PASSING).any())


def _check_usable(manifest: Manifest) -> Manifest:
    status = manifest.table.status
    if (status != "ok").all():
        raise UserError(
            f"videos: none of the {len(status)} listed can be read (most often: {status.value_counts().index[0]}); "
            f"first: {manifest.table.path[0]}; check data.root"
        )
    return manifest


def load_manifest(experiment: Experiment) -> Manifest:
    """Raises: UserError naming the command that makes it when there is none, or when a list or the names have changed since."""
    copies = experiment.data.transcode
    folder = experiment.prepared / COPIES if copies else experiment.prepared
    command = f"m2clip prepare {experiment.name}" + (" --transcode" if copies else "")
    manifest = read_manifest(folder, command)
    known = read_side_file(folder).get("sources", {})
    for file in source_files(experiment.data):  # one that is gone, or that another setting named, cannot be compared
        if paths.shown(file) in known and file.is_file() and file_sha256(file) != known[paths.shown(file)]:
            raise UserError(f"manifest: {paths.shown(file)} has changed since the manifest was made; make it again with: {command}")
    return manifest


def data_fingerprint(experiment: Experiment) -> str:
    """Changes when the videos on disk would give another manifest; cheap: no video is opened."""
    synthetic = experiment.data.layout == "synthetic"
    parts = [recipe_hash(synthetic_config(experiment)) if synthetic else listing_sha256(list_videos(experiment))]
    parts += [file_sha256(file) for file in source_files(experiment.data) if file.is_file()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def synthetic_config(experiment: Experiment) -> SyntheticConfig:
    """The part of the data section that decides what is drawn."""
    data = experiment.data
    return SyntheticConfig(data.train_videos, data.val_videos, data.test_videos, seed=data.video_seed)
