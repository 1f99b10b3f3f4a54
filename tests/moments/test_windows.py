"""A long video in sliding windows: their places, the frames that are read, and scores equal to those of separate videos."""

import dataclasses
import json
import shutil

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numbered_videos import H264, encode, numbers, pictures
from odd_videos import VP8, joined

from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.data.video import container
from m2clip_lib.data.video.decode import read_clips
from m2clip_lib.data.video.probe import probe
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint, predict_videos
from m2clip_lib.evaluate.protocol import Protocol, views_of_files
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.checkpoint import read_checkpoint_info
from m2clip_lib.moments.windows import Timeline, clip_seconds, stored_timelines, video_timeline, windows

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


@pytest.fixture(scope="module")
def untrained(backbone):
    torch.manual_seed(0)
    return M2CLIP(backbone, M2CLIPConfig(("left", "right"), ("left",), 1, 4, text_adapter_width=4, num_frames=4)).eval(), Protocol("", 4, 0)


def shown_in_windows(monkeypatch, path, model, **lengths) -> tuple[Timeline, list[list[int]]]:
    """A timeline, and the numbers of the frames of each window."""
    seen = []

    def spy(*arguments):
        for frames, how in read_clips(*arguments):
            seen.append(numbers(frames))
            yield frames, how

    monkeypatch.setattr("m2clip_lib.moments.windows.read_clips", spy)
    return video_timeline(path, *model, **lengths), seen


SLIDES = [0, 1000, 2000, 10_000, 10_100, 10_200, 13_000, 13_100]  # ms


@pytest.mark.parametrize(("suffix", "settings"), [(".mp4", {}), (".webm", VP8), (".mkv", {}), (".ts", {})])
def test_windows_of_an_uneven_frame_rate_show_what_is_on_the_screen_then(tmp_path, monkeypatch, untrained, suffix, settings):
    encode(tmp_path / f"a{suffix}", pictures(len(SLIDES)), times=SLIDES, **settings)
    found, seen = shown_in_windows(monkeypatch, tmp_path / f"a{suffix}", untrained, window_s=2, every_s=2)
    np.testing.assert_allclose(found.starts, [0, 2, 4, 6, 8, 10, 11.2], atol=0.002)
    np.testing.assert_allclose(found.ends, [2, 4, 6, 8, 10, 12, 13.2], atol=0.002)
    assert seen == [[0, 1], [2], [2], [2], [2], [3, 4, 5], [5, 6, 7]]
    assert np.isfinite(found.scores).all()


def test_windows_of_a_screen_recording_and_of_joined_recordings_end_with_the_video(tmp_path, monkeypatch, untrained):
    times = [round(n * 1000 / 60) for n in range(60)] + [1000 * (n - 59) for n in range(60, 64)]  # 60 in the first second, then one each
    encode(tmp_path / "a.mkv", pictures(64), times=times)
    found, seen = shown_in_windows(monkeypatch, tmp_path / "a.mkv", untrained, window_s=1, every_s=1)
    assert found.ends.tolist() == [1, 2, 3, 4, 5]
    assert seen[1:] == [[60], [61], [62], [63]]
    joined(tmp_path / "a.ts", pictures()[:12], pictures()[12:])
    found, seen = shown_in_windows(monkeypatch, tmp_path / "a.ts", untrained, window_s=0.48, every_s=0.48)
    np.testing.assert_allclose(found.ends, [0.48, 0.96])
    assert [set(shown) <= set(range(12)) for shown in seen] == [True, False]


def test_a_file_is_opened_as_often_for_a_hundred_windows_as_for_two(tmp_path, monkeypatch, untrained):
    encode(tmp_path / "a.mp4", pictures(60))
    opened, demuxed = [], []
    open_file, read_table = av.open, container.read_frame_table
    monkeypatch.setattr(av, "open", lambda *a, **options: opened.append(a) or open_file(*a, **options))
    monkeypatch.setattr("m2clip_lib.data.video.decode.read_frame_table", lambda *a: demuxed.append(a) or read_table(*a))
    for every_s, count in ((1.2, 2), (0.02, 61)):
        found = video_timeline(tmp_path / "a.mp4", *untrained, window_s=1.2, every_s=every_s)
        assert (len(found.starts), len(opened), len(demuxed)) == (count, 3, 1)  # two openings are those of probe
        opened.clear(), demuxed.clear()


def test_windows_before_a_damaged_end_are_scored(tmp_path, monkeypatch, untrained):
    encode(tmp_path / "a.mkv", pictures(50), options=H264 | {"bf": "0"})
    known = probe(tmp_path / "a.mkv")
    encode(tmp_path / "a.mkv", pictures(40), options=H264 | {"bf": "0"})  # since then it became shorter
    monkeypatch.setattr("m2clip_lib.evaluate.protocol.probe", lambda path: known)
    found = video_timeline(tmp_path / "a.mkv", *untrained, window_s=0.4, every_s=0.4)
    assert np.isfinite(found.scores).all(axis=1).tolist() == [True, True, True, True, False]
    assert found.failed == [(4, "frame 48 cannot be decoded, the last good one is 39")]


def test_a_video_that_does_not_say_when_its_frames_are_shown_is_refused(tmp_path, monkeypatch, untrained):
    encode(tmp_path / "a.mp4", pictures(4))
    known = dataclasses.replace(probe(tmp_path / "a.mp4"), times="0 4x1", fps=0.0, duration_s=0.0)
    monkeypatch.setattr("m2clip_lib.evaluate.protocol.probe", lambda path: known)
    with pytest.raises(UserError, match=r"a\.mp4: the file does not say when its frames are shown; re-encode it"):
        video_timeline(tmp_path / "a.mp4", *untrained)


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
    monkeypatch.setattr("m2clip_lib.moments.windows.MOST_WINDOWS", 2)
    with pytest.raises(UserError, match=r"3 windows of 2 s are too many; give a larger --every than 1 s"):
        video_timeline(long_video / "both.mp4", *model)


