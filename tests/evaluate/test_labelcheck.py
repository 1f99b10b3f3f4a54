"""The label check on made-up scores: a permuted list is found, a correct one is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.labelcheck import check_labels, count_rivals, settle_labels
from m2clip_lib.evaluate.predictions import Predictions

EXPERIMENT = Experiment(name="mine")
CLASSES, EACH = 10, 8
TRUTH = np.repeat(np.arange(CLASSES), EACH)


def zero_shot(guesses: np.ndarray, labels: np.ndarray) -> Predictions:
    """Predictions of a CLIP with these guesses."""
    scores = np.full((len(guesses), CLASSES), 0.01)
    scores[np.arange(len(guesses)), guesses] = 0.9
    return Predictions(scores, None, labels, list(range(len(labels))), [f"class {i}" for i in range(CLASSES)])


def guesses_with(share: float) -> np.ndarray:
    """Right for the first `share` of every class, else the next class."""
    right = np.tile(np.arange(EACH) < share * EACH, CLASSES)
    return np.where(right, TRUTH, (TRUTH + 1) % CLASSES)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_a_correct_list_is_not_suspicious(share):
    check = check_labels(zero_shot(guesses_with(share), TRUTH))
    assert check.observed == 100 * share
    assert not check.suspicious
    assert not check.permuted


@pytest.mark.parametrize("seed", range(5))
def test_a_permuted_list_is_found(seed):
    # A derangement, as in the replicate: no class kept its name. CLIP itself is right about the pictures.
    order = np.random.default_rng(seed).permutation(CLASSES)
    permuted = np.empty(CLASSES, int)
    permuted[order] = np.roll(order, 1)
    check = check_labels(zero_shot(guesses_with(1.0), permuted[TRUTH]))
    assert check.observed == 0.0
    assert check.suspicious
    assert check.p_value == 1.0  # every relabelling does at least as well as 0 %


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


# --- permuted names, or a CLIP that cannot see these classes ---

NAMES = [f"class {i}" for i in range(CLASSES)]


def permutation(seed: int) -> np.ndarray:
    """Label -> another label, none kept."""
    order = np.random.default_rng(seed).permutation(CLASSES)
    permuted = np.empty(CLASSES, int)
    permuted[order] = np.roll(order, 1)
    return permuted


def manifest(paths: list[str], labels: np.ndarray, folder: Path) -> Manifest:
    return Manifest(pd.DataFrame({"path": paths, "label": labels, "split": "test", "status": "ok"}), NAMES, folder, "")


def flat(labels: np.ndarray, folder: Path) -> Manifest:
    return manifest([f"/videos/{i}.mp4" for i in range(len(labels))], labels, folder)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "each"), [(1.0, 8), (0.75, 8), (0.4, 40)])
def test_permuted_names_come_back_on_videos_they_were_not_fitted_to(seed, share, each):
    permuted, rng = permutation(seed), np.random.default_rng(seed)
    truth = np.repeat(np.arange(CLASSES), each)
    guesses = np.where(rng.uniform(size=len(truth)) < share, truth, rng.integers(CLASSES, size=len(truth)))
    check = check_labels(zero_shot(guesses, permuted[truth]))
    assert check.permuted
    assert check.relabelling.videos == len(truth) // 2
    if share == 1.0:
        assert np.array_equal(check.relabelling.names[permuted], np.arange(CLASSES))
        assert (check.relabelling.listed, check.relabelling.fitted) == (0.0, 100.0)


def test_permuted_list_stops_with_counts_and_three_examples(tmp_path):
    permuted = np.roll(np.arange(CLASSES), -1)  # the videos of class 0 have label 1
    check = check_labels(zero_shot(TRUTH, permuted[TRUTH]))
    with pytest.raises(UserError) as error:
        settle_labels(check, EXPERIMENT, flat(permuted[TRUTH], tmp_path), accept=False)
    text = str(error.value)
    assert "0.0 % of 40 videos with the names as listed and 100.0 % with names exchanged (10 of 10 classes clearly)" in text
    assert text.count("look like") == 3
    assert "videos labelled 'class 1' look like 'class 0'" in text
    assert "ACCEPT_PERMUTED_LABELS" in text
    assert "\n" not in text
    accepted = settle_labels(check, EXPERIMENT, flat(permuted[TRUTH], tmp_path), accept=True)
    assert accepted.startswith("ACCEPTED ALTHOUGH labels: the class names are permuted")


def test_names_that_the_folders_vouch_for_are_never_called_permuted(tmp_path):
    labels = permutation(0)[TRUTH]
    check = check_labels(zero_shot(TRUTH, labels))
    assert check.permuted
    listed = manifest([f"/v/{NAMES[label]}/{i}.mp4" for i, label in enumerate(labels)], labels, tmp_path)
    assert settle_labels(check, EXPERIMENT, listed, accept=False) == ""


@pytest.mark.parametrize("first", [0, 5, 7])
def test_names_of_a_part_that_are_shifted_by_one_are_found(first):
    """One name too many in the middle of the names file: the classes before it are right, and the list is better than chance."""
    labels = np.arange(CLASSES)
    labels[first:] = np.roll(labels[first:], 1)
    check = check_labels(zero_shot(TRUTH, labels[TRUTH]))
    assert check.permuted
    assert len(check.relabelling.returned) == CLASSES - first
    assert check.relabelling.returned_fitted == 100.0


def test_two_classes_that_are_swapped_are_found():
    guesses, labels = np.repeat([0, 1], 20), np.repeat([1, 0], 20)
    scores = np.where(guesses[:, None] == [0, 1], 0.9, 0.1)
    assert check_labels(Predictions(scores, None, labels, list(range(40)), ["a", "b"])).permuted
    assert not check_labels(Predictions(scores, None, guesses, list(range(40)), ["a", "b"])).permuted


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_clip_confuses_are_not_called_permuted(seed):
    """Pairs such as "eating burger" and "eating hotdog": half of each is given the other's name."""
    truth, rng = np.repeat(np.arange(CLASSES), 40), np.random.default_rng(seed)
    guesses = np.where(rng.uniform(size=len(truth)) < 0.5, truth, truth ^ 1)
    check = check_labels(zero_shot(guesses, truth))
    assert not check.suspicious
    assert not check.permuted


