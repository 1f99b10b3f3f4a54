"""Search by a sentence: windows by hand, features computed once, and moments that show what was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.config import load_experiment
from m2clip_lib.data.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, Scenes, render
from m2clip_lib.data.demo.videos import write_video
from m2clip_lib.errors import UserError
from m2clip_lib.moments import search as module
from m2clip_lib.moments.search import best_moments, search

A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_the_best_window_of_a_video_by_hand():
    features = np.array([B] * 8 + [A] * 4 + [B] * 8)  # A from 4 to 6 s
    first, second, third = best_moments(features, 10.0, A, 3)
    assert first == (4.0, 6.0, 1.0)
    assert (second[2], third[2]) == (0.0, 0.0)  # all that does not overlap it shows nothing of A
    assert (second[:2], third[:2]) == ((0.0, 4.0), (6.0, 10.0))  # of equal windows the longest


def test_a_still_video_is_one_moment_and_a_short_one_too():
    assert best_moments(np.array([A] * 16), 8.0, A, 3) == [(0.0, 8.0, 1.0)]
    assert best_moments(np.array([A + B]), 0.3, A, 3) == [(0.0, 0.3, pytest.approx(0.7071))]
    assert best_moments(np.zeros((3, 2)), 1.5, A, 1) == [(0.0, 1.5, 0.0)]  # no direction, no error


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=80), st.integers(1, 5))
def test_moments_do_not_overlap_and_come_best_first(values, most):
    found = best_moments(np.array(values), len(values) / 2, A, most)
    assert 1 <= len(found) <= most
    assert [score for *_, score in found] == sorted((score for *_, score in found), reverse=True)
    for i, (start, end, _) in enumerate(found):
        assert 0 <= start < end <= len(values) / 2
        assert all(end <= other[0] or start >= other[1] for other in found[:i])


def still(colour: str, shape: str, count: int) -> np.ndarray:
    """Frames of one object that stands still in the middle."""
    one = np.ones((count, 1), np.float32)
    shapes = np.full(count, SHAPES.index(shape))
    looks = (np.float32([COLOURS[colour]] * count), np.float32([BACKGROUNDS[0]] * count))
    return render(Scenes(0.5 * one, 0.5 * one, 0.25 * one[:, 0], one[:, 0], shapes, *looks), 80)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    write_video(folder / "a.mp4", np.concatenate([still("blue", "ring", 40), still("red", "square", 40), still("green", "circle", 40)]))
    write_video(folder / "deep" / "b.mp4", np.concatenate([still("yellow", "diamond", 40), still("blue", "ring", 40)]))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_a_sentence_finds_the_moments_that_show_it_and_a_second_search_decodes_nothing(workspace, shipped, videos, monkeypatch):
    """With the shipped CLIP, which knows colours and shapes."""
    demo, lines = load_experiment("demo"), []
    found, failed = search("a red square", demo, videos, top=4, report=lines.append)
    assert (found.path[0], found.start_s[0] >= 4, found.end_s[0] <= 11) == (str(videos / "a.mp4"), True, True)
    assert found.score.is_monotonic_decreasing
    assert list(failed) == [str(videos / "broken.mp4")]
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_clips", lambda *arguments: pytest.fail("decoded"))
        patch.setattr("m2clip_lib.data.scan.call_in_children", lambda job, jobs, *rest: [] if not jobs else pytest.fail("opened"))
        again, _ = search("a red square", demo, videos, top=4, report=lines.append)
        rings, _ = search("a blue ring", demo, videos, top=2, report=lines.append)
    assert again.equals(found)
    assert [(path.rsplit("/", 1)[1], start < 5) for path, start in zip(rings.path, rings.start_s, strict=True)] in (
        [("a.mp4", True), ("b.mp4", False)],
        [("b.mp4", False), ("a.mp4", True)],
    )
    write_video(videos / "a.mp4", still("pink", "circle", 40))  # changed
    found, _ = search("a pink circle", demo, videos, top=1, report=lines.append)
    assert found.path[0] == str(videos / "a.mp4")


def test_an_interrupted_search_keeps_the_videos_it_has_encoded(workspace, shipped, videos, monkeypatch):
    demo, encode, encoded = load_experiment("demo"), module._encode, []

    def stopped(row, *rest):
        encoded.append(row.path)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(row, *rest)

    monkeypatch.setattr(module, "_encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        search("a red square", demo, videos, report=lambda line: None)
    search("a red square", demo, videos, report=lambda line: None)
    assert encoded == [str(videos / "a.mp4"), str(videos / "deep" / "b.mp4"), str(videos / "deep" / "b.mp4")]


def test_a_text_that_is_too_long_is_refused(workspace, shipped, videos):
    with pytest.raises(UserError, match=r"needs \d+ tokens"):
        search("red " * 100, load_experiment("demo"), videos, report=lambda line: None)
