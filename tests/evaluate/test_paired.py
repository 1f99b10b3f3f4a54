"""Paired comparisons: an order is claimed only when seeds and videos both carry it."""

import numpy as np
import pytest

from m2clip_lib.evaluate.paired import comparison_table, paired_difference


def test_a_difference_by_hand():
    """Gains of 3 seeds x 4 videos; seed means 50, 25, 75; video means 100, 100, 0, 0.

    var over seeds 625 / 3 seeds = 208.3; var over videos 3333.3 / 4 videos = 833.3; error sqrt(1041.7) = 32.27; t = 50 / 32.27 = 1.549,
    p with 2 degrees of freedom = 1 - t / sqrt(t^2 + 2) = 0.2615; half an interval 4.3027 * 32.27 = 138.9, cut at 100.
    """
    first = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    second = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(50)
    assert found.p_value == pytest.approx(1 - 1.549 / np.sqrt(1.549**2 + 2), abs=2e-4)
    assert (found.low, found.high) == (pytest.approx(-88.9, abs=0.1), 100)


def test_clips_of_one_recording_count_once():
    """Four copies of every video say no more than one; taken for independent they would halve that part of the error."""
    rng = np.random.default_rng(3)
    first, second = rng.random((3, 100)) < 0.6, rng.random((3, 100)) < 0.5
    once = paired_difference(first, second)
    clips = paired_difference(first.repeat(4, axis=1), second.repeat(4, axis=1), np.arange(100).repeat(4))
    assert (clips.mean, clips.p_value) == (pytest.approx(once.mean), pytest.approx(once.p_value))
    assert paired_difference(first.repeat(4, axis=1), second.repeat(4, axis=1)).p_value < once.p_value
    assert paired_difference(first, second, np.zeros(100, int)).p_value == 1  # one recording proves nothing either


def test_one_seed_proves_nothing():
    found = paired_difference(np.ones((1, 500), bool), np.zeros((1, 500), bool))
    assert (found.mean, found.p_value) == (100, 1)


def test_models_that_agree_everywhere_are_not_ordered():
    hits = np.random.default_rng(0).random((3, 50)) < 0.7
    assert paired_difference(hits, hits).p_value == 1
    assert paired_difference(np.ones((3, 50), bool), np.zeros((3, 50), bool)).p_value == 0


def test_the_false_alarms_of_equal_models_stay_below_the_level():
    """Seeds and videos both vary; 400 pairs of equal models: the test is conservative, so fewer than 5 % are told apart."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(400):
        hard = rng.normal(0, 1, 200)
        luck = rng.normal(0, 0.5, (2, 3, 1))
        first, second = hard + luck + rng.normal(0, 1, (2, 3, 200)) > 0
        alarms += paired_difference(first, second).p_value < 0.05
    assert alarms <= 20


def test_table_claims_an_order_only_where_the_test_carries_it():
    rng = np.random.default_rng(2)
    hits = {"weak": rng.random((3, 400)) < 0.3, "good": rng.random((3, 400)) < 0.90, "as good": rng.random((3, 400)) < 0.90}
    table = comparison_table(hits).set_index(["better", "other"])
    assert len(table) == 3
    assert set(table.index.get_level_values("other")) >= {"weak"}
    ahead = table.ahead.to_dict()
    assert ahead[("good", "weak")]
    assert ahead[("as good", "weak")]
    assert sum(ahead.values()) == 2
    assert (table.difference >= 0).all()
