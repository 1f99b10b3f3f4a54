"""A stream: its windows are those of the timeline, a camera drops what the model cannot follow, a pipe waits, and it can be stopped."""

import os
import threading

import av
import numpy as np
import pytest

from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.moments.live import Frames, live_windows, watch
from m2clip_lib.moments.windows import video_timeline

pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def checkpoint(trained):
    return trained[0] / "checkpoints" / "tiny" / "best.safetensors"


def by_hand(times, window_s, every_s, dropped=None):
    frames = [(time, i, (dropped or {}).get(i, 0)) for i, time in enumerate(times)]
    return list(live_windows(iter(frames), window_s, every_s, 0.5))


def test_windows_by_hand():
    halves = np.arange(8) / 2
    assert by_hand(halves, 2, 1) == [(0, [0, 1, 2, 3], 0), (1, [2, 3, 4, 5], 0), (2, [4, 5, 6, 7], 0)]  # the last ends with the stream
    assert by_hand(halves[:7], 2, 1)[-1] == (1, [2, 3, 4, 5], 0)
    assert by_hand([0, 3], 1, 1) == [(0, [0], 0), (1, [0], 0), (2, [0], 0)]  # what is on the screen
    assert by_hand([], 1, 1) == []


def test_after_frames_were_dropped_the_next_window_begins_behind_the_gap():
    times = [0, 0.5, 1, 1.5, 2, 9, 9.5, 10, 10.5, 11]
    found = by_hand(times, 2, 1, dropped=dict.fromkeys(range(5, 10), 13))
    assert found == [(0, [0, 1, 2, 3], 0), (9, [5, 6, 7, 8], 13)]


def test_a_live_source_drops_the_oldest_and_counts_them_and_a_file_waits():
    read = threading.Semaphore(0)

    def source():
        for i in range(10):
            yield float(i), i
            read.release()

    live = Frames(source(), most=4, waits=False)
    for _ in range(10):
        assert read.acquire(timeout=20)  # all ten came while nobody took one
    assert [(time, dropped) for time, _, dropped in live] == [(6, 6), (7, 6), (8, 6), (9, 6)]
    waiting = Frames(((float(i), i) for i in range(10)), most=4, waits=True)
    assert [(time, dropped) for time, _, dropped in waiting] == [(float(i), 0) for i in range(10)]


def test_an_error_of_the_source_comes_after_its_frames():
    def source():
        yield 0.0, 0
        raise av.error.InvalidDataError(1, "broken")

    frames = iter(Frames(source(), most=4, waits=True))
    assert next(frames) == (0.0, 0, 0)
    with pytest.raises(UserError, match="the stream broke off: broken"):
        next(frames)


def test_the_windows_of_a_file_are_those_of_its_timeline(checkpoint, tmp_path):
    write_video(tmp_path / "a.mp4", draw_video(0, np.random.default_rng(0), 32, 96))
    found = list(watch(str(tmp_path / "a.mp4"), checkpoint, window_s=2, every_s=1, top=12))
    timeline = video_timeline(tmp_path / "a.mp4", *open_checkpoint(checkpoint), window_s=2, every_s=1)
    assert [(one.start_s, one.end_s, one.dropped) for one in found] == [(0, 2, 0), (1, 3, 0), (2, 4, 0)]
    for one, scores in zip(found, timeline.scores, strict=True):
        np.testing.assert_allclose([dict(one.best)[name] for name in timeline.names], scores, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_an_endless_pipe_is_watched_until_the_caller_stops(checkpoint, tmp_path):
    write_video(tmp_path / "a.ts", draw_video(0, np.random.default_rng(0), 16, 64))
    piece, pipe, written = (tmp_path / "a.ts").read_bytes(), tmp_path / "pipe", []
    os.mkfifo(pipe)

    def write():
        with pipe.open("wb", buffering=0) as out:
            try:
                while True:
                    written.append(out.write(piece))
            except BrokenPipeError:
                return

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    windows = watch(str(pipe), checkpoint, window_s=1, every_s=1)
    assert [round(next(windows).start_s) for _ in range(6)] == list(range(6))  # further than one piece, whose clock starts again
    windows.close()
    writer.join(timeout=20)  # the reader has left
    assert not writer.is_alive()
    assert len(written) > 2


@pytest.mark.parametrize("asked", [{"window_s": 1e-300}, {"window_s": 2.0, "every_s": 1e-9}])
def test_windows_that_would_never_end_are_refused(tmp_path, asked):
    with pytest.raises(UserError, match=r"--every .*: windows begin at least 0\.001 s apart"):
        next(watch("any.mp4", tmp_path / "unread.safetensors", **asked))


def test_a_source_that_cannot_be_opened_gives_one_line(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"gone\.mp4: cannot be opened \(No such file"):
        next(watch(str(tmp_path / "gone.mp4"), checkpoint))
    with pytest.raises(UserError, match="camera 99: cannot be opened"):
        next(watch("99", checkpoint, camera=True))
