"""Boxes of the drawn objects: where the pixels are, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.boxes import box_shares, video_scenes
from m2clip_lib.data.scenes import SHAPES, Scenes, render
from m2clip_lib.data.synthetic import CLASS_NAMES, SyntheticConfig, make_videos
from m2clip_lib.data.video import read_frames
from m2clip_lib.errors import UserError


def scenes(x: list[float], y: list[float], radius: float, shape: int) -> Scenes:
    """One picture with objects of full red on black."""
    place = np.array([x], np.float32), np.array([y], np.float32)
    red, black = np.array([[255.0, 0, 0]]), np.zeros((1, 3))
    return Scenes(*place, np.array([radius], np.float32), np.ones(1, np.float32), np.array([shape]), red, black)


def test_a_box_covers_its_cells_by_hand():
    # a circle of radius 1/8 around the corner of four cells of a 4 x 4 grid covers a quarter of each
    shares = box_shares(scenes([0.5], [0.25], 0.125, SHAPES.index("circle")), (4, 4))[0]
    expected = np.zeros((4, 4))
    expected[0:2, 1:3] = 0.25
    np.testing.assert_allclose(shares, expected)


def test_a_box_that_leaves_at_one_side_comes_in_at_the_other():
    shares = box_shares(scenes([0.0], [0.5], 0.25, SHAPES.index("circle")), (1, 4))[0]
    np.testing.assert_allclose(shares, [[0.5, 0, 0, 0.5]])


def test_where_boxes_overlap_the_share_counts_once():
    shares = box_shares(scenes([0.5, 0.5], [0.5, 0.5], 0.25, SHAPES.index("circle")), (2, 2))[0]
    np.testing.assert_allclose(shares, np.full((2, 2), 0.25))


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0.125, 0.25, width=32), st.sampled_from(range(len(SHAPES))))
def test_the_box_is_as_tight_as_the_drawn_object(x, y, radius, shape):
    """Every clearly painted pixel lies inside; the box is at most two pixels larger than the painted rows and columns."""
    size = 64
    picture = scenes([x], [y], radius, shape)
    painted = render(picture, size)[0, :, :, 0] > 140  # more than half covered
    inside = box_shares(picture, (size, size))[0] > 0
    assert inside[painted].all()
    for axis in (0, 1):
        assert 0 <= inside.any(axis=axis).sum() - painted.any(axis=axis).sum() <= 3


def test_the_box_of_a_written_video_is_where_its_pixels_change(tmp_path):
    config = SyntheticConfig(train_videos=12, val_videos=12, test_videos=12, num_frames=6, size=64, seed=5)
    make_videos(tmp_path / "videos", config, 1)
    for name in CLASS_NAMES:
        path = tmp_path / "videos" / "test" / name / "0000.mp4"
        frames, _ = read_frames(path, range(6))
        found = video_scenes(path, config)
        inside = box_shares(found, (64, 64)) > 0
        drawn = render(found, 64)
        assert np.abs(frames.astype(float) - drawn).mean() < 6  # the very video, but for its compression
        strange = np.abs(drawn.astype(float) - found.background[:, None, None]).sum(axis=3) > 60
        assert inside[strange].mean() > 0.99, name


@pytest.mark.parametrize("path", ["/videos/clip.mp4", "/videos/test/dancing/0001.mp4", "/videos/test/growing/first.mp4"])
def test_a_video_of_another_origin_has_no_boxes(path):
    with pytest.raises(UserError, match="not a video of the demonstration"):
        video_scenes(Path(path), SyntheticConfig())
