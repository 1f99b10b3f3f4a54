"""Decoders compared on your own files: the same frames by number, and the first that differs."""

import numpy as np
import pytest
from numbered_videos import encode, grainy, pictures
from odd_videos import CORPUS, MPEG4, VP9
from other_decoders import EACH, EACH_FOR_SMALL, OTHER_FRAMES, package

from m2clip_lib.data.video import compare
from m2clip_lib.data.video.compare import compare_decoders, first_difference
from m2clip_lib.data.video.decode import VideoError
from m2clip_lib.data.video.probe import probe
from m2clip_lib.errors import UserError


@pytest.mark.parametrize("decoder", EACH)
@pytest.mark.parametrize(
    "name",
    ["edit list, a part twice.mp4", "edit list, parts exchanged.mp4", "edit list.mp4", "mpeg4.avi", "hevc.mkv", "damaged at the start.mkv"],
)
def test_files_of_which_a_decoder_returns_other_frames_are_found(tmp_path, decoder, name):
    CORPUS[name][0](tmp_path / name)
    try:
        found = first_difference(tmp_path / name, probe(tmp_path / name), decoder) is not None
    except VideoError:
        found = True
    assert found == (name in OTHER_FRAMES[package(decoder)])


@pytest.mark.parametrize("decoder", EACH_FOR_SMALL)
@pytest.mark.parametrize(("suffix", "settings"), [(".mp4", {}), (".mkv", {}), (".webm", VP9)])
@pytest.mark.parametrize("drawn", [pictures, grainy, lambda: [np.full((64, 96, 3), 90, np.uint8)] * 24], ids=["plain", "noise", "still"])
def test_files_that_a_decoder_reads_rightly_show_no_difference(tmp_path, suffix, settings, drawn, decoder):
    encode(tmp_path / f"a{suffix}", drawn(), **settings)
    assert first_difference(tmp_path / f"a{suffix}", probe(tmp_path / f"a{suffix}"), decoder) is None


@pytest.mark.parametrize(("shift", "first"), [(0, None), (1, 1), (-1, 1), (7, 1)])
def test_a_shift_of_a_slow_motion_is_found_by_its_first_frame(tmp_path, monkeypatch, shift, first):
    """From frame to frame a bright bar moves by one pixel of 96: neighbours differ by less than two pictures of different scenes."""
    bar = np.zeros((64, 96, 3), np.uint8)
    bar[:, 10:30] = 200
    encode(tmp_path / "a.mp4", [np.roll(bar, n, axis=1) for n in range(48)])
    read = compare.read_frames

    def shifted(path, indices, size, decoder, num_frames=None):
        places = [min(max(0, index + shift), 47) for index in indices] if decoder == "decord" else indices
        frames, how = read(path, sorted(places), size, "pyav", num_frames)
        return (frames // 2 * 2 + 1 if decoder == "decord" else frames), how  # another version rounds otherwise

    monkeypatch.setattr(compare, "read_frames", shifted)
    found = first_difference(tmp_path / "a.mp4", probe(tmp_path / "a.mp4"), "decord")
    assert (found is None) == (first is None)


def test_the_table_counts_files_and_names_the_first_difference(tmp_path, monkeypatch):
    for name, settings in (("a.mp4", {}), ("b.mp4", {}), ("c.avi", MPEG4)):
        encode(tmp_path / name, pictures(), **settings)
    (tmp_path / "text.mp4").write_text("no video")

    def differs(path, info, decoder):
        if path.endswith("c.avi"):
            raise VideoError("no")
        return 5 if path.endswith("b.mp4") else None

    monkeypatch.setattr(compare, "installed_decoders", lambda: ["pyav", "decord", "torchcodec"])
    monkeypatch.setattr(compare, "first_difference", differs)
    read = []
    monkeypatch.setattr(compare, "read_frames", lambda path, *rest: read.append((path[-5:], rest[2])))
    table = compare_decoders(sorted(tmp_path.iterdir()))
    counts = ["what", "files", "failed", "other_frames", "first_difference"]
    others = [[name, 3, 1, 1, f"{tmp_path / 'b.mp4'}: frame 5"] for name in ("decord", "torchcodec")]
    assert table[counts].values.tolist() == [["pyav", 3, 0, 0, ""], *others]
    assert read == [(name, decoder) for _ in range(3) for decoder in ("pyav", "decord", "torchcodec") for name in ("a.mp4", "b.mp4")]


def test_pyav_alone_is_measured_where_no_other_decoder_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "installed_decoders", lambda: ["pyav"])
    encode(tmp_path / "a.mp4", pictures())
    table = compare_decoders([tmp_path / "a.mp4"])
    assert table.what.tolist() == ["pyav"]
    assert table.clips_per_s_and_core[0] > 0
    with pytest.raises(UserError, match="none of 1 files can be read"):
        compare_decoders([tmp_path / "gone.mp4"])
