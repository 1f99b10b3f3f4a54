"""Measures of accuracy, in percent, computed from score matrices alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest

READOUTS = ("similarity", "classifier", "ensemble")
NO_LABELS = np.zeros(0, np.int64)


def top_ids(scores: Float[ndarray, "n k"], k: int) -> Int[ndarray, "n top"]:
    """The k best classes of each row, best first; ties go to the smaller id."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def is_hit(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], k: int) -> Bool[ndarray, "n"]:
    """Whether the true class is among the k best."""
    return (top_ids(scores, k) == labels[:, None]).any(axis=1)


def percent(hits: Bool[ndarray, "n"]) -> float:
    """Share of hits in percent; NaN without rows."""
    return 100 * float(hits.mean()) if len(hits) else float("nan")


def topk_accuracy(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], k: int) -> float:
    """Share of rows whose true class is among the k best, percent; NaN without rows, and with k classes or fewer: nothing can miss."""
    return percent(is_hit(scores, labels, k)) if scores.shape[1] > k else float("nan")


def direction_hits(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], opposites: Int[ndarray, "k"]) -> Bool[ndarray, "m"]:
    """Whether the true class beats its time-reversed partner, whatever the other classes score; a tie is a miss.

    opposites: the partner of each class, -1 where it has none, so that its videos are left out (m <= n).
    """
    partners = opposites[labels]
    rows = np.flatnonzero(partners >= 0)
    return scores[rows, labels[rows]] > scores[rows, partners[rows]]


def numbered(recordings: Shaped[ndarray, "n"] | None, videos: int) -> Int[ndarray, "n"]:
    """A number from 0 for the recording of each video; None: every video is its own recording."""
    return np.arange(videos) if recordings is None else np.unique(recordings, return_inverse=True)[1]


def resampled(values: Shaped[ndarray, "n"], groups: Int[ndarray, "n"], resamples: int = 10_000) -> Float[ndarray, "resamples"]:
    """Means of values, times 100, over recordings drawn with replacement. groups: see numbered.

    Recordings with equal numbers of videos and equal sums are interchangeable: how often each kind occurs is drawn, not the recordings.
    """
    kinds, frequency = np.unique(np.stack([np.bincount(groups), np.bincount(groups, values)]), axis=1, return_counts=True)
    count = int(frequency.sum())
    videos, sums = kinds @ np.random.default_rng(0).multinomial(count, frequency / count, size=resamples).T
    return 100 * sums / videos


def accuracy_interval(hits: Bool[ndarray, "n"], recordings: Shaped[ndarray, "n"] | None = None) -> tuple[float, float, str]:
    """95 % interval of the share of hits, percent, and its name; NaN without rows.

    Args:
        recordings: what each video was cut from, see numbered.
    Returns: low, high, "wilson"; or, where videos share recordings, whose hits are not independent, "bootstrap over N recordings"
        ("wilson over N recordings" if all of these have the same share of hits: drawing from them would give no width).
    """
    if not len(hits):
        return float("nan"), float("nan"), ""
    groups, name = numbered(recordings, len(hits)), "wilson"
    count = int(groups.max()) + 1
    if count < len(hits):
        low, high = np.percentile(resampled(hits, groups), [2.5, 97.5])
        if low < high:
            return float(low), float(high), f"bootstrap over {count} recordings"
        name = f"wilson over {count} recordings"
    found = binomtest(round(count * hits.mean()), count).proportion_ci(0.95, method="wilson")
    return 100 * float(found.low), 100 * float(found.high), name


def top1_columns(hits: Bool[ndarray, "n"], recordings: Shaped[ndarray, "n"] | None = None) -> dict[str, float | str]:
    """The columns of a top-1 accuracy with its 95 % interval, percent, and the interval's name."""
    low, high, name = accuracy_interval(hits, recordings)
    return {"top1": percent(hits), "top1_low": low, "top1_high": high, "interval": name}


