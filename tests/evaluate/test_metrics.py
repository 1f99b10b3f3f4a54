"""Measures of accuracy against arithmetic done by hand."""

import numpy as np
import pytest

from m2clip_lib.evaluate.metrics import (
    bootstrap_interval,
    confusion_matrix,
    direction_hits,
    is_hit,
    per_class_table,
    top_ids,
    topk_accuracy,
)

SCORES = np.array(
    [
        [0.6, 0.3, 0.1],  # says 0, then 1
        [0.2, 0.5, 0.3],  # says 1, then 2
        [0.1, 0.5, 0.4],  # says 1, then 2
        [0.4, 0.4, 0.2],  # a tie of 0 and 1
    ]
)
LABELS = np.array([0, 1, 2, 1])


def test_top_ids_are_best_first_and_ties_go_to_the_smaller_id():
    assert top_ids(SCORES, 2).tolist() == [[0, 1], [1, 2], [1, 2], [0, 1]]
    assert top_ids(SCORES, 5).shape == (4, 3)  # no more than there are classes


def test_top1_and_top2_are_shares_in_percent():
    assert is_hit(SCORES, LABELS, 1).tolist() == [True, True, False, False]
    assert topk_accuracy(SCORES, LABELS, 1) == 50.0
    assert topk_accuracy(SCORES, LABELS, 2) == 100.0
    assert topk_accuracy(SCORES, np.array([2, 0, 0, 2]), 2) == 0.0


def test_accuracy_without_videos_is_nan():
    assert np.isnan(topk_accuracy(np.zeros((0, 3)), np.zeros(0, int), 1))


def test_direction_compares_with_the_partner_alone_and_a_tie_is_a_miss():
    scores = np.array(
        [
            [0.2, 0.1, 0.6, 0.1],  # label 0 beats 1, though 2 is on top
            [0.2, 0.1, 0.6, 0.1],  # label 1 loses to 0
            [0.0, 0.0, 0.5, 0.5],  # label 3 ties with 2
            [0.9, 0.0, 0.0, 0.1],  # label 3 beats 2
        ]
    )
    assert direction_hits(scores, np.array([0, 1, 3, 3])).tolist() == [True, False, False, True]


def test_bootstrap_of_all_hits_has_no_width():
    assert bootstrap_interval(np.ones(10, bool)) == (100.0, 100.0)
    assert bootstrap_interval(np.zeros(10, bool)) == (0.0, 0.0)


def test_bootstrap_agrees_with_drawing_videos_and_with_the_normal_interval():
    hits = np.arange(400) % 4 != 0  # 75 %; standard error sqrt(0.75 * 0.25 / 400) = 2.165 points
    low, high = bootstrap_interval(hits, resamples=20_000)
    rng = np.random.default_rng(1)
    drawn = 100 * hits[rng.integers(400, size=(20_000, 400))].mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.3)
    assert (low, high) == pytest.approx((75 - 1.96 * 2.165, 75 + 1.96 * 2.165), abs=0.4)
    assert bootstrap_interval(hits) == bootstrap_interval(hits)


def test_confusion_has_true_classes_in_rows():
    assert confusion_matrix(SCORES, LABELS).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_per_class_table_by_hand():
    table = per_class_table(SCORES, LABELS, ["left", "right", "up"]).set_index("class_name")
    assert table.videos.tolist() == [1, 2, 1]
    assert table.top1.tolist() == [100.0, 50.0, 0.0]  # of its own videos
    assert table.precision[:2].tolist() == [50.0, 50.0]  # of the videos given this class: 1 of 2 and 1 of 2
    assert np.isnan(table.precision["up"])  # no video was given this class
    assert table.most_often_taken_for.tolist() == ["", "left", "right"]


def test_a_class_without_videos_has_no_accuracy_rather_than_zero():
    table = per_class_table(SCORES[:2], LABELS[:2], ["left", "right", "up"])
    assert table.videos.tolist() == [1, 1, 0]
    assert np.isnan(table.top1[2])
