"""Seeking returns the same frames as decoding from the start, bit for bit, for any file structure, and is actually used."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_videos import encode, grainy, numbers

from m2clip_lib.data.video.container import VideoError, open_video, video_stream
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import decodable_frames, probe

COUNT = 40
PICTURES = grainy(COUNT)
CONTAINERS = [".mp4", ".mkv"]


def sequential(path: Path) -> np.ndarray:
    """All frames, decoded one after another by the plainest loop. (t, h, w, 3) uint8."""
    with open_video(path) as container:
        return np.stack(
            [f.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray() for f in decodable_frames(container, video_stream(container))]
        )


@st.composite
def structures(draw) -> dict[str, str]:
    """Options of x264: keyframes, B-frames, what they refer to."""
    params = [
        f"keyint={draw(st.integers(1, 45))}:min-keyint=1:scenecut={draw(st.sampled_from([0, 40]))}",
        f"bframes={draw(st.integers(0, 5))}:b-pyramid={draw(st.sampled_from(['none', 'strict', 'normal']))}:b-adapt=0",
        f"ref={draw(st.integers(1, 4))}:open-gop={draw(st.integers(0, 1))}:weightp=0",
        draw(st.sampled_from(["intra-refresh=0", "intra-refresh=1"])),
    ]
    return {"preset": "ultrafast", "threads": "1", "crf": "20", "x264-params": ":".join(params)}


choices = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=8).map(sorted)
gaps = st.lists(st.integers(1, 400), min_size=COUNT, max_size=COUNT)  # ms between frames


@settings(max_examples=25)
@given(options=structures(), suffix=st.sampled_from(CONTAINERS), gaps=st.none() | gaps, chosen=st.lists(choices, min_size=4, max_size=4))
def test_seeking_equals_decoding_from_the_start(options, suffix, gaps, chosen):
    """25 files of 40 frames with four choices each: about 8 s."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        encode(path, PICTURES, options=options, times=None if gaps is None else np.cumsum(gaps).tolist())
        whole = sequential(path)
        assert numbers(whole) == list(range(COUNT))
        info = probe(path)
        assert info.num_frames == COUNT
        for indices in chosen:
            frames, _ = read_frames(path, indices)
            assert np.array_equal(frames, whole[indices]), (indices, numbers(frames), np.abs(frames.astype(int) - whole[indices]).max())


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(
    "options",
    [
        {"g": "12", "bf": "2"},
        {"g": "250", "bf": "3", "x264-params": "b-pyramid=normal"},
        {"g": "12", "x264-params": "open-gop=1:bframes=3"},
    ],
    ids=["close keyframes", "pyramid", "open GOP"],
)
def test_ordinary_files_are_seeked_in(tmp_path, suffix, options):
    path = tmp_path / f"a{suffix}"
    encode(path, PICTURES, options=options | {"threads": "1"})
    for indices in (range(COUNT), [COUNT - 1], [3, 3, 17, 30], [0, 38]):
        frames, used = read_frames(path, list(indices))
        assert used == "pyav"
        assert numbers(frames) == list(indices)


@pytest.mark.parametrize("params", ["keyint=8", "keyint=4", "keyint=12:bframes=2", "keyint=8:scenecut=40"])
def test_decoding_does_not_start_at_keyframes_that_hold_part_of_the_picture(tmp_path, params):
    path = tmp_path / "refresh.mp4"
    options = {"preset": "ultrafast", "threads": "1", "x264-params": f"intra-refresh=1:min-keyint=1:bframes=0:{params}"}
    encode(path, PICTURES, options=options)
    whole = sequential(path)
    for index in range(COUNT):
        assert np.array_equal(read_frames(path, [index])[0][0], whole[index])


def test_hevc_frames_that_nothing_refers_to_are_skipped_exactly(tmp_path):
    for number, params in enumerate(("bframes=4:b-pyramid=1", "bframes=0:keyint=7", "temporal-layers=2:bframes=4:b-pyramid=1")):
        path = tmp_path / f"{number}.mp4"
        encode(path, PICTURES, "libx265", {"preset": "ultrafast", "x265-params": f"log-level=none:pools=none:crf=20:{params}"})
        whole = sequential(path)
        for index in range(COUNT):
            frames, used = read_frames(path, [index])
            assert np.array_equal(frames[0], whole[index])
        assert used == "pyav"


def test_few_frames_of_a_long_video_are_decoded(tmp_path, monkeypatch):
    """The point of seeking: work, counted in frames that the decoder gave."""
    encode(tmp_path / "a.mp4", PICTURES, options={"g": "5", "bf": "0", "sc_threshold": "0", "threads": "1"})
    given_out = []
    monkeypatch.setattr(
        "m2clip_lib.data.video.probe.decodable_frames", lambda *a: (given_out.append(frame) or frame for frame in decodable_frames(*a))
    )
    read_frames(tmp_path / "a.mp4", [20, 36])
    assert len(given_out) == 3  # 20 is a keyframe, 36 is the first after one


@pytest.mark.parametrize("size", [(96, 64), (46, 32), (53, 37)])
def test_resizing_is_the_same_after_a_seek(tmp_path, size):
    encode(tmp_path / "a.mp4", PICTURES, options={"g": "12", "bf": "2", "threads": "1"})
    together, _ = read_frames(tmp_path / "a.mp4", [5, 23, 31], size)
    alone = [read_frames(tmp_path / "a.mp4", [index], size)[0][0] for index in (5, 23, 31)]
    assert together.shape == (3, size[1], size[0], 3)
    assert np.array_equal(together, np.stack(alone))


def test_file_with_fewer_packets_than_the_manifest_says_frames_is_not_seeked_in(tmp_path):
    encode(tmp_path / "a.mp4", PICTURES)
    frames, used = read_frames(tmp_path / "a.mp4", [5], num_frames=COUNT - 1)
    assert (used, numbers(frames)) == ("pyav, from the start", [5])


def test_no_indices_and_frames_beyond_the_end_are_video_errors(tmp_path):
    encode(tmp_path / "a.mp4", PICTURES)
    for indices in ([], [COUNT]):
        with pytest.raises(VideoError):
            read_frames(tmp_path / "a.mp4", indices)
