"""From an experiment's data section to a manifest on disk: what notebook 01 and `m2clip prepare` do."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.data.classes import no_split
from m2clip_lib.data.demo.videos import SyntheticConfig, make_videos, recipe_hash
from m2clip_lib.data.listing import list_videos, source_files, videos_root
from m2clip_lib.data.listing.checks import check_labels_in_paths, check_leaks, check_mirror, read_kinetics_names
from m2clip_lib.data.listing.corrections import FILE as CORRECTIONS
from m2clip_lib.data.listing.corrections import Correction, correct, corrections_sha256, read_corrections
from m2clip_lib.data.listing.recordings import Listing, torn_recordings
from m2clip_lib.data.manifest import (
    SIDE_FILE,
    UNREADABLE_FILE,
    Manifest,
    add_to_manifest,
    listing_sha256,
    made_from,
    read_manifest,
    read_side_file,
    write_manifest,
)
from m2clip_lib.data.prompts import experiment_texts
from m2clip_lib.data.scan import scan
from m2clip_lib.data.video.transcode import transcode
from m2clip_lib.data.workers import PASSING, cores, end_unguarded_child, own
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space, file_sha256, hash_texts, read_json

COPIES = "transcoded"  # folder of the fast copies and their manifest, beside the manifest of the originals
BYTES_PER_ROW = 1500  # of journal, manifest and table of unreadable files together; a generous estimate


def prepare_data(experiment: Experiment, report: Callable[[str], None] = print) -> Manifest:
    """Make an experiment's manifest, and its synthetic videos or fast copies if it uses them.

    An unchanged dataset is left alone, and interrupted work is continued.
    Raises: UserError if videos or annotations are not where the experiment says, another process is at work on them, or the disk is full.
    """
    end_unguarded_child()
    processes, limit_s = cores(), experiment.data.file_timeout_s
    root, folder, copies = videos_root(experiment), experiment.prepared, experiment.prepared / COPIES
    if experiment.data.layout == "synthetic" and make_videos(root, synthetic_config(experiment), processes):
        report(f"videos: written to {paths.shown(root)}")
    listed = list_videos(experiment)
    corrections = read_corrections(folder / CORRECTIONS, root, listed.class_names)
    listing, before, counts = correct(listed, corrections, root)
    if not listing.rows:
        ignored = f"{folder / CORRECTIONS} ignores all {counts['ignore']} videos; remove some of its rows"
        named = ignored if listed.rows else "its lists name no videos; check data.train_list, val_list and test_list"
        raise UserError(f"experiment {experiment.name!r}: {named}")
    for line in listing.passed:
        report(line)
    trusted = check_listing(experiment, listing, before, report)
    doubts = check_leaks(listing, experiment.data.trust_list)
    texts = experiment_texts(experiment.data, listing.class_names)
    report(f"texts: {texts.summary()}")
    about = {
        "sources": {paths.shown(file): file_sha256(file) for file in source_files(experiment.data)},
        "prompts": [[prompt.text for prompt in of_class] for of_class in texts.prompts],
        "vocabulary": texts.vocabulary,
        "trust_list": trusted,
        "doubts": doubts,
        "corrections": {"sha256": corrections_sha256(corrections), **counts},
    }

    def open_all() -> tuple[pd.DataFrame, list[str]]:
        report(f"manifest: opening {len(listing.rows)} videos of {len(listing.class_names)} classes")
        check_space(folder, BYTES_PER_ROW * len(listing.rows), "manifest")
        table = scan(listing, processes, folder, limit_s, report)
        table.insert(3, "listed_as", [listing.class_names[label] for label in before])
        untested = classes_without(experiment.eval.split, experiment.eval.split, listing)
        return table, [*listing.notes, *doubts, *untested, *torn_recordings(table, root)]

    def copy_all() -> tuple[pd.DataFrame, list[str]]:
        return transcode(manifest, root, copies, processes, limit_s, report), []

    manifest = _up_to_date(folder, "manifest", listing_sha256(listing), open_all, listing.class_names, root, about, report)
    if not experiment.data.transcode:
        return manifest
    found = f"{manifest.sha256} {made_from(folder)}"  # what the files hold, and their sizes and times
    return _up_to_date(copies, "transcode", found, copy_all, listing.class_names, copies / "videos", about, report)


def _up_to_date(
    folder: Path, what: str, digest: str, make: Callable, names: list[str], root: Path, about: dict, report: Callable[[str], None]
) -> Manifest:
    """Return the folder's manifest; unless it was made from this digest, it is made anew. make() returns a table, and notes to report."""
    manifest, notes = _finished(folder, digest), None
    if manifest is None:
        with own(folder / ".lock", f"{what}: {paths.shown(folder)}"):
            manifest = _finished(folder, digest)  # by another process in the meantime
            if manifest is None:
                table, notes = make()
                manifest = write_manifest(table, names, folder, root, digest)
    add_to_manifest(folder, about)
    status = manifest.table.status
    bad = status[status != "ok"].value_counts()
    if notes is None:
        report(f"{what}: {paths.shown(folder)} is up to date ({len(status)} videos)")
    else:
        report(f"manifest: {len(status) - bad.sum()} videos ok, {bad.sum()} not usable -> {paths.shown(folder)}")
        named = [f"  all of them: {paths.shown(folder / UNREADABLE_FILE)}"] if len(bad) else []
        for line in (*(f"  {count} x {reason}" for reason, count in bad.head(5).items()), *named, *notes):
            report(line)
    if bad.sum() == len(status):
        why = f"(most often: {bad.index[0]}); first: {manifest.table.path[0]}"
        raise UserError(f"videos: none of the {len(status)} listed can be read {why}; check data.root")
    return manifest


