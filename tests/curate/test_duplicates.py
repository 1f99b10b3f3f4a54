"""Duplicates: the nearest neighbours, and the comparison of small pictures that confirms them."""

import numpy as np
import pytest

from m2clip_lib.curate import duplicates
from m2clip_lib.curate.duplicates import alike, near_pairs, same_videos, small_pictures
from m2clip_lib.data.demo.videos import draw_video, video_rng


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_pairs_of_neighbours_do_not_depend_on_the_chunks(monkeypatch, chunk):
    """cos 18 degrees is 0.951, cos 19 degrees 0.946."""
    monkeypatch.setattr(duplicates, "CHUNK", chunk)
    assert near_pairs(on_circle(0, 100, 18, 37, 200)).tolist() == [[0, 2]]


def test_a_video_has_at_most_so_many_neighbours_and_the_nearest_come_first(monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 1)
    assert near_pairs(on_circle(0, 1, 3, 4.5)).tolist() == [[0, 1], [2, 3]]
    assert near_pairs(on_circle(0)).tolist() == []


def moving(number: int, offset: float = 0.0, background: int = 0) -> np.ndarray:
    """Pictures (1, 8, 16, 16) of one bright point that jumps about, in front of a fixed background."""
    rng = np.random.default_rng(number)
    pictures = np.tile(np.random.default_rng(1000 + background).uniform(50, 200, (16, 16)), (8, 1, 1))
    for picture in pictures:
        y, x = rng.integers(0, 14, 2)
        picture[y : y + 2, x : x + 2] = 255
    return (pictures + offset)[None].astype(np.float32)


def test_the_same_pictures_are_one_video_also_when_noisy_or_a_little_brighter():
    noise = np.random.default_rng(5).normal(0, 3, (1, 8, 16, 16)).astype(np.float32)
    assert alike(moving(0), moving(0))[0] == pytest.approx(1)
    assert alike(moving(0), moving(0) + noise)[0] > duplicates.CORRELATION
    assert alike(moving(0), moving(0, offset=11))[0] == pytest.approx(1)
    assert alike(moving(0), moving(0, offset=13))[0] == 0


def test_other_motion_in_front_of_the_same_background_is_another_video():
    """A fixed camera: 4 of 256 points differ, so the pictures differ by 3 grey levels on average."""
    assert np.abs(moving(0) - moving(1)).mean() < duplicates.DIFFERENCE / 2
    assert alike(moving(0), moving(1))[0] == 0


def test_the_same_motion_in_front_of_another_background_is_another_video():
    assert alike(moving(0), moving(0, background=1))[0] == 0


def test_where_nothing_moves_the_pictures_decide():
    still = np.full((1, 8, 16, 16), 100, np.float32)
    assert alike(still, still + 2)[0] == pytest.approx(1 - 2 / 255)
    assert alike(still, still + 4)[0] == 0


def test_a_video_that_was_not_read_is_in_no_pair():
    pictures = {row: moving(0)[0].astype(np.float16) for row in (0, 2)}
    assert same_videos(np.array([[0, 1], [0, 2], [1, 2]]), pictures) == [(0, 2, pytest.approx(1, abs=1e-3))]
    assert same_videos(np.zeros((0, 2), np.int64), {}) == []


def test_small_pictures_are_grey_means_whatever_the_shape():
    frames = np.zeros((1, 32, 64, 3), np.uint8)
    frames[0, :16, :32] = (30, 60, 90)  # a quarter of the picture; mean 60
    picture = small_pictures(frames)[0]
    assert picture.shape == (16, 16)
    assert (picture[:8, :8] == 60).all()
    assert picture.sum() == 60 * 64


def test_videos_of_the_demonstration_are_not_taken_for_one_another():
    pictures = [small_pictures(draw_video(0, video_rng(0, "train", 0, number), 16, 64)[::2]) for number in range(40)]
    rows = np.array([(a, b) for b in range(40) for a in range(b)])
    assert same_videos(rows, dict(enumerate(pictures))) == []
