"""What `m2clip check` does: it looks at the prepared videos of an experiment with frozen CLIP, and writes what is wrong into one table."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.cluster.hierarchy import DisjointSet

from m2clip_lib.config import Experiment
from m2clip_lib.csvfiles import write_csv
from m2clip_lib.curate.duplicates import near_pairs, read_pictures, same_videos
from m2clip_lib.curate.findings import (
    as_table,
    copy_rows,
    imbalance_rows,
    label_rows,
    name_rows,
    short_rows,
    suggested_corrections,
    unjudged_rows,
)
from m2clip_lib.curate.suspects import deal_folds, out_of_sample, suspects, told_apart
from m2clip_lib.data.classes import SPLITS
from m2clip_lib.data.listing.corrections import COLUMNS, name_below
from m2clip_lib.data.listing.recordings import source_of
from m2clip_lib.data.manifest import UNREADABLE_FILE, Manifest, read_manifest
from m2clip_lib.data.prepare import corrections_of, load_manifest, prepared_root
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.experiment import keep_freed_memory, open_backbone
from m2clip_lib.models import Backbone
from m2clip_lib.models.text import text_features
from m2clip_lib.probes.features import split_features

FILE, SUGGESTED = "check.csv", "suggested_corrections.csv"  # the second: as corrections.csv would be


def check_data(experiment: Experiment, report: Callable[[str], None] = print) -> pd.DataFrame:
    """Check an experiment's prepared videos; write the table and its suggestions to data/<prepared>/. No video, list or label is changed.

    Rows of a video that corrections.csv accepts are left out.
    Raises: UserError if there is no manifest, or the backbone's weights are missing.
    """
    keep_freed_memory()
    manifest, root = load_manifest(experiment), prepared_root(experiment)
    originals = read_manifest(experiment.prepared, "").table  # fast copies have its rows in its order
    names = [name_below(path, root) for path in originals.path]
    manifest = replace(manifest, table=manifest.table.assign(name=names))
    backbone = open_backbone(experiment)
    videos, frames = all_videos(experiment, manifest, backbone, report)
    features = frames.mean(axis=1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)

    pairs, own = near_pairs(features), videos.path.to_numpy()
    pairs = pairs[own[pairs[:, 0]] != own[pairs[:, 1]]]  # not two segments of one video
    pictures, failed = read_pictures(experiment, manifest, videos, np.unique(pairs), backbone.image_size)
    if failed:
        report(f"duplicates: {len(failed)} videos could not be compared: {next(iter(failed.values()))}")
    same = same_videos(pairs, pictures)
    report(f"duplicates: {len(pairs)} pairs of neighbours compared picture by picture, {len(same)} are one video")

    recordings = DisjointSet(range(len(videos)))
    first: dict[str, int] = {}
    for row, name in enumerate(videos.name):
        source = source_of(root / name, root, experiment.data.layout == "hmdb51")
        recordings.merge(row, first.setdefault(source, row))
    copies = DisjointSet(range(len(videos)))
    for a, b, _ in same:
        copies.merge(a, b)
        recordings.merge(a, b)
    judged: list[dict] = []
    if manifest.several_labels:
        report("labels: NOT CHECKED: videos have several, and the check compares one with its rivals")
    else:
        labels = videos.label.to_numpy()
        folds = deal_folds(labels, [recordings[row] for row in range(len(videos))])
        probabilities = out_of_sample(features, labels, len(manifest.class_names), folds)
        right, apart = told_apart(probabilities, labels)
        report(f"labels: a linear probe on frozen features gets {100 * (probabilities.argmax(1) == labels).mean():.1f} % of them right")
        judged += label_rows(videos, suspects(probabilities, labels, apart), manifest.class_names, probabilities)
        judged += unjudged_rows(manifest.class_names, right, apart, labels)

    texts = text_features(frozen_clip(experiment, backbone, manifest.class_names), manifest.class_names).cpu().numpy()
    rows = [
        *copy_rows(videos, [sorted(group) for group in copies.subsets() if len(group) > 1], same),
        *short_rows(videos, experiment.data.num_frames, experiment.data.stride),
        *imbalance_rows(manifest.by_label(videos), manifest.class_names, report),
        *name_rows(manifest.class_names, texts, experiment.eval.opposites),
        *judged,
    ]
    corrections = corrections_of(experiment, manifest.class_names).values()
    table = as_table(rows, {one.path for one in corrections if one.action == "accept"})
    write_csv(experiment.prepared / FILE, table, float_format="%.4f")
    write_csv(experiment.prepared / SUGGESTED, pd.DataFrame(suggested_corrections(table), columns=list(COLUMNS)))
    return table


def all_videos(
    experiment: Experiment, manifest: Manifest, backbone: Backbone, report: Callable[[str], None]
) -> tuple[pd.DataFrame, Float[ndarray, "n t e"]]:
    """The usable videos of all splits, with `row`, their place in the table of their split; and the frozen features of one view of each."""
    tables, features = [], []
    for split in filter(manifest.has, SPLITS):
        protocol = Protocol.of_experiment(experiment, split=split).one_view()
        found = split_features(experiment, manifest, backbone, protocol, report=report)
        if found.failed:
            report(f"features: {len(found.failed)} videos of split {split} could not be read: {found.failed[0][1]}")
        if len(found.rows):
            tables.append(manifest.split(split).iloc[found.rows].assign(row=found.rows))
            features.append(found.scores["encoded"][:, 0].astype(np.float32))
    if not tables:
        raise UserError(f"check: none of the {len(manifest.table)} videos can be read; {manifest.folder / UNREADABLE_FILE} says why")
    return pd.concat(tables, ignore_index=True), np.concatenate(features)
