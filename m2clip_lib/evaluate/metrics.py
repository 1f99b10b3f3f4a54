"""Figures of merit, from score matrices alone. Accuracies in percent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

READOUTS = ("similarity", "classifier", "ensemble")


def top_ids(scores: Float[ndarray, "n k"], k: int) -> Int[ndarray, "n top"]:
    """The k best classes of each row, best first; ties go to the smaller id."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def is_hit(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], k: int) -> Bool[ndarray, "n"]:
    """Whether the true class is among the k best."""
    return (top_ids(scores, k) == labels[:, None]).any(axis=1)


def topk_accuracy(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], k: int) -> float:
    """Share of rows whose true class is among the k best, percent; NaN for no rows."""
    return 100 * float(is_hit(scores, labels, k).mean()) if len(labels) else float("nan")


def direction_hits(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> Bool[ndarray, "n"]:
    """Whether the true class beats its time-reversed partner (class i and i ^ 1), whatever the other classes score; a tie does not."""
    rows = np.arange(len(labels))
    return scores[rows, labels] > scores[rows, labels ^ 1]


def bootstrap_interval(hits: Bool[ndarray, "n"], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of hits, percent: bootstrap over videos."""
    rng = np.random.default_rng(seed)
    # The sum of n draws with replacement from 0/1 values is binomial: the same distribution without drawing indices.
    means = 100 * rng.binomial(len(hits), hits.mean(), size=resamples) / len(hits)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def confusion_matrix(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> Int[ndarray, "k k"]:
    """Counts; rows are true classes, columns predicted ones."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + top_ids(scores, 1)[:, 0], minlength=classes**2).reshape(classes, classes)


def per_class_table(scores: Float[ndarray, "n k"], labels: Int[ndarray, "n"], class_names: Sequence[str]) -> pd.DataFrame:
    """Per class: videos, recall (top1) and precision in percent, and what it is most often mistaken for."""
    counts = confusion_matrix(scores, labels)
    wrong = counts - np.diag(np.diag(counts))
    with np.errstate(invalid="ignore"):
        recall, precision = 100 * np.diag(counts) / counts.sum(axis=1), 100 * np.diag(counts) / counts.sum(axis=0)
    mistaken = [class_names[row.argmax()] if row.any() else "" for row in wrong]
    return pd.DataFrame(
        {"class_name": class_names, "videos": counts.sum(axis=1), "top1": recall, "precision": precision, "most_often_taken_for": mistaken}
    )
