"""Features of frozen CLIP, of frames or of patches, computed once for each split and protocol and kept in float16 files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest, made_from
from m2clip_lib.evaluate.controls import encoded, frozen_clip
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import Found
from m2clip_lib.files import code_digest, hash_texts
from m2clip_lib.models import Backbone

PART = 512  # videos per file: what an interrupted run loses at most


def split_features(
    experiment: Experiment,
    manifest: Manifest,
    backbone: Backbone,
    protocol: Protocol,
    processes: Processes | None = None,
    report: Callable[[str], None] = lambda line: None,
    patches: bool = False,
) -> Found:
    """Read the features of the protocol's split, after computing what is missing.

    Args:
        processes: they share the missing parts; only the main one returns features, the others return empty ones.
        patches: the patches after the last block, in place of each frame's embedding.
    Returns: float16 features as scores["encoded"], for videos n, views v, frames t: (n, v, t, e), or of patches p (n, v, t * p, c).
    """
    processes = processes or Processes()
    folder, videos = feature_folder(experiment, manifest, backbone, protocol, patches), len(manifest.split(protocol.split))
    files = [folder / f"{start:08d}.npz" for start in range(0, videos, PART)]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing and processes.is_main:
        tower = backbone.visual
        per_frame = tower.grid[0] * tower.grid[1] * tower.width if patches else tower.embed_dim
        size = 2e-6 * videos * protocol.num_views * protocol.frames * per_frame
        report(f"features: {videos} videos of split {protocol.split}, {protocol.views} views: {size:,.1f} MB in {folder}")
    for i in missing[processes.rank :: processes.count]:
        rows = range(i * PART, min(videos, (i + 1) * PART))
        _encode(experiment, manifest, backbone, protocol, rows, files[i], processes.device, patches)
    processes.from_main(None)  # all have finished their parts
    return Found.joined([Found.load(file) for file in files] if processes.is_main else [])


def feature_folder(experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol, patches: bool = False) -> Path:
    """Where the features of these videos by this backbone and protocol are; texts do not matter."""
    asked = dataclasses.replace(protocol, prompts=(), prompts_file="", mix=1.0, count_unreadable_as_wrong=False)
    what = "patches" if patches else "encoded"
    inputs = (manifest.sha256, made_from(manifest.folder), code_digest(core=True), experiment.backbone.model_dump_json())
    return experiment.prepared / "features" / hash_texts(*inputs, backbone.sha256, repr(asked), what)[:16]


def _encode(
    experiment: Experiment,
    manifest: Manifest,
    backbone: Backbone,
    protocol: Protocol,
    rows: range,
    file: Path,
    device: torch.device,
    patches: bool,
) -> None:
    views = evaluation_views(experiment, manifest, backbone, protocol, rows)
    model = frozen_clip(experiment, backbone, manifest.class_names).to(device)

    def read(video: Tensor) -> Tensor:
        if patches:
            return model.visual_tokens(video)[:, :, model.visual.prefix :].flatten(1, 2)
        return model.encode_video(video).frame_features

    found = encoded(model, views, experiment, device, read)
    halves = {name: values.astype(np.float16) for name, values in found.scores.items()}
    dataclasses.replace(found, scores=halves).save(file)
