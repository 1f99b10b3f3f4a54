"""Confident learning by hand: folds, out-of-sample probabilities, classes that are not told apart, suspected labels."""

import numpy as np
import pytest

from m2clip_lib.curate.suspects import FOLDS, deal_folds, out_of_sample, suspects, told_apart

EVERY = ~np.eye(3, dtype=bool)


def test_folds_keep_groups_whole_and_spread_every_class():
    labels = np.repeat([0, 1, 2], 20)
    groups = [row // 2 for row in range(60)]
    folds = deal_folds(labels, groups)
    assert (folds[::2] == folds[1::2]).all()
    for label in range(3):
        assert np.bincount(folds[labels == label], minlength=FOLDS).tolist() == [4] * FOLDS
    assert (deal_folds(labels, groups) == folds).all()


def test_suspects_exceed_the_mean_confidence_of_the_other_class():
    """Class 1's videos get 0.8 and 0.6 for it, mean 0.7: row 0 (0.75) is suspected, row 1 (0.65) is not, although it is likelier."""
    probabilities = np.array([[0.15, 0.75, 0.1], [0.3, 0.65, 0.05], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.4, 0.6, 0.0], [0, 0, 1.0]])
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert suspects(probabilities, labels, EVERY) == [(0, 1, pytest.approx(0.6))]
    blind = EVERY.copy()
    blind[0, 1] = blind[1, 0] = False
    assert suspects(probabilities, labels, blind) == []


def test_suspects_are_sorted_by_the_difference_of_their_probabilities():
    probabilities = np.array([[0.1, 0.9], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 0, 1])
    assert [(row, label) for row, label, _ in suspects(probabilities, labels, EVERY[:2, :2])] == [(1, 1), (0, 1)]


def test_a_class_without_videos_is_suggested_to_nobody():
    assert suspects(np.array([[0.1, 0.0, 0.9], [0.1, 0.9, 0.0]]), np.array([0, 1]), EVERY) == []


@pytest.mark.parametrize(("per_class", "reliable"), [(10, True), (4, False)])
def test_classes_are_told_apart_only_with_enough_videos(per_class, reliable):
    """All right: 1 - 1.64 * 0.25 * sqrt(2 / 10) = 0.82 exceeds 0.75, 1 - 1.64 * 0.25 * sqrt(2 / 4) = 0.71 does not."""
    labels = np.repeat([0, 1], per_class)
    right, apart = told_apart(np.eye(2)[labels], labels)
    assert right[0, 1] == right[1, 0] == 1
    assert apart.tolist() == [[False, reliable], [reliable, False]]


def test_classes_that_look_the_same_are_not_told_apart():
    labels = np.repeat([0, 1, 2], 100)
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 300) @ np.array([[1.0, 0, 0], [0, 1, 0]]) * 0.9 + np.array([0, 0, 0.1])
    probabilities[200:] = [0.05, 0.05, 0.9]
    right, apart = told_apart(probabilities, labels)
    assert 0.4 < right[0, 1] < 0.6
    assert apart.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_a_probe_never_sees_the_video_it_judges():
    """Eight of 160 labels are exchanged, in two clouds that are far from each other."""
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1], 80)
    x = rng.normal(size=(160, 8)).astype(np.float32)
    x[:, 0] += 8 * true
    wrong = rng.choice(160, 8, replace=False)
    labels = true.copy()
    labels[wrong] = 1 - labels[wrong]
    probabilities = out_of_sample(x, labels, 2, deal_folds(labels, range(160)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    found = {row for row, _, _ in suspects(probabilities, labels, told_apart(probabilities, labels)[1])}
    assert len(found & set(wrong.tolist())) >= 6
    assert len(found) <= 9


def test_clips_of_one_recording_alone_are_not_judged():
    labels = np.array([0, 0, 1, 1])
    probabilities = out_of_sample(np.eye(4, dtype=np.float32), labels, 2, deal_folds(labels, ["one"] * 4))
    assert suspects(probabilities, labels, told_apart(probabilities, labels)[1]) == []
