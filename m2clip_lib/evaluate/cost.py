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
from m2clip_lib.evaluate.evaluate import is_own_label_set
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import predict_split
from m2clip_lib.evaluate.tables import accuracy_rows
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
    """Operations of encode_video for one view of this many frames, in 1e9; a multiply-add counts as two.

    They are those of the full forward pass, which published numbers count: without model.shortcuts, so with all tokens in the last block.
    """
    clip = torch.zeros(1, 3, frames, *model.clip.visual.image_size, device=model.clip.logit_scale.device)
    counter, shortcuts = FlopCounterMode(display=False), model.shortcuts
    model.shortcuts = False
    try:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:  # the counter misses some fused attention kernels
            model.encode_video(clip)
    finally:
        model.shortcuts = shortcuts
    return counter.get_total_flops() / 1e9


def frames_table(
    model: M2CLIP, experiment: Experiment, manifest: Manifest, frames: list[int], videos: int, device: torch.device
) -> pd.DataFrame:
    """Accuracy of one checkpoint's best read-out on clips of other lengths, for the first `videos` videos of every class.

    Returns: one row per length: model, frames, views, gflops (per video, see video_gflops), and the columns of accuracy_rows.
    """
    protocol, names = Protocol.of_experiment(experiment), manifest.class_names
    other = None if is_own_label_set(model.config.class_names, names, model.source) else names
    chosen = first_of_each_class(manifest.split(protocol.split), videos)
    rows = []
    for length in frames:
        asked = dataclasses.replace(protocol, frames=length)
        found = predict_split(experiment, manifest, model.to(device), asked, chosen, class_names=other)
        row = {"model": "this run", "frames": length, "views": asked.num_views, "gflops": asked.num_views * video_gflops(model, length)}
        rows.append(row | accuracy_rows(found, "this run")[-1])
    return pd.DataFrame(rows)