@pytest.mark.parametrize("seed", range(5))
def test_blind_clip_is_not_called_a_permuted_list(tmp_path, seed):
    guesses = np.random.default_rng(seed).integers(CLASSES, size=len(TRUTH))
    check = check_labels(zero_shot(guesses, TRUTH))
    assert not check.permuted
    assert settle_labels(check, EXPERIMENT, flat(TRUTH, tmp_path), accept=False) == ""


def test_clip_that_knows_two_words_for_everything_is_not_called_a_permuted_list():
    # as the demonstration's: its motions look like one or two of the words, and consistently so
    check = check_labels(zero_shot(np.where(TRUTH < 5, 7, 2), TRUTH))
    assert check.relabelling.fitted > check.relabelling.listed
    assert not check.permuted


def test_one_video_per_class_leaves_nothing_to_judge_by():
    check = check_labels(zero_shot(np.arange(CLASSES), np.roll(np.arange(CLASSES), 1)))
    assert check.relabelling.videos == 0
    assert not check.permuted


# --- names that CLIP does not know ---


def seen_by_clip(classes: int, rng: np.random.Generator, known: float = 0.0, labels: np.ndarray | None = None) -> Predictions:
    """Classes that look different, as frozen CLIP scores them with their own names and with 300 unrelated ones.

    Meanings have 40 independent directions. known: cosine of a name's meaning with that of its class; 0: the name is a word like any other.
    labels: label of the videos of each class (default: the right one).
    """
    truth = np.repeat(np.arange(classes), max(6, -(-200 // classes)))
    meanings, names, others = (rng.normal(size=(count, 40)) for count in (classes, classes, 300))
    images = meanings[truth] + 1.5 * rng.normal(size=(len(truth), 40))
    names = known * meanings + np.sqrt(1 - known**2) * names
    logits = 0.12 * images @ np.concatenate([names, others]).T
    labels = truth if labels is None else labels[truth]
    scores = softmax(logits[:, :classes], axis=1)
    return Predictions(scores, None, labels, list(range(len(truth))), [f"class {i}" for i in range(classes)], logits=logits)


@pytest.mark.parametrize(("classes", "refused_before"), [(2, 7), (6, 18), (8, 13), (12, 21)])
def test_correct_lists_with_names_that_clip_does_not_know_are_not_refused(tmp_path, classes, refused_before):
    """Old code refused `refused_before` of these 60 correct lists: whatever the names are, some order of them fits best."""
    rng = np.random.default_rng(classes)
    checks = [check_labels(seen_by_clip(classes, rng)) for _ in range(60)]
    assert sum(check.reordered for check in checks) == refused_before
    assert sum(check.permuted for check in checks) <= 2
    doubtful = next(check for check in checks if check.reordered and not check.permuted)
    warning = settle_labels(doubtful, EXPERIMENT, flat(np.zeros(1, int), tmp_path), accept=False)  # no refusal
    assert warning.startswith("labels: UNDECIDED: frozen CLIP recognises ")
    assert f"{doubtful.relabelling.fitted:.1f} % with names exchanged, but unrelated words can be fitted as well" in warning


@pytest.mark.parametrize(("classes", "first"), [(6, 0), (8, 0), (12, 0), (8, 3), (12, 6)])
def test_permuted_and_shifted_lists_are_still_refused_when_clip_knows_the_names(classes, first):
    """Zero-shot top-1 with the right names is 67 to 79 %. first: the names before it are right."""
    rng, labels = np.random.default_rng(classes), np.arange(classes)
    labels[first:] = np.roll(labels[first:], 1)
    checks = [check_labels(seen_by_clip(classes, rng, known=0.6, labels=labels)) for _ in range(12)]
    assert sum(check.permuted for check in checks) >= 11


def test_unrelated_names_are_fitted_in_the_same_way_and_counted():
    """Two classes, one direction each; by hand: own names fit all videos surely, unrelated ones only if a pair has one of each kind."""
    labels = np.repeat([0, 1], 8)
    sides = np.where(labels == 0, 1.0, -1.0)[:, None]
    others = np.array([[0.5] * 10 + [-0.5] * 10])  # a word of each kind is drawn by 10 of 19 pairs: always right, but half as sure
    fitting, names = np.tile([True, False], 8), np.array([1, 0])
    clear, faint = (np.hstack([sides * own, sides * others]) for own in ([[-1.0, 1.0]], [[-0.4, 0.4]]))
    assert count_rivals(clear, labels, fitting, names, np.random.default_rng(0)) == 0
    assert count_rivals(faint, labels, fitting, names, np.random.default_rng(0)) == pytest.approx(400 * 10 / 19, abs=30)