def best_weight(similarity: Float[ndarray, "n k"], classifier: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> float:
    """The weight of the similarity, of 0, 0.1, ..., 1, whose ensemble names most videos; of equals, the one closest to 1/2."""
    hits = {w / 10: is_hit(w / 10 * similarity + (1 - w / 10) * classifier, labels, 1).sum() for w in range(11)}
    return max(hits, key=lambda weight: (hits[weight], -abs(weight - 0.5)))


def mean_class_accuracy(hits: Bool[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Mean over the classes that occur of their shares of hits, percent: every class counts the same. NaN without rows."""
    return float(np.mean([percent(hits[labels == label]) for label in np.unique(labels)])) if len(hits) else float("nan")


def reliability_table(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], bins: int = 15) -> pd.DataFrame:
    """Is a video named with 80 % confidence right in 80 % of cases? One row per bin of equal width that is not empty.

    Columns: low, high (of the best class' score, in (low, high]), videos, confidence and accuracy (means in percent).
    """
    best, right = scores.max(axis=1), is_hit(scores, labels, 1)
    places = np.clip(np.ceil(best * bins).astype(int) - 1, 0, bins - 1)
    members = {i: places == i for i in range(bins)}
    rows = [(i / bins, (i + 1) / bins, own.sum(), percent(best[own]), percent(right[own])) for i, own in members.items() if own.any()]
    return pd.DataFrame(rows, columns=["low", "high", "videos", "confidence", "accuracy"])


def calibration_error(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], bins: int = 15) -> float:
    """Expected calibration error, percentage points: mean over videos of |confidence - accuracy| of their bin. NaN without rows."""
    table = reliability_table(scores, labels, bins)
    return float(np.average(abs(table.confidence - table.accuracy), weights=table.videos)) if len(table) else float("nan")


def tempered(scores: Float[ndarray, "n k"], temperature: float) -> Float[ndarray, "n k"]:
    """Softmax scores as they would be if their logarithms were divided by a temperature; the order of the classes stays."""
    return softmax(np.log(np.maximum(scores, np.finfo(np.float64).tiny)) / temperature, axis=1)


def best_temperature(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> float:
    """The temperature, from 0.05 to 20, with the largest likelihood of the labels: to be fitted on validation, and used elsewhere."""

    def loss(logarithm: float) -> float:
        own = tempered(scores, np.exp(logarithm))[np.arange(len(labels)), labels]
        return -float(np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def abstention_table(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], steps: int = 20) -> pd.DataFrame:
    """Accuracy if only the surest answers are given: answered (share of videos, percent), threshold (least score), accuracy (percent)."""
    best, right = scores.max(axis=1), is_hit(scores, labels, 1)
    order = np.argsort(-best, kind="stable")
    counts = sorted({max(1, round(len(order) * step / steps)) for step in range(1, steps + 1)}) if len(order) else []
    rows = [(100 * n / len(order), float(best[order[n - 1]]), percent(right[order[:n]])) for n in counts]
    return pd.DataFrame(rows, columns=["answered", "threshold", "accuracy"])


def confused_pairs(counts: Int[ndarray, "k k"], class_names: Sequence[str], most: int = 20) -> pd.DataFrame:
    """The most frequent mistakes of a confusion matrix: true_class, taken_for, videos, share (of the true class' videos, percent)."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    places = [divmod(int(i), len(counts)) for i in np.argsort(-wrong, axis=None, kind="stable")[:most] if wrong.flat[i]]
    rows = [(class_names[i], class_names[j], int(wrong[i, j]), 100 * wrong[i, j] / counts[i].sum()) for i, j in places]
    return pd.DataFrame(rows, columns=["true_class", "taken_for", "videos", "share"])


def confusion_matrix(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> Int[ndarray, "k k"]:
    """Counts; rows are true classes, columns predicted ones."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + top_ids(scores, 1)[:, 0], minlength=classes**2).reshape(classes, classes)


def per_class_table(
    scores: Float[ndarray, "n k"],
    labels: Int[ndarray, "n"],
    class_names: Sequence[str],
    recordings: Shaped[ndarray, "n_or_more"] | None = None,
    wrong: Int[ndarray, "wrong"] = NO_LABELS,
) -> pd.DataFrame:
    """One row per class: videos, recall (top1) with its 95 % interval, precision in percent, the class it is most often mistaken for.

    Args:
        recordings: as in accuracy_interval, of the scored videos, then of those in `wrong`.
        wrong: labels of videos without scores that top1 counts as wrong; they are not in `videos`.
    """
    counts = confusion_matrix(scores, labels)
    hits, truth = np.pad(is_hit(scores, labels, 1), (0, len(wrong))), np.append(labels, wrong)
    groups = np.arange(len(hits)) if recordings is None else recordings[: len(hits)]
    with np.errstate(invalid="ignore"):
        precision = 100 * np.diag(counts) / counts.sum(axis=0)
    mistaken = [class_names[row.argmax()] if row.any() else "" for row in counts - np.diag(np.diag(counts))]
    recall = pd.DataFrame([top1_columns(hits[truth == label], groups[truth == label]) for label in range(len(class_names))])
    table = pd.DataFrame({"class_name": class_names, "videos": counts.sum(axis=1)}).join(recall)
    return table.assign(precision=precision, most_often_taken_for=mistaken)
