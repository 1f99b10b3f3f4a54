"""What a prediction costs: counted operations, and accuracy of one checkpoint at other clip lengths."""

import dataclasses
from pathlib import Path

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.metrics import bootstrap_interval, is_hit
from m2clip_lib.evaluate.predictions import predict
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.experiment import first_of_each_class
from m2clip_lib.models import M2CLIP

PUBLISHED = Path(__file__).parent / "published.csv"
DATASETS = {"kinetics": "Kinetics-400", "ssv2": "Something-Something v2"}  # layout -> its name in published.csv


def published_costs(dataset: str) -> pd.DataFrame:
    """The supervised results of others on a dataset: model, top1 (percent), frames (a view), views, gflops (a video).

    A row whose note says "no baseline" is left out. The papers print multiply-adds of one view: gflops is twice that times the
    views; NaN where a source is silent.
    """
    table = pd.read_csv(PUBLISHED)
    table = table[(table.task == "supervised") & (table.dataset == dataset) & ~table.note.fillna("").str.contains("no baseline")]
    views = table.views.map(lambda text: pd.NA if pd.isna(text) else _product(str(text)))
    views = pd.to_numeric(views)
    found = pd.DataFrame({"model": table.method + " " + table.backbone.str.removeprefix("ViT-"), "top1": table.top1, "views": views})
    found["frames"] = pd.to_numeric(table.frames)
    found["gflops"] = 2 * pd.to_numeric(table.gmacs_as_printed) * views
    return found.assign(source=table.source, note=table.note.fillna("")).reset_index(drop=True)


def _product(text: str) -> int:
    """ "4x3" -> 12."""
    result = 1
    for factor in text.split("x"):
        result *= int(float(factor))
    return result


def video_gflops(model: M2CLIP, frames: int) -> float:
    """Operations of encode_video for one view of so many frames, in 1e9; a multiply-add counts as two."""
    device = next(model.parameters()).device
    clip = torch.zeros(1, 3, frames, *model.clip.visual.image_size, device=device)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:  # fused attention kernels are not all counted
        model.encode_video(clip)
    return counter.get_total_flops() / 1e9


def frames_table(
    model: M2CLIP, experiment: Experiment, manifest: Manifest, frames: list[int], videos: int, device: torch.device
) -> pd.DataFrame:
    """Top-1 of the ensemble when the same checkpoint reads clips of other lengths, on the first `videos` videos of every class.

    Returns: one row a length: model, frames, views, gflops (a video), top1 with its 95 % interval (percent), videos.
    """
    protocol = Protocol.of_experiment(experiment)
    chosen = first_of_each_class(manifest.split(protocol.split), videos)
    rows = []
    for length in frames:
        views = evaluation_views(experiment, manifest, model.backbone, dataclasses.replace(protocol, frames=length), chosen)
        scores = predict(model, views, experiment.eval.batch_size, experiment.data.workers, device)
        hits = is_hit(scores.readout("ensemble"), scores.labels, 1)
        low, high = bootstrap_interval(hits)
        done = scores.protocol
        row = {"model": "this run", "frames": done.frames, "views": done.num_views}
        row["gflops"] = done.num_views * video_gflops(model, done.frames)
        rows.append(row | {"top1": 100 * hits.mean(), "top1_low": low, "top1_high": high, "videos": len(hits)})
    return pd.DataFrame(rows)
