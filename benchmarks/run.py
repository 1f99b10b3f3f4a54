"""The benchmarks of `m2clip bench`; each reports ratios measured within one interleaved run.

data: loading compared with the published way (data_loading.py). train: an optimizer step with and without the model's exact shortcuts
(train_step.py). eval: 12 views of a video at once and one by one (score_views.py), and the demonstration's videos with and without cache.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))  # m2clip bench runs this file by path: the modules beside it are not a package

from data_loading import bench_data
from score_views import compare as compare_views
from timing import interleaved, table
from train_step import compare

from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.experiment import build_model, open_backbone, pick_device, set_threads
from m2clip_lib.files import write_json
from m2clip_lib.runs import hardware


def bench_train(_: Path | None) -> dict[str, list[dict]]:
    """Time one optimizer step at the size of Kinetics-400."""
    return {"an optimizer step of ViT-B/16 12x384, 400 classes, 8 frames of 224 px": compare()}


def bench_eval(_: Path | None) -> dict[str, list[dict]]:
    """Time the scoring of the demonstration's validation videos."""
    experiment = load_experiment("demo")
    set_threads(0)
    manifest, backbone, device = load_manifest(experiment), open_backbone(experiment), pick_device()
    model = build_model(experiment, backbone, manifest.class_names).to(device)

    def score(cached: bool) -> None:
        changed = load_experiment("demo", [f"data.cache_frames={str(cached).lower()}"])
        predict(model, evaluation_views(changed, manifest, backbone, Protocol.of_experiment(changed, split="val")), 32, 0)

    contestants = {"from the files": lambda: score(False), "from the frame cache": lambda: score(True)}
    cached = table(interleaved(contestants, 3), len(manifest.split("val")), "videos_per_s")
    return {
        "scoring a video of 12 views with ViT-B/16 12x384, 400 classes": compare_views(),
        "scoring the validation videos of the demonstration": cached,
    }


BENCHMARKS = {"data": bench_data, "train": bench_train, "eval": bench_eval}


def main(what: str, json_path: Path | None, videos: Path | None, report: Callable[[str], None]) -> None:
    """Run one benchmark or all of them, print the tables, and optionally write them as JSON. Raises: UserError for an unknown name."""
    if what not in (*BENCHMARKS, "all"):
        raise UserError(f"bench {what}: no such benchmark; there are: {', '.join(BENCHMARKS)}, all")
    found: dict = {"hardware": hardware(), "torch": torch.__version__}
    report(", ".join(f"{key}: {value}" for key, value in found["hardware"].items() if value))
    for name in BENCHMARKS if what == "all" else [what]:
        found[name] = BENCHMARKS[name](videos)
        for title, rows in found[name].items():
            report(f"\n{name}: {title}")
            report(pd.DataFrame(rows).to_string(index=False))
    if json_path is not None:
        write_json(json_path, json.loads(json.dumps(found)))
