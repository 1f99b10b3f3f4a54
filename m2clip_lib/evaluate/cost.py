"""What a prediction costs: counted operations, and the accuracy of one checkpoint at other clip lengths."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.metrics import is_hit, top1_columns
from m2clip_lib.evaluate.predictions import predict_split
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.experiment import first_of_each_class
from m2clip_lib.models import M2CLIP

PUBLISHED = Path(__file__).parent / "published.csv"
DATASETS = {"kinetics": "Kinetics-400", "ssv2": "Something-Something v2"}  # layout -> its name in published.csv


def published_costs(dataset: str) -> pd.DataFrame:
    """Published supervised results on a dataset: model, top1 (percent), frames (per view), views, gflops (per video), source, note.

    Rows whose note says "no baseline" are left out. The papers print multiply-adds per view: gflops is twice that times the views, or
    NaN where a source does not give them.
    """
    table = pd.read_csv(PUBLISHED)
    table["note"] = table.note.fillna("")
    table = table[(table.task == "supervised") & (table.dataset == dataset) & ~table.note.str.contains("no baseline")].reset_index(
        drop=True
    )
    table["views"] = pd.to_numeric(table.views.map(lambda text: math.prod(map(int, text.split("x"))), na_action="ignore"))  # "4x3" -> 12
    table["model"] = table.method + " " + table.backbone.str.removeprefix("ViT-")
    table["gflops"] = 2 * table.gmacs_as_printed * table.views
    return table[["model", "top1", "views", "frames", "gflops", "source", "note"]]


def video_gflops(model: M2CLIP, frames: int) -> float:
    """Operations of encode_video for one view of this many frames, in 1e9; a multiply-add counts as two."""
    clip = torch.zeros(1, 3, frames, *model.clip.visual.image_size, device=model.clip.logit_scale.device)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:  # the counter misses some fused attention kernels
        model.encode_video(clip)
    return counter.get_total_flops() / 1e9


def frames_table(
    model: M2CLIP, experiment: Experiment, manifest: Manifest, frames: list[int], videos: int, device: torch.device
) -> pd.DataFrame:
    """Top-1 of the ensemble when one checkpoint reads clips of other lengths, on the first `videos` videos of every class.

    Returns: one row per length: model, frames, views, gflops (per video), top1 with its 95 % interval (percent), videos.
    """
    protocol = Protocol.of_experiment(experiment)
    chosen = first_of_each_class(manifest.split(protocol.split), videos)
    rows = []
    for length in frames:
        found = predict_split(experiment, manifest, model.to(device), dataclasses.replace(protocol, frames=length), chosen)
        hits, views = is_hit(found.readout("ensemble"), found.labels, 1), found.protocol.num_views
        row = {"model": "this run", "frames": length, "views": views, "gflops": views * video_gflops(model, length)}
        rows.append(row | top1_columns(hits) | {"videos": len(hits)})
    return pd.DataFrame(rows)
