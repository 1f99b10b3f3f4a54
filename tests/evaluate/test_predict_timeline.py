"""A long video in sliding windows: their places, the frames that are read, and scores equal to those of separate videos."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import Timeline, open_checkpoint, predict_videos, video_timeline, windows
from m2clip_lib.evaluate.protocol import Protocol

pytestmark = pytest.mark.xdist_group("trained")


def test_windows_by_hand():
    tenths = np.arange(101) / 10
    starts, ends, spans = windows(tenths, 2.0, 1.0)
    assert (starts.tolist(), ends.tolist()) == (list(range(9)), list(range(2, 11)))
    assert spans == [(i, i + 20) for i in range(0, 81, 10)]
    assert windows(tenths[:96], 4.0, 4.0)[2] == [(0, 40), (40, 80), (55, 95)]  # the last one ends with the video
    assert windows(tenths[:16], 2.0, 1.0)[2] == [(0, 15)]
    assert windows(tenths[:21], 2.0, 1.0)[2] == [(0, 20)]


def test_windows_of_an_uneven_frame_rate_by_hand():
    times = np.array([0.0, 0.5, 1.0, 4.0, 10.0, 10.25])  # five frames; the fourth is shown for six seconds
    starts, ends, spans = windows(times, 2.0, 2.0)
    assert starts.tolist() == [0, 2, 4, 6, 8, 8.25]
    assert ends.tolist() == [2, 4, 6, 8, 10, 10.25]
    assert spans == [(0, 3), (2, 3), (3, 4), (3, 4), (3, 4), (3, 5)]


@given(st.lists(st.sampled_from([0.0, 0.001, 0.04, 1.0, 7.5]), max_size=300), st.floats(0.001, 5), st.floats(0.01, 20), st.floats(0.01, 20))
def test_windows_start_at_the_start_end_at_the_end_and_are_equally_long(pauses, last, window_s, every_s):
    times = np.concatenate([[0], np.cumsum([*pauses, last])])
    starts, ends, spans = windows(times, window_s, every_s)
    assert starts[0] == 0
    assert ends[-1] == pytest.approx(times[-1])
    assert spans[-1][1] == len(times) - 1
    np.testing.assert_allclose(ends - starts, min(window_s, times[-1]), atol=1e-9)
    assert (np.diff(starts) > 0).all()
    for start, end, (first, past) in zip(starts, ends, spans, strict=True):
        assert first < past
        assert times[first] <= start + 1e-5
        assert (times[first + 1 : past] < end).all()


@pytest.fixture(scope="module")
def model(trained):
    return open_checkpoint(trained[0] / "checkpoints" / "tiny" / "best.safetensors")


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Two motions of 2 s each, one after the other, and each of them as a file of its own; frames are stored exactly."""
    folder = tmp_path_factory.mktemp("long")
    parts = [draw_video(label, np.random.default_rng(label), 16, 64) for label in (0, 5)]
    for name, frames in (("first", parts[0]), ("second", parts[1]), ("both", np.concatenate(parts))):
        write_video(folder / f"{name}.mp4", frames, options={"qp": "0"})
    return folder


def test_a_window_is_scored_like_a_separate_video(model, trained, long_video):
    found = video_timeline(long_video / "both.mp4", *model, window_s=2, every_s=2)
    assert found.starts.tolist() == [0, 2]
    assert found.ends.tolist() == [2, 4]
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    alone = predict_videos([long_video / "first.mp4", long_video / "second.mp4"], checkpoint, top=12)
    for row, video in zip(found.scores, alone, strict=True):
        np.testing.assert_allclose([dict(video.top)[name] for name in found.names], row, atol=2e-3)
    assert found.readout == "ensemble"


def test_other_labels_are_scored_by_similarity(model, long_video):
    found = video_timeline(long_video / "both.mp4", *model, ["a red ring", "nothing"])
    assert (found.readout, found.names) == ("similarity", ["a red ring", "nothing"])
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)
    assert found.starts.tolist() == [0, 1, 2]  # 2 s windows, half a window apart: what stride 0 falls back to


def test_a_stride_sets_the_length_of_a_window(model, long_video):
    found = video_timeline(long_video / "both.mp4", model[0], Protocol("", 4, 4))
    assert found.ends[0] == (3 * 4 + 1) / 8  # 4 frames, 4 apart, at 8 frames per second


def timeline() -> Timeline:
    scores = np.array([[0.75, 0.25], [np.nan, np.nan]], np.float32)
    return Timeline("a.mp4", np.array([0.0, 1.0]), np.array([2.0, 3.0]), scores, ["walk", "run"], "ensemble", [(1, "frame 9 is gone")])


def test_a_window_that_cannot_be_read_is_empty_and_gives_the_reason():
    assert timeline().top(1) == [[("walk", 0.75)], []]
    first, second = timeline().as_list(1)
    assert first == {"start_s": 0.0, "end_s": 2.0, "top": [{"label": "walk", "score": 0.75}], "error": ""}
    assert second == {"start_s": 1.0, "end_s": 3.0, "top": [], "error": "frame 9 is gone"}
    json.dumps(timeline().as_list(1), allow_nan=False)
    table = timeline().table(2)
    assert list(table) == ["start_s", "end_s", "label_1", "score_1", "label_2", "score_2"]
    assert table.score_2[0] == 25
    assert table.label_1.isna().tolist() == [False, True]


def test_a_video_that_cannot_be_read_gives_the_reason(model, long_video, tmp_path):
    with pytest.raises(UserError, match=r"gone.mp4: missing"):
        video_timeline(tmp_path / "gone.mp4", *model)


def test_too_many_windows_are_refused(model, long_video, monkeypatch):
    monkeypatch.setattr("m2clip_lib.evaluate.predict.MOST_WINDOWS", 2)
    with pytest.raises(UserError, match=r"3 windows of 2 s are too many; give a larger --every than 1 s"):
        video_timeline(long_video / "both.mp4", *model)
