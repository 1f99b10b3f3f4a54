"""What `m2clip bench` runs: three small measurements on the demonstration's videos, each a ratio within one interleaved run.

data: frames of a training clip, decoders against one another. train: an optimizer step with and without the model's exact
shortcuts (train_step.py). eval: scoring videos from the frame cache and from the files.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from m2clip_lib.config import load_experiment
from m2clip_lib.data.dataset import VideoReader
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.sampling import train_indices
from m2clip_lib.data.video import has_decord
from m2clip_lib.engine.build import build_model, open_backbone, pick_device, set_threads, test_views
from m2clip_lib.engine.evaluate import predict
from m2clip_lib.errors import UserError
from m2clip_lib.files import write_json
from m2clip_lib.runs import hardware

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package; its processes import train_step by name
from train_step import compare

ROUNDS = 7


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each contestant, taken in turn so that a drifting machine hits all alike; one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], items: int, unit: str) -> list[dict]:
    """One row a contestant: median rate, and the median of its speed relative to the first, pair by pair."""
    first = next(iter(seconds.values()))
    return [
        {
            "what": name,
            unit: round(items / statistics.median(values), 1),
            "speed_relative_to_first": round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 2),
        }
        for name, values in seconds.items()
    ]


def bench_data() -> list[dict]:
    """Decode the 8 frames of 64 training clips, one core."""
    videos = load_manifest(load_experiment("demo")).split("train").head(64)

    def read(decoder: str) -> None:
        reader = VideoReader(videos, decoder)
        for row, frames in enumerate(videos.num_frames):
            reader(row, train_indices(frames, 8, 0, np.random.default_rng(row)), 64)

    decoders = ["pyav", "decord"] if has_decord() else ["pyav"]
    return table(interleaved({name: lambda name=name: read(name) for name in decoders}), len(videos), "clips_per_s")


def bench_eval() -> list[dict]:
    """Score the validation videos of the demonstration."""
    experiment = load_experiment("demo")
    set_threads(0)
    manifest, backbone, device = load_manifest(experiment), open_backbone(experiment), pick_device()
    model = build_model(experiment, backbone, manifest.class_names).to(device)

    def score(cached: bool) -> None:
        changed = load_experiment("demo", [f"data.cache_frames={str(cached).lower()}"])
        predict(model, test_views(changed, manifest, "val", backbone.image_size), 32, 0, device)

    contestants = {"from the files": lambda: score(False), "from the frame cache": lambda: score(True)}
    return table(interleaved(contestants, 3), len(manifest.split("val")), "videos_per_s")


BENCHMARKS = {"data": bench_data, "train": compare, "eval": bench_eval}


def main(what: str, json_path: Path | None, report: Callable[[str], None]) -> None:
    """Run one benchmark or all; print a table each; optionally write them as JSON. Raises: UserError for an unknown name."""
    if what not in (*BENCHMARKS, "all"):
        raise UserError(f"bench {what}: no such benchmark; there are: {', '.join(BENCHMARKS)}, all")
    found = {"hardware": hardware(), "torch": torch.__version__}
    report(", ".join(f"{key}: {value}" for key, value in found["hardware"].items() if value))
    for name in BENCHMARKS if what == "all" else [what]:
        found[name] = BENCHMARKS[name]()
        report(f"\n{name}: {BENCHMARKS[name].__doc__}")
        for row in found[name]:
            report("  " + "  ".join(f"{key}: {value}" if key != "what" else f"{value:22}" for key, value in row.items()))
    if json_path is not None:
        write_json(json_path, json.loads(json.dumps(found)))
