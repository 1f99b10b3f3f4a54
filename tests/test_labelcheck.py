"""The label check on made-up scores: a permuted list is found, a right one is not."""

import numpy as np
import pytest

from m2clip_lib.engine.evaluate import Predictions
from m2clip_lib.engine.labelcheck import check_labels

CLASSES, EACH = 10, 8
TRUTH = np.repeat(np.arange(CLASSES), EACH)


def zero_shot(guesses: np.ndarray, labels: np.ndarray) -> Predictions:
    """Predictions of a CLIP that guesses so."""
    scores = np.full((len(guesses), CLASSES), 0.01)
    scores[np.arange(len(guesses)), guesses] = 0.9
    return Predictions(scores, None, labels, list(range(len(labels))), [f"class {i}" for i in range(CLASSES)])


def guesses_with(share: float) -> np.ndarray:
    """Right for the first `share` of every class, else the next class."""
    right = np.tile(np.arange(EACH) < share * EACH, CLASSES)
    return np.where(right, TRUTH, (TRUTH + 1) % CLASSES)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_a_right_list_is_not_suspicious(share):
    check = check_labels(zero_shot(guesses_with(share), TRUTH))
    assert check.observed == 100 * share
    assert not check.suspicious


@pytest.mark.parametrize("seed", range(5))
def test_a_permuted_list_is_found(seed):
    # A derangement, as in the replicate: no class kept its name. CLIP itself is right about the pictures.
    order = np.random.default_rng(seed).permutation(CLASSES)
    permuted = np.empty(CLASSES, int)
    permuted[order] = np.roll(order, 1)
    check = check_labels(zero_shot(guesses_with(1.0), permuted[TRUTH]))
    assert check.observed == 0.0
    assert check.suspicious
    assert check.p_value == 1.0  # every relabelling does at least as well as nothing


def test_a_clip_without_words_for_the_classes_is_suspicious():
    # It always says class 3: any relabelling scores exactly the same, one class in ten.
    check = check_labels(zero_shot(np.full(len(TRUTH), 3), TRUTH), relabellings=50)
    assert check.shuffled.tolist() == pytest.approx([10.0] * 50)
    assert check.p_value == 1.0


def test_p_value_counts_the_list_itself():
    check = check_labels(zero_shot(guesses_with(1.0), TRUTH), relabellings=99)
    assert check.p_value == pytest.approx(1 / 100)  # none of 99 permutations of ten classes is the identity
    assert len(check.shuffled) == 99


def test_relabellings_average_to_chance_and_come_from_the_seed():
    found = zero_shot(guesses_with(1.0), TRUTH)
    check = check_labels(found, relabellings=2000)
    assert check.shuffled.mean() == pytest.approx(100 / CLASSES, abs=1)
    assert np.array_equal(check.shuffled, check_labels(found, relabellings=2000).shuffled)
    assert not np.array_equal(check.shuffled, check_labels(found, relabellings=2000, seed=1).shuffled)
