"""What a prediction costs: counted operations, other clip lengths, and this run beside published results."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.evaluate import is_own_label_set
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import predict_split
from m2clip_lib.evaluate.tables import accuracy_rows, model_name
from m2clip_lib.experiment import first_of_each_class
from m2clip_lib.files import write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run

DATASETS = {"kinetics": "Kinetics-400", "ssv2": "Something-Something v2"}  # layout -> its name in published.csv
PUBLISHED = Path(__file__).parent / "published.csv"


def published_costs(dataset: str) -> pd.DataFrame:
    """Published supervised results on a dataset: model, top1 (percent), frames (per view), views, gflops (per video), source, note.

    Rows whose note says "no baseline" are left out. The papers print multiply-adds per view: gflops is twice that times the views, or
    NaN where a source does not give them.
    """
    table = pd.read_csv(PUBLISHED, dtype={"views": str, "method": str, "backbone": str})
    table["note"] = table.note.fillna("")
    chosen = (table.task == "supervised") & (table.dataset == dataset) & ~table.note.str.contains("no baseline")
    table = table[chosen].reset_index(drop=True)
    table["views_as_printed"] = table.views
    table["views"] = pd.to_numeric(table.views.map(_product, na_action="ignore"))
    table["model"] = table.method + " " + table.backbone.str.removeprefix("ViT-")
    table["gflops"] = 2 * table.gmacs_as_printed * table.views
    return table.drop(columns=["task", "dataset", "gmacs_as_printed"])


def _product(views: str) -> float:
    """Views per video: 12 for "4x3"; NaN for words ("multi-view")."""
    return math.prod(map(int, views.split("x"))) if re.fullmatch(r"[0-9]+(x[0-9]+)*", views) else float("nan")


def comparison_table(found: Predictions, model: M2CLIP, dataset: str, about: dict[str, object]) -> pd.DataFrame:
    """This run beside published results on the same dataset; what a source does not tell is empty.

    Columns: method, backbone, frames, views (spatial x temporal here, as printed elsewhere), head, prompts, mix, checkpoint_rule, seeds,
    top1 with its 95 % interval and top5 (percent), gflops (per video, two operations per multiply-add; the others' converted), params_m
    and tunable_m (millions), source, note, list_sha256, checkpoint_sha256, and those of `about` (commit, speed, device).
    """
    row, protocol = accuracy_rows(found, "this run")[-1], found.protocol
    weight = f", {found.weight:g} similarity" if row["readout"] == "ensemble" else ""
    parameters = {trained: sum(p.numel() for p in model.parameters() if p.requires_grad or not trained) / 1e6 for trained in (False, True)}
    own = {"method": model_name(found), "backbone": model.backbone.source, "frames": protocol.frames, "views": protocol.views}
    own |= {"head": row["readout"] + weight, "prompts": protocol.columns("")["prompt"], "mix": protocol.mix}
    own |= {"checkpoint_rule": found.epoch_chosen_on, "seeds": 1}
    own |= {name: row[name] for name in ("top1", "top1_low", "top1_high", "top5", "mean_ap", "mean_ap_low", "mean_ap_high") if name in row}
    own |= {"gflops": protocol.num_views * video_gflops(model, protocol.frames)}
    own |= {"params_m": parameters[False], "tunable_m": parameters[True], "source": "this run", "note": ""}
    own |= {"list_sha256": found.list_sha256[:12], "checkpoint_sha256": found.checkpoint_sha256[:12]}
    others = published_costs(dataset).drop(columns=["views", "model"]).rename(columns={"views_as_printed": "views"})
    table = pd.concat([pd.DataFrame([own | about]), others.sort_values("top1", ascending=False)], ignore_index=True)
    return table.astype({"frames": "Int64", "seeds": "Int64"})


def save_comparison(run: Run, table: pd.DataFrame) -> None:
    """Write tables/comparison.csv, and the same for reading (.md) and for a paper (.tex)."""
    run.save(table, "comparison")
    latex = table.style.format(precision=1, na_rep="–", escape="latex").hide(axis="index").to_latex(hrules=True)
    plain = table.replace(r"\|", r"\\|", regex=True).style.format(precision=1, na_rep="–").hide(axis="index")
    head, *rows = plain.to_string(delimiter=" | ").splitlines()
    lines = [head, " | ".join(["---"] * len(table.columns)), *rows]
    markdown = "".join(f"| {line} |\n" for line in lines)
    for ending, text in (("tex", latex), ("md", markdown)):
        write_atomically(run.tables / f"comparison.{ending}", partial(Path.write_text, data=text, encoding="utf-8"))


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
