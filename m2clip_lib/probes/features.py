"""Frame features of frozen CLIP, computed once for each split and protocol and kept in float16 files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.controls import encoded, frozen_clip
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import Found
from m2clip_lib.files import hash_texts
from m2clip_lib.models import Backbone

PART = 512  # videos per file: what an interrupted run loses at most


def split_features(
    experiment: Experiment,
    manifest: Manifest,
    backbone: Backbone,
    protocol: Protocol,
    processes: Processes | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """Read the features of the protocol's split, after computing what is missing.

    Args:
        processes: they share the missing parts; only the main one returns features, the others return empty ones.
    Returns: frame embeddings as scores["encoded"], float16: (n, v, t, e) for videos n, views v, frames t, embedding e.
    """
    processes = processes or Processes()
    folder, videos = feature_folder(experiment, manifest, backbone, protocol), len(manifest.split(protocol.split))
    files = [folder / f"{start:08d}.npz" for start in range(0, videos, PART)]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing and processes.is_main:
        size = 2e-6 * videos * protocol.num_views * protocol.frames * backbone.clip.visual.proj.shape[1]
        report(f"features: {videos} videos of split {protocol.split}, {protocol.views} views: {size:,.1f} MB in {folder}")
    for i in missing[processes.rank :: processes.count]:
        rows = range(i * PART, min(videos, (i + 1) * PART))
        _encode(experiment, manifest, backbone, protocol, rows, files[i], processes.device)
    processes.from_main(None)  # all have finished their parts
    return Found.joined([Found.load(file) for file in files] if processes.is_main else [])


def feature_folder(experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol) -> Path:
    """Where the features of these videos by this backbone and protocol are; texts do not matter."""
    asked = dataclasses.replace(protocol, prompts=(), prompts_file="", mix=1.0, count_unreadable_as_wrong=False)
    return experiment.prepared / "features" / hash_texts(manifest.sha256, backbone.sha256, repr(asked), "encoded")[:16]


def _encode(
    experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol, rows: range, file: Path, device: torch.device
) -> None:
    views = evaluation_views(experiment, manifest, backbone, protocol, rows)
    model = frozen_clip(experiment, backbone, manifest.class_names).to(device)
    found = encoded(model, views, experiment, device, lambda seen: seen.frame_features)
    halves = {name: values.astype(np.float16) for name, values in found.scores.items()}
    dataclasses.replace(found, scores=halves).save(file)