def _finished(folder: Path, digest: str) -> Manifest | None:
    """Return the folder's manifest if it was made from this digest, all its files exist, and none deserves another attempt."""
    if made_from(folder) != digest:
        return None
    manifest = read_manifest(folder, "")
    status = manifest.table.status
    complete = all(Path(path).is_file() for path in manifest.table.path[status == "ok"])
    return manifest if complete and not status.str.removeprefix("transcode: ").str.startswith(PASSING).any() else None


def check_listing(experiment: Experiment, listing: Listing, before: list[int], report: Callable[[str], None]) -> str:
    """Find what is wrong with a listing before any video is opened; report what was checked and which classes lack training videos.

    before: the label of each row as it was listed; where a person has given another one, it is not compared with the path.
    Returns: the disagreement of labels and paths that data.trust_list overrules; "" if there is none.
    Raises: UserError for labels that disagree with the paths, a video in two splits, or mirroring of left and right.
    """
    table = experiment.data.check_csv
    checked, overruled = 0, ""
    as_listed = replace(listing, rows=[row for row, label in zip(listing.rows, before, strict=True) if row[1] == label])
    try:
        checked = check_labels_in_paths(as_listed, read_kinetics_names(paths.resolve(table)) if table else None)
    except UserError as error:
        if not experiment.data.trust_list:
            raise UserError(f"{error}; if the folders are no classes but subjects or cameras, set data.trust_list=true") from error
        overruled = str(error)
    check_mirror(listing.class_names, experiment.data.mirror, experiment.data.mirror_pairs)
    if overruled:
        report(f"labels: data.trust_list is set: the list is trusted although {overruled.removeprefix('labels: ')}")
    elif checked:
        report(f"labels: {checked} of {len(listing.rows)} videos carry their class in their path or table, and all of these agree")
    else:
        unchecked = f"none of {len(listing.rows)} videos carries its class in its path"
        report(f"labels: NOT CHECKED: {unchecked}; set data.check_csv, or look at notebook 02; training asks frozen CLIP before it starts")
    splits = {split for _, _, split in listing.rows}
    for line in classes_without("train", "training", listing):
        report(line)
    if "train" in splits and "val" not in splits:
        report("splits: no validation videos; the last epoch will count as the best")
    if experiment.eval.split not in splits:
        report(f"splits: {no_split(experiment.eval.split, splits)}")
    return overruled


