"""Thumbnails: four moments of a video in reading order, made once per file; a video that cannot be read keeps its reason."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numbered_videos import FRAMES, encode, numbers, pictures
from PIL import Image

from m2clip_lib.data.video import thumbnails
from m2clip_lib.data.video.probe import probe_row
from m2clip_lib.data.video.thumbnails import contact_sheet, make_thumbnails, middles, read_thumbnail, thumbnail_file

WHOLE = (0, FRAMES)


@pytest.fixture
def videos(tmp_path) -> pd.DataFrame:
    """A good video, one whose bytes were lost after it was scanned, one that the scan could not open, and one that is gone."""
    names = ["good.mp4", "lost.mp4", "bad.mp4", "gone.mp4"]
    for name in names:
        encode(tmp_path / name, pictures())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    table = pd.DataFrame([{"path": str(tmp_path / name)} | probe_row(str(tmp_path / name)) for name in names])
    (tmp_path / "lost.mp4").write_bytes(b"no video")
    (tmp_path / "gone.mp4").unlink()
    return table


def test_a_thumbnail_shows_the_middles_of_four_quarters_in_reading_order():
    assert middles(0, 8) == [1, 3, 5, 7]
    assert middles(100, 8) == [101, 103, 105, 107]
    assert middles(5, 1) == [5, 5, 5, 5]
    frames = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3, 4)])
    sheet = contact_sheet(frames)
    assert sheet.shape == (6, 8, 3)  # with a gap of 2
    assert sheet[0, :, 0].tolist() == [1, 1, 1, 255, 255, 2, 2, 2]
    assert sheet[-1, :, 0].tolist() == [3, 3, 3, 255, 255, 4, 4, 4]
    assert sheet[:, 0, 0].tolist() == [1, 1, 255, 255, 3, 3]


def test_every_video_has_a_picture_or_a_reason(videos, tmp_path):
    folder = tmp_path / "thumbnails"
    make_thumbnails(videos, folder, 2)
    found = [read_thumbnail(folder, row.path, WHOLE, row.status) for row in videos.itertuples()]
    assert [bool(picture) for picture, _ in found] == [True, False, False, False]
    image = Image.open(io.BytesIO(found[0][0]))
    assert (image.format, image.height) == ("JPEG", 2 * thumbnails.HEIGHT + thumbnails.GAP)
    reasons = [reason for _, reason in found]
    assert reasons[0] == ""
    assert reasons[1].startswith("cannot be decoded")
    assert reasons[2].startswith("cannot be opened")
    assert reasons[3] == "cannot be opened: No such file or directory"


def test_only_missing_thumbnails_are_made(videos, tmp_path, monkeypatch):
    folder, asked = tmp_path / "thumbnails", []
    make_thumbnails(videos, folder, 2)
    monkeypatch.setattr(thumbnails, "call_in_children", lambda function, jobs, *_: asked.extend(jobs) or iter(()))
    make_thumbnails(videos, folder, 2)
    assert asked == []
    good = Path(videos.path[0])
    before = thumbnail_file(folder, str(good), WHOLE)
    os.utime(good, ns=(1, 1))  # replaced by another file of the same size
    assert thumbnail_file(folder, str(good), WHOLE) != before
    make_thumbnails(videos, folder, 2)
    assert [job[0] for job in asked] == [str(good)]


def test_a_video_that_takes_too_long_is_named_and_tried_again(videos, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        thumbnails, "call_in_children", lambda function, jobs, *_: iter([(0, thumbnails.Failure("took more than 60 s"))] if jobs else [])
    )
    make_thumbnails(videos, tmp_path / "thumbnails", 2, lines.append)
    assert lines == [f"thumbnails: {videos.path[0]}: took more than 60 s"]
    assert read_thumbnail(tmp_path / "thumbnails", videos.path[0], WHOLE, "ok") == (b"", "no thumbnail: it took too long to read")


def test_a_very_wide_video_has_a_picture_of_bounded_width(tmp_path):
    wide = np.zeros((FRAMES, 16, 160, 3), np.uint8)
    encode(tmp_path / "wide.mp4", wide)
    row = {"path": str(tmp_path / "wide.mp4")} | probe_row(str(tmp_path / "wide.mp4"))
    make_thumbnails(pd.DataFrame([row]), tmp_path, 1)
    picture, _ = read_thumbnail(tmp_path, row["path"], WHOLE, "ok")
    assert Image.open(io.BytesIO(picture)).size == (2 * 4 * 96 + 2, 2 * 96 + 2)


def test_segments_of_one_video_have_thumbnails_of_their_own(tmp_path):
    encode(tmp_path / "a.mp4", pictures())
    row = {"path": str(tmp_path / "a.mp4")} | probe_row(str(tmp_path / "a.mp4")) | {"file_frames": FRAMES, "num_frames": 8}
    make_thumbnails(pd.DataFrame([row | {"start_frame": 0}, row | {"start_frame": 16}]), tmp_path, 1)
    for first in (0, 16):
        picture, _ = read_thumbnail(tmp_path, row["path"], (first, 8), "ok")
        upper, _, lower = np.split(np.asarray(Image.open(io.BytesIO(picture))), [96, 98])
        quarters = [half[:, side] for half in (upper, lower) for side in (slice(144), slice(146, None))]
        assert numbers(np.stack(quarters)) == [first + 1, first + 3, first + 5, first + 7]
