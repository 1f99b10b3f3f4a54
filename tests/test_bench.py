"""benchmarks/: contestants do the same work, ratios are computed pair by pair, and your own folder can be measured."""

import importlib
import json
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from m2clip_lib import paths
from m2clip_lib.cli import main
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.data.transforms import exact_resize, frames_to_clip
from m2clip_lib.data.video.decode import installed_decoders, read_frames
from m2clip_lib.data.video.probe import probe
from m2clip_lib.runs import hardware, versions
from m2clip_lib.train.plan import measured_steps, setup_of
from m2clip_lib.train.record import TERMS, Tally

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def bench(monkeypatch):
    """Put benchmarks/ on the import path, as m2clip bench does."""
    monkeypatch.setattr(sys, "path", [str(paths.ROOT / "benchmarks"), *sys.path])
    return importlib.import_module


def test_ratio_is_the_median_over_pairs(bench):
    rows = bench("timing").compared("work", {"old": [1.0, 10.0, 4.0], "new": [0.5, 2.0, 4.0]}, items=8, unit="clips/s")
    assert [(row.what, row.contestant, row.rate, row.unit, row.relative) for row in rows] == [
        ("work", "old", 2.0, "clips/s", 1.0),
        ("work", "new", 4.0, "clips/s", 2.0),  # the median of 2, 5 and 1
    ]


def test_the_table_is_markdown_and_says_a_shared_cell_once(bench):
    timing = bench("timing")
    row = timing.Row("work", "old", 1230.0, "clips/s", 1.0, 2048, {"files": 2})
    lines = timing.markdown([row, timing.Row("work", "new", more={"not measured": "why"})]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["work", "old", "1230 clips/s", "1.00", "2,048 MiB", "files: 2"]
    assert cells[3] == ["", "new", "", "", "", "not measured: why"]


def test_contestants_take_turns_and_the_first_round_does_not_count(bench):
    order = []
    seconds = bench("timing").interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_published_way_gives_the_pixels_that_the_exact_resize_gives(bench, tmp_path):
    """The benchmark must compare two ways to the same result."""
    path = tmp_path / "a.mp4"
    write_video(path, draw_video(0, np.random.default_rng(0), 20, 80)[:, :64])
    frames, _ = read_frames(path, [2, 5, 9], decoder="pyav")
    ours = exact_resize(frames_to_clip(frames), 48, MEAN, STD)
    theirs = bench("published_loading").train_clip(path, [2, 5, 9], 48, 48, (0, 6), MEAN, STD)
    torch.testing.assert_close(theirs, ours[:, :, :, 6:54], atol=1e-6, rtol=0)
    views = bench("published_loading").test_views(path, [[2, 5, 9], [3, 6, 12]], 48, 3, MEAN, STD)
    assert views.shape == (6, 3, 3, 48, 48)
    torch.testing.assert_close(views[0], ours[:, :, :, :48], atol=1e-6, rtol=0)


def test_own_folder_is_read_with_every_decoder_and_the_first_other_frame_is_named(tmp_path, capsys):
    for number, (suffix, codec) in enumerate(((".mp4", "libx264"), (".avi", "mpeg4"))):
        write_video(tmp_path / f"{number}{suffix}", draw_video(0, np.random.default_rng(number), 24, 64), codec=codec, options={"bf": "2"})
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "data", "--videos", str(tmp_path), "--json", str(tmp_path / "bench.json")])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["hardware"], found["versions"]) == (hardware(), versions())
    rows = found["rows"]
    assert [row["contestant"] for row in rows] == installed_decoders()
    for row in rows:  # they differ in the AVI
        more = row["more"]
        assert (more["files"], more["failed"] + more["other_frames"]) == (2, row["contestant"] != "pyav")
    assert rows[0]["rate"] > 0
    assert (rows[0]["unit"], rows[0]["relative"]) == ("clips/s and core", 1)
    assert "first_difference" in (out := capsys.readouterr().out)
    assert f"torch {versions()['torch']}" in out
    assert "decord" not in installed_decoders() or "1.avi: frame " in out


