"""Calibration, abstention, mean class accuracy and confused pairs: against scikit-learn, and arithmetic by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from m2clip_lib.evaluate.metrics import (
    abstention_table,
    best_temperature,
    best_weight,
    calibration_error,
    confused_pairs,
    is_hit,
    mean_class_accuracy,
    reliability_table,
    tempered,
    topk_accuracy,
)

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 7, 400)
SCORES = RNG.dirichlet(np.ones(7), 400) + 0.3 * np.eye(7)[LABELS]
SCORES /= SCORES.sum(axis=1, keepdims=True)


def test_accuracies_are_those_of_scikit_learn():
    hits = is_hit(SCORES, LABELS, 1)
    assert mean_class_accuracy(hits, LABELS) == pytest.approx(100 * sk.balanced_accuracy_score(LABELS, SCORES.argmax(1)))
    assert topk_accuracy(SCORES, LABELS, 5) == pytest.approx(100 * sk.top_k_accuracy_score(LABELS, SCORES, k=5))


def test_calibration_error_by_hand():
    # Bins of a tenth: (0.9, 1]: two videos of confidence 0.95, one right; (0.5, 0.6]: one of 0.6, right. (2 * 45 + 40) / 3.
    scores = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6]])
    labels = np.array([0, 1, 1])
    assert calibration_error(scores, labels, bins=10) == pytest.approx((2 * 45 + 40) / 3)
    table = reliability_table(scores, labels, bins=10)
    assert table.videos.tolist() == [1, 2]
    assert table.accuracy.tolist() == [100.0, 50.0]
    assert table.high.tolist() == pytest.approx([0.6, 1.0])


def test_certain_and_right_is_no_error_and_no_videos_are_nan():
    assert calibration_error(np.eye(4), np.arange(4)) == 0
    assert np.isnan(calibration_error(np.zeros((0, 4)), np.zeros(0, int)))
    assert np.isnan(mean_class_accuracy(np.zeros(0, bool), np.zeros(0, int)))


def test_one_class_alone():
    scores = np.ones((3, 1))
    assert calibration_error(scores, np.zeros(3, int)) == 0
    assert tempered(scores, 3.0).tolist() == [[1.0]] * 3


def test_classes_without_videos_do_not_count():
    # Classes 0 and 2 occur: 1 of 2, and 1 of 1.
    assert mean_class_accuracy(np.array([True, False, True]), np.array([0, 0, 2])) == 75.0


def test_temperature_finds_what_the_scores_were_sharpened_by():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(5), 20_000)
    labels = (truth.cumsum(1) > rng.random((len(truth), 1))).argmax(1)  # drawn from these very distributions
    assert best_temperature(truth, labels) == pytest.approx(1, abs=0.03)
    sharp = tempered(truth, 0.4)
    assert best_temperature(sharp, labels) == pytest.approx(2.5, rel=0.03)
    assert calibration_error(sharp, labels) > 10
    assert calibration_error(tempered(sharp, 2.5), labels) < 1.5
    assert (tempered(sharp, 2.5).argmax(1) == sharp.argmax(1)).all()


def test_scores_of_zero_keep_the_temperature_finite():
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert 0.05 <= best_temperature(scores, np.array([0, 1, 1])) <= 20
    assert np.isfinite(tempered(scores, 0.5)).all()


def test_abstention_keeps_the_surest_answers():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    table = abstention_table(scores, np.array([0, 0, 1, 1]), steps=4)
    assert table.answered.tolist() == [25.0, 50.0, 75.0, 100.0]
    assert table.accuracy.tolist() == pytest.approx([100.0, 100.0, 200 / 3, 50.0])
    assert table.threshold.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert len(abstention_table(np.zeros((0, 2)), np.zeros(0, int))) == 0


def test_confused_pairs_come_most_frequent_first():
    counts = np.array([[8, 2, 0], [0, 5, 0], [3, 0, 1]])
    table = confused_pairs(counts, ["a", "b", "c"])
    assert table.values.tolist() == [["c", "a", 3, 75.0], ["a", "b", 2, 20.0]]
    assert len(confused_pairs(np.diag([4, 5]), ["a", "b"])) == 0


def test_the_ensembles_weight_is_the_best_and_of_equals_the_one_next_to_half():
    right, wrong = np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])
    labels = np.array([0])
    assert best_weight(right, right, labels) == 0.5
    # 0.9 w + 0.2 (1 - w) > 1/2 from w = 0.43 on
    assert best_weight(right, wrong, labels) == 0.5
    assert best_weight(wrong, right, labels) == 0.5
    assert best_weight(np.array([[0.55, 0.45]]), wrong, labels) == 0.9  # 0.55 w + 0.2 (1 - w) > 1/2 from 0.857 on
