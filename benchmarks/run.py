"""The benchmarks of `m2clip bench`: one table, each ratio of which is measured within one interleaved run.

data: loading compared with the published way (data_loading.py). train: an optimizer step in the published way and in ours
(train_step.py). eval: 12 views of a video at once and one by one (score_views.py), and the demonstration's videos with and without cache.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # m2clip bench runs this file by path: the modules beside it are not a package

from data_loading import bench_data
from score_views import bench_views
from timing import Row, compared, interleaved, markdown
from train_step import bench_train

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.experiment import build_model, open_backbone, pick_device, set_threads
from m2clip_lib.files import write_json
from m2clip_lib.runs import git_commit, hardware, short_commit, versions
from m2clip_lib.train.plan import BENCH

Report = Callable[[str], None]
SHOWN = ("python", "torch", "open_clip_torch", "av", "decord")  # versions above the table; the JSON file has all


def bench_cache() -> list[Row]:
    """Time the scoring of the demonstration's validation videos."""
    experiment = load_experiment("demo")
    set_threads(0)
    manifest, backbone, device = load_manifest(experiment), open_backbone(experiment), pick_device()
    model = build_model(experiment, backbone, manifest.class_names).to(device)

    def score(cached: bool) -> None:
        changed = load_experiment("demo", [f"data.cache_frames={str(cached).lower()}"])
        predict(model, evaluation_views(changed, manifest, backbone, Protocol.of_experiment(changed, split="val")), 32, 0)

    contestants = {"from the files": lambda: score(False), "from the frame cache": lambda: score(True)}
    return compared("demonstration: scoring", interleaved(contestants, 3), len(manifest.split("val")), "videos/s")


def parts(what: str, videos: Path | None, report: Report) -> Iterator[Callable[[], list[Row]]]:
    """The benchmarks that a name stands for. Raises: UserError for an unknown name, and videos it does not read."""
    known = {"data": [lambda: bench_data(videos)], "train": [lambda: bench_train(report)], "eval": [bench_cache, bench_views]}
    if what not in (*known, "all"):
        raise UserError(f"bench {what}: no such benchmark; there are: {', '.join(known)}, all")
    if videos and what not in ("data", "all"):
        raise UserError(f"bench {what}: --videos belongs to data: m2clip bench data --videos {videos}")
    for name in known if what == "all" else [what]:
        report(f"measuring {name} ...")
        yield from known[name]


def main(what: str, json_path: Path | None, videos: Path | None, report: Report) -> None:
    """Run one benchmark or all of them, print the table, and write it as JSON where asked; that of training steps to results/, too."""
    about = {"hardware": hardware(), "versions": versions(), "date": datetime.now(UTC).date().isoformat(), "commit": git_commit()}
    rows: list[Row] = []
    for part in parts(what, videos, report):
        try:
            rows += part()
        except UserError as error:  # one part may lack what it needs: hours of the others are not lost
            if what != "all":
                raise
            rows.append(Row("not measured", "", more={"reason": str(error)}))
    machine = ", ".join(f"{name}: {value or 'none'}" for name, value in about["hardware"].items())
    used = ", ".join(f"{name} {about['versions'][name]}" for name in SHOWN)
    report(f"\n{machine}; {used}; {about['date']}, commit {short_commit(about['commit']) or 'unknown'}\n\n{markdown(rows)}")
    for file in filter(None, (json_path, paths.RESULTS / BENCH if what in ("train", "all") else None)):
        write_json(file, about | {"rows": [asdict(row) for row in rows]})
