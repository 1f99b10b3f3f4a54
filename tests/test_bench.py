"""benchmarks/: contestants do the same work, ratios are computed pair by pair, and your own folder can be measured."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from m2clip_lib import paths
from m2clip_lib.cli import main
from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.data.transforms import exact_resize, frames_to_clip
from m2clip_lib.data.video.decode import has_decord, read_frames

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def bench(monkeypatch):
    """Put benchmarks/ on the import path, as m2clip bench does."""
    monkeypatch.setattr(sys, "path", [str(paths.ROOT / "benchmarks"), *sys.path])
    return importlib.import_module


def test_ratio_is_the_median_over_pairs(bench):
    rows = bench("timing").table({"old": [1.0, 10.0, 4.0], "new": [0.5, 2.0, 4.0]}, items=8, unit="clips_per_s")
    assert rows[0] == {"what": "old", "clips_per_s": 2.0, "speed_relative_to_first": 1.0}
    assert rows[1] == {"what": "new", "clips_per_s": 4.0, "speed_relative_to_first": 2.0}  # of 2, 5 and 1


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
    found = json.loads((tmp_path / "bench.json").read_text())["data"][f"decoders on {tmp_path}"]
    assert [row["what"] for row in found] == (["pyav", "decord"] if has_decord() else ["pyav"])
    assert [(row["files"], row["other_frames"]) for row in found] == [(2, 0), (2, 1)][: len(found)]
    assert found[0]["clips_per_s_and_core"] > 0
    assert "first_difference" in (out := capsys.readouterr().out)
    assert not has_decord() or "1.avi: frame " in out


@pytest.mark.parametrize("arguments", [["bench", "speed"], ["bench", "data", "--videos", "/no/such/folder"]])
def test_nothing_to_measure_gives_a_one_line_error(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
