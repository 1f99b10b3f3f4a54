"""The frame cache returns what direct decoding returns, for every row, and is rebuilt when a video changes."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from numbered_videos import slow_video

from m2clip_lib.data.dataset import VideoReader
from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.data.listing.folders import list_folder
from m2clip_lib.data.scan import scan
from m2clip_lib.data.video import cache
from m2clip_lib.data.video.cache import cached_reader
from m2clip_lib.data.video.decode import VideoError
from m2clip_lib.errors import UserError

SIDE = 48


@pytest.fixture(scope="module")
def table(video_folder, tmp_path_factory) -> pd.DataFrame:
    """Four square videos, a wide one, a tall one, and one that broke after the scan (row 6)."""
    root = tmp_path_factory.mktemp("cache videos")
    for name in ("a", "b"):
        (root / name).mkdir()
    frames = draw_video(0, np.random.default_rng(0), 9, 96)
    for number in range(4):
        shutil.copy(sorted(video_folder.rglob("*.*"))[number], root / "a")
    write_video(root / "b" / "1 wide.mp4", frames[:, :64])
    write_video(root / "b" / "2 tall.mp4", frames[:5, :, :64])
    write_video(root / "b" / "3 broken.mp4", frames)
    table = scan(list_folder(root), 1, tmp_path_factory.mktemp("journal"))
    assert (table.status == "ok").all()
    (root / "b" / "3 broken.mp4").write_bytes(b"broken since")
    order = sorted(range(len(table)), key=lambda row: table.path[row])
    return table.iloc[order].reset_index(drop=True)


@pytest.fixture(scope="module")
def reader(table, tmp_path_factory):
    return cached_reader(table, tmp_path_factory.mktemp("cache"), SIDE, "auto", processes=1)


def test_cached_frames_equal_direct_decoding(table, reader):
    direct = VideoReader(table, "auto")
    for row in range(6):
        count = table.num_frames[row]
        for indices in (list(range(count)), [0, 0, count - 1], [count // 2]):
            np.testing.assert_array_equal(reader(row, indices, SIDE)[0], direct(row, indices, SIDE)[0])
    assert reader(4, [0], SIDE)[0].shape == (1, 48, 72, 3)  # 96 x 64 at short side 48
    assert reader(5, [0], SIDE)[0].shape == (1, 72, 48, 3)


def test_video_that_cannot_be_decoded_keeps_its_reason_and_its_neighbours(reader):
    with pytest.raises(VideoError):
        reader(6, [0], SIDE)
    assert reader(5, [4], SIDE)[0].any()


def test_size_other_than_the_cached_one_is_refused(reader):
    with pytest.raises(ValueError, match="short side 48, not 64"):
        reader(0, [0], 64)


def test_worker_processes_open_the_cache_themselves(reader):
    frames, _ = reader(1, [3], SIDE)
    sent = pickle.dumps(reader)
    assert len(sent) < 5000  # the path of the frames is sent, not the frames
    np.testing.assert_array_equal(pickle.loads(sent)(1, [3], SIDE)[0], frames)


def test_frames_of_the_cache_can_be_changed_without_changing_the_cache(reader):
    frames, _ = reader(0, [0], SIDE)
    before = frames.copy()
    frames[:] = 0
    np.testing.assert_array_equal(reader(0, [0], SIDE)[0], before)


def test_cache_is_built_once_and_again_when_a_video_or_the_size_changes(tmp_path):
    """Starts a decoding process three times: about 7 s."""
    for name in ("a", "b"):
        write_video(tmp_path / "v" / name / "1.mp4", draw_video(0, np.random.default_rng(0), 4, 64))
    paths = sorted(str(path) for path in (tmp_path / "v").rglob("*.mp4"))
    table = pd.DataFrame({"path": paths, "num_frames": 4, "width": 64, "height": 64})
    files = set()
    for _ in range(2):
        files.add(cached_reader(table, tmp_path / "c", 32, "auto", 1).file)
    assert len(files) == 1
    assert sorted(p.suffix for p in (tmp_path / "c").glob("[!.]*")) == [".json", ".u8"]
    made = next(iter(files)).stat().st_mtime_ns
    cached_reader(table, tmp_path / "c", 32, "auto", 1)
    assert next(iter(files)).stat().st_mtime_ns == made
    files.add(cached_reader(table, tmp_path / "c", 40, "auto", 1).file)
    write_video(tmp_path / "v" / "a" / "1.mp4", draw_video(4, np.random.default_rng(1), 4, 64))  # same name, length and size
    changed = cached_reader(table, tmp_path / "c", 32, "auto", 1)
    files.add(changed.file)
    assert len(files) == 3
    np.testing.assert_array_equal(changed(0, [2], 32)[0], VideoReader(table, "auto")(0, [2], 32)[0])


def test_video_that_keeps_the_decoder_busy_cannot_be_read_until_another_attempt(tmp_path):
    slow_video(tmp_path / "slow.mkv", 30)
    table = pd.DataFrame({"path": [str(tmp_path / "slow.mkv")], "num_frames": 30, "width": 4096, "height": 4096})
    reader = cached_reader(table, tmp_path / "c", SIDE, "auto", processes=1, limit_s=0.2)
    with pytest.raises(VideoError, match=r"^took more than 0\.2 s$"):
        reader(0, [0], SIDE)
    assert cached_reader(table, tmp_path / "c", SIDE, "auto", processes=1)(0, [0], SIDE)[0].shape == (1, SIDE, SIDE, 3)


def test_dataset_too_large_for_the_cache_is_refused_with_its_size(table, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT_BYTES", 1000)
    with pytest.raises(UserError, match=r"data\.cache_frames: .* set it to false"):
        cached_reader(table, tmp_path, SIDE, "auto", 1)
    assert list(tmp_path.iterdir()) == []
