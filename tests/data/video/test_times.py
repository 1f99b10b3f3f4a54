"""Seconds come from presentation timestamps, also of uneven frame rates and joined recordings, and fit into a short text."""

import av
import numpy as np
import pytest
from numbered_videos import H264, encode, numbers, picture, pictures
from odd_videos import MPEG4, UNEVEN, VP8, VP9, joined

from m2clip_lib.data.video.container import open_video, video_stream
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import probe
from m2clip_lib.data.video.times import describe_times, frame_times

MPEG2 = {"codec": "mpeg2video", "options": {"q": "2", "g": "6", "bf": "2"}}
SLIDES = [0, 10_000, 10_040, 10_080, 13_000, 13_200]  # ms
SCREEN = [round(n * 1000 / 60) for n in range(60)] + [1000 * (n - 59) for n in range(60, 120)]  # 60 a second, then one
KINDS = [(".mp4", {}), (".mkv", {}), (".mov", {}), (".mp4", MPEG4), (".webm", VP8), (".webm", VP9), (".ts", {})]


@pytest.mark.parametrize(("suffix", "settings"), KINDS)
@pytest.mark.parametrize(
    ("times", "end"),
    [(UNEVEN, 1.888), (SLIDES, 13.4), (SCREEN, 61.0), ([5000, 5040, 6000], 1.96)],
    ids=["uneven", "slides", "screen", "late"],
)
def test_uneven_times_are_those_of_the_timestamps(tmp_path, suffix, settings, times, end):
    """The last frame is shown as long as the one before."""
    path = tmp_path / f"a{suffix}"
    encode(path, [pictures(1)[0]] * len(times), times=times, **settings)
    info = probe(path)
    found = frame_times(info.times)
    np.testing.assert_allclose(found[:-1], np.subtract(times, times[0]) / 1000, atol=0.001)  # a tick of Matroska
    assert found[-1] == info.duration_s == pytest.approx(end, abs=0.002)
    assert info.num_frames / info.fps == pytest.approx(end, abs=0.002)


@pytest.mark.parametrize(
    ("suffix", "settings", "cuts"),
    [
        (".ts", {}, [12]),
        (".ts", {}, [4, 13]),
        (".ts", {"options": H264 | {"bf": "0"}}, [7, 10, 20]),
        (".ts", MPEG2, [12]),
        (".mpg", MPEG2, [12]),
        (".mkv", {}, [9]),
        (".mkv", VP8, [12]),
    ],
)
def test_joined_recordings_follow_each_other(tmp_path, suffix, settings, cuts):
    path = tmp_path / f"a{suffix}"
    joined(path, *np.split(np.stack(pictures()), cuts), **settings)
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration_s, info.times) == (24, 25, 0.96, "1/25 24x1")
    assert numbers(read_frames(path, range(24))[0]) == list(range(24))
    assert numbers(read_frames(path, [3, 20])[0]) == [3, 20]


def test_joined_recordings_of_an_uneven_rate_follow_each_other(tmp_path):
    for number, times in enumerate(([0, 40, 80, 500], [0, 200, 240, 280])):
        encode(tmp_path / f"{number}.mkv", pictures(4), times=times)
    (tmp_path / "a.mkv").write_bytes((tmp_path / "0.mkv").read_bytes() + (tmp_path / "1.mkv").read_bytes())
    # the frame at 500 ms is shown for 40 ms, as most are
    np.testing.assert_allclose(frame_times(probe(tmp_path / "a.mkv").times), [0, 0.04, 0.08, 0.5, 0.54, 0.74, 0.78, 0.82, 0.86])


def test_recordings_joined_in_the_wrong_order_are_read_in_the_order_of_the_file(tmp_path):
    """No timestamp comes twice, so that frames could be found by their time, but under other numbers."""
    for number, start in enumerate((5000, 0)):
        encode(tmp_path / f"{number}.mkv", pictures()[number * 12 : number * 12 + 12], times=[start + 40 * n for n in range(12)])
    (tmp_path / "a.mkv").write_bytes((tmp_path / "0.mkv").read_bytes() + (tmp_path / "1.mkv").read_bytes())
    assert probe(tmp_path / "a.mkv").times == "1/25 24x1"
    assert numbers(read_frames(tmp_path / "a.mkv", range(24))[0]) == list(range(24))


def test_a_clock_that_jumps_ahead_is_a_cut_in_a_broadcast_and_a_pause_elsewhere(tmp_path):
    times = [40 * n + 60_000 * (n > 9) for n in range(24)]
    for suffix, seconds in ((".ts", 0.96), (".mkv", 60.96)):
        encode(tmp_path / f"a{suffix}", pictures(), times=times)
        assert probe(tmp_path / f"a{suffix}").duration_s == pytest.approx(seconds)


def describe(path, stamps) -> str:
    with open_video(path) as container:
        return describe_times(container, video_stream(container), stamps)


def test_frames_without_a_timestamp_are_spread_evenly(tmp_path):
    """At both ends, where there is but one neighbour, they are shown as long as most."""
    encode(tmp_path / "a.ts", pictures(6))  # ticks of 1/90000 s, 25 frames per second
    assert (
        describe(tmp_path / "a.ts", [0, None, None, 27000, 28000, None]) == "1/90000 3x9000 1000 2x9000"
    )  # the fifth is shown as long as most
    assert describe(tmp_path / "a.ts", [None, None, None]) == "1/25 3x1"
    assert describe(tmp_path / "a.ts", [7]) == "1/25 1x1"


@pytest.mark.parametrize(("rate", "tick"), [(25, "1/25"), (30, "1/30"), (60, "1/60"), (24, "1/24")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_constant_rate_takes_a_few_bytes_whatever_the_ticks_of_the_container(tmp_path, rate, tick, suffix):
    with av.open(str(tmp_path / f"a{suffix}"), "w") as output:
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in [*(av.VideoFrame.from_ndarray(picture(0), format="rgb24") for _ in range(100)), None]:
            output.mux(stream.encode(frame))
    info = probe(tmp_path / f"a{suffix}")
    assert (info.times, info.fps, info.duration_s) == (f"{tick} 100x1", rate, 100 / rate)


def test_a_frame_left_out_of_a_constant_rate_is_not_made_up(tmp_path):
    encode(tmp_path / "a.mkv", pictures(23), times=[40 * (n + (n > 10)) for n in range(23)])
    assert frame_times(probe(tmp_path / "a.mkv").times)[[10, 11, 23]] == pytest.approx([0.4, 0.48, 0.96])


def test_text_to_times_by_hand():
    assert frame_times("1/25 3x1").tolist() == [0, 0.04, 0.08, 0.12]
    assert frame_times("1/1000 2x40 900").tolist() == [0, 0.04, 0.08, 0.98]
    assert frame_times("0 2x1").tolist() == [0, 0, 0]
