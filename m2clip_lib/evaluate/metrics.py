"""Measures of accuracy, in percent, computed from score matrices alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import binom

READOUTS = ("similarity", "classifier", "ensemble")


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
    """Share of rows whose true class is among the k best, percent; NaN without rows."""
    return percent(is_hit(scores, labels, k))


def direction_hits(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> Bool[ndarray, "n"]:
    """Whether the true class beats its time-reversed partner (class i ^ 1), whatever the other classes score; a tie is a miss."""
    rows = np.arange(len(labels))
    return scores[rows, labels] > scores[rows, labels ^ 1]


def bootstrap_interval(hits: Bool[ndarray, "n"], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of hits, percent: bootstrap over videos."""
    # The sum of n draws with replacement from 0/1 values is binomial: the same distribution without drawing indices.
    counts = binom.rvs(len(hits), hits.mean(), size=resamples, random_state=np.random.default_rng(seed))
    low, high = np.percentile(100 * counts / len(hits), [2.5, 97.5])
    return float(low), float(high)


def top1_columns(hits: Bool[ndarray, "n"]) -> dict[str, float]:
    """The columns of a top-1 accuracy with its 95 % interval, percent."""
    low, high = bootstrap_interval(hits)
    return {"top1": percent(hits), "top1_low": low, "top1_high": high}


def confusion_matrix(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> Int[ndarray, "k k"]:
    """Counts; rows are true classes, columns predicted ones."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + top_ids(scores, 1)[:, 0], minlength=classes**2).reshape(classes, classes)


def per_class_table(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], class_names: Sequence[str]) -> pd.DataFrame:
    """One row per class: videos, recall (top1) and precision in percent, and the class it is most often mistaken for."""
    counts = confusion_matrix(scores, labels)
    hits, videos = np.diag(counts), counts.sum(axis=1)
    wrong = counts - np.diag(hits)
    with np.errstate(invalid="ignore"):
        recall, precision = 100 * hits / videos, 100 * hits / counts.sum(axis=0)
    mistaken = [class_names[row.argmax()] if row.any() else "" for row in wrong]
    return pd.DataFrame(
        {"class_name": class_names, "videos": videos, "top1": recall, "precision": precision, "most_often_taken_for": mistaken}
    )
