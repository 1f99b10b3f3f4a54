"""A made video whose segments are known: what it shows, that scoring is one pass, and how well a checkpoint finds them (slow)."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest

from m2clip_lib import paths
from m2clip_lib.data.demo.videos import FPS
from m2clip_lib.data.video import decode
from m2clip_lib.data.video.probe import probe
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.moments.segments import choose_threshold, segment_f1, segments
from m2clip_lib.moments.windows import stored_timelines, windows

DEMO = paths.ROOT / "checkpoints" / "demo" / "best.safetensors"  # what make demo leaves


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("made_segments", paths.ROOT / "benchmarks" / "segments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_made_video_has_the_asked_length_and_gaps_between_its_segments(made, tmp_path):
    truth = made.made_video(tmp_path / "a.mp4", 40, seed=1)
    assert 40 <= probe(tmp_path / "a.mp4").duration_s < 50
    for one, following in pairwise(truth):
        assert 4 <= one.end_s - one.start_s <= 10
        assert 2 <= following.start_s - one.end_s <= 6
    assert made.made_video(tmp_path / "b.mp4", 40, seed=1) == truth
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_perfect_window_scores_give_the_true_segments(made, tmp_path):
    """A window scores 1 for a class that is seen at its centre: what is left is the error of the windows' distance."""
    truth = made.made_video(tmp_path / "a.mp4", 60, seed=2)
    starts, ends, _ = windows(frame_times(probe(tmp_path / "a.mp4").times), 2.0, 0.25)
    names, centres = sorted({one.name for one in truth}), (starts + ends) / 2
    scores = np.zeros((len(starts), len(names)))
    for one in truth:
        scores[(one.start_s <= centres) & (centres < one.end_s), names.index(one.name)] = 1
    found = segments(scores, starts, ends, names, 0.5)
    assert segment_f1([(found, truth)], iou=0.8) == 1
    assert np.abs([a.start_s - b.start_s for a, b in zip(found, truth, strict=True)]).max() <= 0.25


@pytest.mark.xdist_group("trained")
def test_scoring_a_long_video_decodes_each_frame_once(made, trained, tmp_path, monkeypatch):
    made.made_video(tmp_path / "a.mp4", 30, seed=3)
    decoded, read = [], decode.frames_from

    def counted(*arguments):
        for frame in read(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decode, "frames_from", counted)
    monkeypatch.setattr(decode, "_from_the_start", None)
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    (found,) = stored_timelines([tmp_path / "a.mp4"], checkpoint, every_s=0.25, folder=tmp_path)
    assert len(found.starts) > 110
    assert len(decoded) == len(set(decoded)) <= probe(tmp_path / "a.mp4").num_frames <= 40 * FPS


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.is_file(), reason="needs a finished make demo")
def test_the_demonstrations_checkpoint_finds_the_segments_of_ten_minutes(made, tmp_path):
    """About two minutes. The threshold is chosen on another video; docs/own_videos.md has the figures of three seeds."""
    files = [tmp_path / f"{seed}.mp4" for seed in (10, 11)]
    truths = [made.made_video(file, 600, seed) for file, seed in zip(files, (10, 11), strict=True)]
    first, second = stored_timelines(files, DEMO, every_s=0.25, folder=tmp_path)
    threshold, _ = choose_threshold([(lambda at: first.segments(at, 2.0, 2.0), truths[0])])
    assert segment_f1([(second.segments(threshold, 2.0, 2.0), truths[1])]) > 0.75