@pytest.fixture
def stored(trained, long_video, tmp_path, monkeypatch):
    """A call of stored_timelines on the two motions, and how often a video was scored."""
    checkpoint, scored = trained[0] / "checkpoints" / "tiny" / "best.safetensors", []
    monkeypatch.setattr("m2clip_lib.moments.windows.video_timeline", lambda *a: scored.append(a[0]) or video_timeline(*a))

    def call(*videos, labels=(), every_s=1.0, checkpoint=checkpoint):
        return list(stored_timelines(videos or [long_video / "both.mp4"], checkpoint, labels, 2.0, every_s, tmp_path / "stored"))

    return call, scored, checkpoint


def test_a_timeline_is_scored_once_and_read_afterwards(stored, tmp_path, monkeypatch):
    call, scored, _ = stored
    (first,) = call()
    monkeypatch.setattr("m2clip_lib.moments.windows.open_checkpoint", lambda file: pytest.fail("opened"))
    (again,) = call()
    assert len(scored) == 1
    for field in dataclasses.fields(Timeline):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(first, field.name))
    with np.load(next((tmp_path / "stored").glob("*.npz")), allow_pickle=False) as file:
        assert set(file) == {"starts", "ends", "scores", "about"}


@pytest.mark.slow
def test_another_video_checkpoint_label_window_or_code_is_another_timeline(stored, long_video, tmp_path, monkeypatch):
    call, scored, checkpoint = stored
    copy = tmp_path / "copy.mp4"
    shutil.copy2(long_video / "first.mp4", copy)  # of equal size and time
    other = tmp_path / "other.safetensors"
    open_checkpoint(checkpoint)[0].save(other, stride=0, note="other")
    calls = [{}, {"labels": ["a", "b"]}, {"labels": ["b", "a"]}, {"every_s": 2.0}, {"checkpoint": other}]
    for options in calls:
        call(**options)
    call(long_video / "first.mp4", copy)
    assert len(scored) == len(calls) + 2
    write_video(copy, draw_video(3, np.random.default_rng(3), 16, 64))  # changed
    call(copy)
    assert len(scored) == len(calls) + 3
    monkeypatch.setattr("m2clip_lib.moments.windows.code_digest", lambda: "new")
    call(copy)
    assert len(scored) == len(calls) + 4


@pytest.mark.parametrize("left", [0, 50])
def test_a_stored_file_that_is_damaged_is_named(tmp_path, left):
    np.savez(tmp_path / "a.npz", scores=np.zeros(9))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:left])
    with pytest.raises(UserError, match=r"a.npz: damaged .*; delete it, and it is computed again"):
        Timeline.load(tmp_path / "a.npz")


def test_a_video_that_cannot_be_read_does_not_stop_the_others(stored, long_video, tmp_path):
    call, _, _ = stored
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    odd = tmp_path / "\udcff.mp4"  # a byte that is not UTF-8
    gone, first, broken, named = call(tmp_path / "gone.mp4", long_video / "first.mp4", tmp_path / "broken.mp4", odd)
    assert str(gone).endswith("gone.mp4: missing")
    assert first.path == str(long_video / "first.mp4")
    assert "broken.mp4: cannot be opened" in str(broken)
    assert str(named).endswith("file name is not UTF-8: rename it")


def test_a_checkpoint_records_how_it_samples_and_resizes(trained, untrained, tmp_path):
    _, protocol = open_checkpoint(trained[0] / "checkpoints" / "tiny" / "best.safetensors")
    assert (protocol.stride, protocol.resize, protocol.clip_s) == (0, "fast", 2.0)  # videos of 16 frames at 8 per second
    untrained[0].save(tmp_path / "own.safetensors", stride=3, resize="exact")
    assert Protocol.of_checkpoint(read_checkpoint_info(tmp_path / "own.safetensors")).resize == "exact"


def test_the_length_of_a_window_by_hand():
    assert clip_seconds(Protocol("", 8, 4), 25.0) == 29 / 25
    assert clip_seconds(Protocol("", 8, 0, clip_s=3.5), 25.0) == 3.5
    assert clip_seconds(Protocol("", 8, 0), 25.0) == 2.0


def test_windows_of_exact_resizing_are_those_of_separate_videos(untrained, tmp_path):
    model, protocol = untrained
    parts = [draw_video(label, np.random.default_rng(label), 16, 96) for label in (0, 5)]
    for name, frames in (("first", parts[0]), ("second", parts[1]), ("both", np.concatenate(parts))):
        write_video(tmp_path / f"{name}.mp4", frames, options={"qp": "0"})
    exact = dataclasses.replace(protocol, resize="exact")
    found = video_timeline(tmp_path / "both.mp4", model, exact, window_s=2, every_s=2)
    backbone = model.backbone
    files = [tmp_path / "first.mp4", tmp_path / "second.mp4"]
    _, views, _ = views_of_files(files, exact, backbone.image_size, (backbone.mean, backbone.std))
    np.testing.assert_allclose(found.scores, predict(model, views, 2, 0).best, atol=1e-5)
    assert np.abs(found.scores - video_timeline(tmp_path / "both.mp4", model, protocol, window_s=2, every_s=2).scores).max() > 1e-4
