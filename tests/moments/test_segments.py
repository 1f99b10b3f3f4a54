"""From scores to segments, by hand and as properties; F1 of segments, and the threshold that is best."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.moments.segments import THRESHOLDS, Segment, choose_threshold, hits, overlap, segment_f1, segments

NAN = np.nan


def of_walk(scores, threshold=0.5, **least):
    """Segments of one class in windows of 2 s, 1 s apart: the windows stand for 0 to 1.5 s, 1.5 to 2.5 s, ... and the last half second."""
    starts = np.arange(len(scores), dtype=float)
    found = segments(np.array(scores)[:, None], starts, starts + 2, ["walk"], threshold, **least)
    return [(s.start_s, s.end_s, pytest.approx(s.score)) for s in found]


def test_segments_by_hand():
    assert of_walk([0.9, 0.5, 0.1, 0.7, 0.2]) == [(0, 2.5, 0.7), (3.5, 4.5, 0.7)]
    assert of_walk([0.9, 0.5, 0.1, 0.7, 0.2], merge_gap_s=1) == [(0, 4.5, 0.7)]  # (0.9 + 0.5 + 0.7) / 3
    assert of_walk([0.9, 0.5, 0.1, 0.7, 0.2], merge_gap_s=0.9, min_length_s=1.1) == [(0, 2.5, 0.7)]
    assert of_walk([0.2, 0.2, 0.9]) == [(2.5, 4, 0.9)]  # the last window stands for all that is left
    assert of_walk([0.49, 0.1]) == []  # nothing is named
    assert of_walk([0.7]) == [(0, 2, 0.7)]


@pytest.mark.parametrize("every", [0.1, 0.3, 1 / 3])
def test_a_gap_and_a_length_as_asked_count_whatever_the_rounding(every):
    starts = np.arange(40) * every
    for count in range(1, 10):
        shown = np.zeros((40, 1))
        shown[20 : 20 + count] = 1
        assert len(segments(shown, starts, starts + 1, ["walk"], 0.5, min_length_s=count * every)) == 1
        assert len(segments(1 - shown, starts, starts + 1, ["walk"], 0.5, merge_gap_s=count * every)) == 1


def test_a_window_that_could_not_be_read_belongs_to_no_segment():
    assert of_walk([0.9, NAN, 0.9]) == [(0, 1.5, 0.9), (2.5, 4, 0.9)]
    assert of_walk([NAN, NAN], threshold=0.0) == []


def test_segments_of_different_classes_overlap_and_come_by_start():
    scores = np.array([[0.1, 0.6], [0.8, 0.9], [0.8, 0.1]])
    starts = np.array([0.0, 1.0, 2.0])
    found = segments(scores, starts, starts + 2, ["walk", "talk"], 0.5)
    assert found == [Segment("talk", 0, 2.5, 0.75), Segment("walk", 1.5, 4, pytest.approx(0.8))]


@st.composite
def scored(draw):
    count, classes = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    values = st.one_of(st.floats(0, 1), st.just(NAN))
    scores = np.array(draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=count, max_size=count)))
    starts = np.concatenate([[0], np.cumsum(draw(st.lists(st.floats(0.1, 3), min_size=count - 1, max_size=count - 1)))])
    return scores, starts, starts + draw(st.floats(0.1, 5)), [f"c{k}" for k in range(classes)]


@given(scored(), st.floats(0, 1), st.floats(0, 5), st.floats(0, 5))
def test_segments_keep_what_was_asked(windows, threshold, min_length_s, merge_gap_s):
    found = segments(*windows, threshold, min_length_s, merge_gap_s)
    _, starts, ends, names = windows
    assert [s.start_s for s in found] == sorted(s.start_s for s in found)
    for s in found:
        assert starts[0] <= s.start_s < s.end_s <= ends[-1]
        assert s.end_s - s.start_s >= min_length_s
        assert threshold - 1e-9 <= s.score <= 1 + 1e-9
    for name in names:
        own = [s for s in found if s.name == name]
        assert all(b.start_s - a.end_s > merge_gap_s for a, b in pairwise(own))


@given(scored(), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_covers_more(windows, one, other):
    def covered(threshold):
        return sum(s.end_s - s.start_s for s in segments(*windows, threshold))

    assert covered(max(one, other)) <= covered(min(one, other)) + 1e-9


@given(scored(), st.floats(0, 1))
def test_scores_are_found_again_as_segments_at_their_own_threshold(windows, threshold):
    """Every window at or above the threshold lies in a segment of its class, and no other window's centre does."""
    scores, starts, ends, names = windows
    found = segments(*windows, threshold)
    edges = np.concatenate([starts[:1], ((starts + ends)[1:] + (starts + ends)[:-1]) / 4, ends[-1:]])
    for i, k in np.ndindex(scores.shape):
        middle = (edges[i] + edges[i + 1]) / 2
        assert any(s.name == names[k] and s.start_s < middle < s.end_s for s in found) == bool(scores[i, k] >= threshold)


def test_overlap_and_hits_by_hand():
    true = Segment("walk", 0, 4)
    assert overlap(Segment("walk", 2, 6), true) == pytest.approx(2 / 6)
    assert overlap(Segment("walk", 4, 6), true) == overlap(Segment("walk", 9, 10), true) == 0
    assert overlap(true, true) == 1
    assert hits([Segment("walk", 0, 2)], [true]) == 1  # exactly half
    assert hits([Segment("walk", 0, 1.9)], [true]) == 0
    assert hits([Segment("run", 0, 4)], [true]) == 0
    twice = [Segment("walk", 0, 3, 0.6), Segment("walk", 0, 4, 0.9)]
    assert hits(twice, [true]) == 1  # a true segment is found once


def test_f1_by_hand():
    truth = [Segment("walk", 0, 4), Segment("walk", 10, 14), Segment("run", 5, 8)]
    found = [Segment("walk", 0, 4), Segment("run", 5, 9)]
    assert segment_f1([(found, truth)]) == pytest.approx(4 / 5)
    assert segment_f1([(found, truth), ([], [Segment("walk", 0, 1)] * 3)]) == pytest.approx(4 / 8)
    assert segment_f1([(found, truth)], iou=0.9) == pytest.approx(2 / 5)
    assert segment_f1([([], [])]) == 1


def test_the_chosen_threshold_is_in_the_middle_of_the_best():
    truth = [Segment("walk", 0, 4)]
    best = [t for t in THRESHOLDS if 0.3 < t <= 0.8]

    def find(threshold):
        return truth if threshold in best else []

    assert choose_threshold([(find, truth)]) == (best[len(best) // 2], 1.0)
    assert choose_threshold([(find, truth), (lambda at: [], [])])[1] == 1.0