@pytest.mark.parametrize(
    "arguments", [["bench", "speed"], ["bench", "data", "--videos", "/no/such/folder"], ["bench", "eval", "--videos", "."]]
)
def test_nothing_to_measure_gives_a_one_line_error(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def small(bench, *contestants):
    """A comparison at the size of the demonstration's CLIP."""
    ways = bench("ways")
    model = {"vision_adapter_layers": 2, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    data = {"num_frames": 2, "stride": 1, "workers": 0}
    experiment = Experiment(backbone={"source": "demo"}, model=model, data=data, train={"precision": "fp32"})
    shared = {"batch": 2, "rounds": 1, "experiment": experiment, "classes": ("moving left", "moving right", "growing")}
    return ways.Comparison("small update", tuple(ways.Way(name, **way) for name, way in contestants), **shared)


def test_the_published_way_of_training_has_the_same_loss_and_computes_more(bench):
    """What is compared must be the same work."""
    comparison, losses, flop = small(bench, ("published", {"published": True}), ("ours", {})), [], []
    for way in comparison.ways:
        contestant = bench("train_step").Contestant(way, comparison)
        tally = Tally(torch.zeros(len(TERMS)))
        contestant.steps.update([contestant.part], 1, 0, tally)
        losses.append(tally.sums)
        flop.append(contestant.flop)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)
    assert flop[0] > 1.2 * flop[1]


@pytest.mark.slow
def test_updates_are_timed_in_turns_and_one_that_fails_says_why(bench, tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", draw_video(0, np.random.default_rng(0), 24, 64))
    videos = pd.DataFrame([{"path": str(tmp_path / "a.mp4"), **asdict(probe(tmp_path / "a.mp4"))}])
    monkeypatch.setattr(bench("train_step"), "make_videos", lambda folder: (None, videos))
    too_many = {"changes": {"model": {"vision_adapter_layers": 9}}}
    contestants = ("published", {"published": True}), ("bf16", {"changes": {"train": {"precision": "bf16"}}}), ("too many", too_many)
    rows = bench("train_step").compare(
        small(bench, *contestants, ("from files", {"from_files": True, "changes": {"data": {"workers": 1}}}))
    )
    assert [row.contestant for row in rows] == ["published", "bf16", "too many", "from files"]
    assert "this backbone has 4 vision blocks" in rows[2].more["not measured"]
    assert rows[2].rate is None
    measured = [rows[0], rows[1], rows[3]]
    assert all(row.rate > 0 and row.relative > 0 and 0 < row.peak_mib < 4096 for row in measured)
    assert [row.setup.get("precision") for row in measured] == [None, "bf16", "fp32"]
    assert 0 <= rows[3].more["% of the time waiting for clips"] <= 100


def test_train_is_measured_at_batch_2_and_8_or_on_a_gpu_at_32(bench, shipped, monkeypatch):
    ways = bench("ways")
    assert setup_of(ways.KINETICS) == setup_of(load_experiment("k400_b16"))  # so that its plan finds the rows
    for amx, halves in ((False, []), (True, ["bf16"])):
        monkeypatch.setattr(ways, "device_precision", lambda *_, amx=amx: "bf16" if amx else "fp32")
        found = ways.comparisons(torch.device("cpu"))
        assert [comparison.batch for comparison in found] == [2, 8, 8, 8]
        assert [[way.kept for way in comparison.ways] for comparison in found[2:]] == [[False, True]] * 2
        assert [way.name for way in found[0].ways] == ["published, fp32", "ours, fp32", *(f"ours, {half}" for half in halves)]
    (found,) = ways.comparisons(torch.device("cuda"))
    asked = [found.settings(way).train for way in found.ways]
    assert [(train.batch_size, train.precision, train.compile) for train in asked] == [
        *[(32, "bf16", False)] * 2,
        *[(32, "bf16", True)] * 2,
        (32, "fp16", False),
    ]
    assert [way.from_files for way in found.ways] == [False, False, False, True, False]


@pytest.mark.slow
def test_bench_all_goes_on_without_what_is_missing_and_plan_shows_what_was_measured(bench, workspace, monkeypatch, capsys):
    run, timing = bench("run"), bench("timing")
    experiment = load_experiment("tiny", ["backbone.source=demo", "train.batch_size=4"])
    setups = [setup_of(experiment) | {"batch_size": batch, "precision": "fp32"} for batch in (2, 8)]
    steps = [timing.Row("update", f"ours, {n}", 10.0 + n, "clips/s", 4.0, 1024, setup=setup) for n, setup in enumerate(setups)]
    monkeypatch.setattr(run, "bench_data", lambda videos: [])
    monkeypatch.setattr(run, "bench_train", lambda report: [timing.Row("update", "published", 3.0, "clips/s", 1.0), *steps])
    monkeypatch.setattr(run, "bench_views", lambda: [])
    plan = ["plan", "tiny", "--videos", "100", "-o", "backbone.source=demo", "-o", "train.batch_size=4"]
    with pytest.raises(SystemExit, match="0"):
        main(plan)
    assert "measured by m2clip bench train: nothing here" in capsys.readouterr().out
    run.main("all", None, None, print)  # there is no experiment "demo" in this workspace
    assert "| not measured" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(plan)
    out = capsys.readouterr().out
    assert "update, ours, 1: 11 clips/s, 1.0 GiB at the peak" in out
    assert "measured: 10 clips/s in one process (m2clip bench train: update, ours, 0)" in out  # batch 2 is nearer to 4 than 8
    with pytest.raises(SystemExit, match="0"):
        main([*plan, "-o", "data.num_frames=16"])
    assert "measured by m2clip bench train: nothing here" in capsys.readouterr().out
    monkeypatch.setattr("m2clip_lib.train.plan.hardware", lambda: hardware() | {"cores": 999})
    assert measured_steps(experiment, paths.RESULTS) == []