def classes_without(split: str, what: str, listing: Listing) -> list[str]:
    """A line about the classes without a video in a split that the dataset has; none if there are no such classes."""
    rows = zip(listing.rows, listing.all_labels, strict=True)
    of_split = {label for (_, _, found), labels in rows if found == split for label in labels}
    empty = sorted(set(range(len(listing.class_names))) - of_split)
    if not of_split or not empty:
        return []
    named = ", ".join(repr(listing.class_names[label]) for label in empty[:3])
    return [f"labels: {len(empty)} of {len(listing.class_names)} classes have no {what} video: {named}"]


def stored_manifest(experiment: Experiment) -> Manifest:
    """Read the manifest that prepare_data made, even if lists, class names or corrections have changed since. Raises: UserError."""
    folder = experiment.prepared / COPIES if experiment.data.transcode else experiment.prepared
    return read_manifest(folder, _command(experiment))


def _command(experiment: Experiment) -> str:
    """The command that makes the manifest, with everything that configs/config.py does not say."""
    usual = load_experiment(experiment.name).data
    changed = {name: value for name, value in experiment.data if value != getattr(usual, name)}
    if experiment.data.root and (root := prepared_root(experiment)) != paths.resolve(usual.root):
        changed["root"] = str(root)
    told = (f"data.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items())
    return " ".join([f"m2clip prepare {experiment.name}", *(f"-o {shlex.quote(one)}" for one in told)])


def load_manifest(experiment: Experiment) -> Manifest:
    """Read the manifest that prepare_data made.

    Raises: UserError naming the command to run if there is no manifest, or a list or the class names have changed since.
    """
    manifest, command = stored_manifest(experiment), _command(experiment)
    side = read_side_file(manifest.folder)
    known = side.get("sources", {})
    for file in source_files(experiment.data):  # one that is missing, or was not used then, cannot be compared
        if paths.shown(file) in known and file.is_file() and file_sha256(file) != known[paths.shown(file)]:
            raise UserError(f"manifest: {paths.shown(file)} has changed since the manifest was made; make it again with: {command}")
    applied = side.get("corrections", {}).get("sha256", corrections_sha256({}))
    if corrections_sha256(corrections_of(experiment, manifest.class_names)) != applied:
        changed = paths.shown(experiment.prepared / CORRECTIONS)
        raise UserError(f"manifest: {changed} has changed since the manifest was made; make it again with: {command}")
    return manifest


def corrections_of(experiment: Experiment, class_names: list[str]) -> dict[str, Correction]:
    """Read the corrections of an experiment's prepared videos; see read_corrections."""
    return read_corrections(experiment.prepared / CORRECTIONS, prepared_root(experiment), class_names)


def prepared_root(experiment: Experiment) -> Path:
    """The folder of the prepared videos: m2clip prepare --folder may have named another than configs/config.py."""
    side = experiment.prepared / SIDE_FILE
    return Path(read_json(side)["root"]) if side.is_file() else videos_root(experiment)


def data_fingerprint(experiment: Experiment) -> str:
    """Return a digest that changes when the videos on disk would give another manifest; no video is opened for it."""
    listing = list_videos(experiment)
    synthetic = experiment.data.layout == "synthetic"
    parts = [recipe_hash(synthetic_config(experiment)) if synthetic else listing_sha256(listing)]
    parts.append(corrections_sha256(read_corrections(experiment.prepared / CORRECTIONS, videos_root(experiment), listing.class_names)))
    parts += [file_sha256(file) for file in source_files(experiment.data) if file.is_file()]
    return hash_texts(*parts)


def synthetic_config(experiment: Experiment) -> SyntheticConfig:
    """Return the part of the data section that decides what is drawn."""
    data = experiment.data
    looks = {"seed": data.video_seed, "colours": data.colours, "two_shapes": data.two_shapes}
    return SyntheticConfig(data.train_videos, data.val_videos, data.test_videos, **looks)
