"""Frame features of frozen CLIP, computed once for each split and protocol and kept in float16 files."""

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int
from numpy import ndarray

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import refuse_infinite_scores
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.files import hash_texts, write_atomically
from m2clip_lib.models import Backbone

PART = 512  # videos per file: what an interrupted run loses at most


@dataclass(frozen=True)
class Features:
    """Frame embeddings of a split's readable videos: views v, frames t, embedding e; rows of its table; (row, reason) of the others."""

    frames: Float16[ndarray, "n v t e"]
    labels: Int[ndarray, "n"]
    rows: list[int]
    failed: list[tuple[int, str]]


def split_features(
    experiment: Experiment,
    manifest: Manifest,
    backbone: Backbone,
    protocol: Protocol,
    processes: Processes | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Features:
    """Read the features of the protocol's split, after computing what is missing.

    Args:
        processes: they share the missing parts; only the main one returns features, the others return empty ones.
    """
    processes = processes or Processes()
    folder, videos = feature_folder(experiment, manifest, backbone, protocol), len(manifest.split(protocol.split))
    files = [folder / f"{start:08d}.npz" for start in range(0, videos, PART)]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    width = backbone.clip.visual.proj.shape[1]
    if missing and processes.is_main:
        size = 2e-6 * videos * protocol.num_views * protocol.frames * width
        report(f"features: {videos} videos of split {protocol.split}, {protocol.views} views: {size:,.1f} MB in {folder}")
    for i in missing[processes.rank :: processes.count]:
        rows = range(i * PART, min(videos, (i + 1) * PART))
        _encode(experiment, manifest, backbone, protocol, rows, files[i], processes.device)
    processes.from_main(None)  # all have finished their parts
    if not processes.is_main:
        return Features(np.zeros((0, protocol.num_views, protocol.frames, width), np.float16), np.zeros(0, int), [], [])
    parts = [np.load(file) for file in files]
    failed = [(int(row), reason) for part in parts for row, reason in json.loads(str(part["failed"]))]
    rows = [int(row) for part in parts for row in part["rows"]]
    return Features(np.concatenate([p["frames"] for p in parts]), np.concatenate([p["labels"] for p in parts]), rows, failed)


def feature_folder(experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol) -> Path:
    """Where the features of these videos by this backbone and protocol are; texts do not matter."""
    asked = dataclasses.replace(protocol, prompts=(), prompts_file="", mix=1.0, count_unreadable_as_wrong=False)
    return experiment.prepared / "features" / hash_texts(manifest.sha256, backbone.sha256, repr(asked))[:16]


@torch.inference_mode()
def _encode(
    experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol, rows: range, file: Path, device: torch.device
) -> None:
    views = evaluation_views(experiment, manifest, backbone, protocol, rows)
    model, size = frozen_clip(experiment, backbone, manifest.class_names).to(device), experiment.eval.batch_size
    frames, labels, found, failed = [], [], [], []
    with out_of_memory_explained(EVALUATION_ADVICE.format(size)):
        for batch in batches(make_loader(views, in_order(len(rows), size), experiment.data.workers)):
            failed += batch.failed
            if batch.indices:
                seen = model.encode_video(backbone.video(batch.clips.flatten(0, 1), device)).frame_features
                frames.append(seen.unflatten(0, batch.clips.shape[:2]).cpu().numpy())
                refuse_infinite_scores(frames[-1].reshape(len(batch.indices), -1), batch.indices, views, model)
                labels += batch.labels.tolist()
                found += batch.indices
    shape = (0, protocol.num_views, protocol.frames, backbone.clip.visual.proj.shape[1])
    content = io.BytesIO()
    stacked = np.concatenate([np.zeros(shape, np.float16), *(part.astype(np.float16) for part in frames)])
    np.savez(content, frames=stacked, labels=np.array(labels, int), rows=np.array(found, int), failed=json.dumps(failed))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: path.write_bytes(content.getvalue()))
