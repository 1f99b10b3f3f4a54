"""Measures for videos with several labels, in percent: average precision with its interval, and F1 at thresholds chosen on validation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from m2clip_lib.evaluate.metrics import numbered

RESAMPLES = 1000
AT_ONCE = 2**22  # weights (resamples x videos) in memory


def average_precision(scores: Float[ndarray, "n"], targets: Bool[ndarray, "n"], weights: Shaped[ndarray, "r n"]) -> Float[ndarray, "r"]:
    """Average precision of one class, percent, where video i occurs weights[r, i] times; NaN where no video has the class.

    It is the sum over distinct scores of precision x recall gained, without interpolation; videos of equal score are taken together.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of those with one score
    videos, hits = (np.cumsum(counts[:, order], axis=1)[:, ends] for counts in (weights, weights * targets))
    with np.errstate(invalid="ignore"):
        return 100 * (np.diff(hits, axis=1, prepend=0) * hits / np.maximum(videos, 1)).sum(axis=1) / hits[:, -1]


def average_precisions(scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"]) -> Float[ndarray, "k"]:
    """Average precision of every class, percent."""
    once = np.ones((1, len(scores)), np.int64)
    return np.array([average_precision(of_class, own, once)[0] for of_class, own in zip(scores.T, targets.T, strict=True)])


def mean_average_precision(scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"]) -> float:
    """Mean of average_precisions over the classes that occur: mAP; NaN without any."""
    return float(np.mean(average_precisions(scores, targets)[targets.any(axis=0)])) if targets.any() else float("nan")


def drawn_maps(
    scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"], recordings: Shaped[ndarray, "n"] | None = None
) -> Float[ndarray, "r"]:
    """The mAP over recordings drawn with replacement, RESAMPLES times: the same draws whatever the scores. recordings: see numbered."""
    groups, rng = numbered(recordings, len(scores)), np.random.default_rng(0)
    count = int(groups.max()) + 1
    occurring, parts = np.flatnonzero(targets.any(axis=0)), []
    for size in [len(part) for part in np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * len(scores) // AT_ONCE))]:
        weights = rng.multinomial(count, np.full(count, 1 / count), size)[:, groups]
        found = [average_precision(scores[:, label], targets[:, label], weights) for label in occurring]
        parts.append(np.nanmean(found, axis=0))  # a rare class need not be drawn
    return np.concatenate(parts)


def best_thresholds(scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"]) -> Float[ndarray, "k"]:
    """For every class the least score that counts as its being there, with the largest F1; of equals the highest.

    It lies halfway to the next lower score. A class without videos keeps 1/2.
    """
    found = np.full(scores.shape[1], 0.5)
    for label in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, hits = scores[order, label], np.cumsum(targets[order, label])
        ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
        best = ends[np.argmax(2 * hits[ends] / (ends + 1 + hits[-1]))]
        found[label] = (ranked[best] + ranked[min(best + 1, len(ranked) - 1)]) / 2
    return found


def class_f1(scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"], thresholds: Float[ndarray, "k"]) -> Float[ndarray, "k"]:
    """F1 of every class, percent; NaN for a class that no video has."""
    said = scores >= thresholds
    with np.errstate(invalid="ignore"):
        f1 = 200 * (said & targets).sum(axis=0) / (said.sum(axis=0) + targets.sum(axis=0))
    return np.where(targets.any(axis=0), f1, np.nan)


def map_columns(
    scores: Float[ndarray, "n k"],
    targets: Bool[ndarray, "n k"],
    recordings: Shaped[ndarray, "n"],
    thresholds: Float[ndarray, "k"] | None = None,
) -> dict[str, float | str]:
    """The columns mean_ap, with its 95 % interval and the interval's name, and with thresholds f1, the mean over the classes that occur."""
    low, high = np.percentile(drawn_maps(scores, targets, recordings), [2.5, 97.5])
    name = f"bootstrap over {len(np.unique(recordings))} recordings"
    row = {"mean_ap": mean_average_precision(scores, targets), "mean_ap_low": float(low), "mean_ap_high": float(high), "interval": name}
    return row | ({} if thresholds is None else {"f1": float(np.nanmean(class_f1(scores, targets, thresholds)))})


def label_table(
    scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"], class_names: Sequence[str], thresholds: Float[ndarray, "k"] | None = None
) -> pd.DataFrame:
    """One row per class: class_name, videos that have it, ap (percent); with thresholds also f1 (percent) and threshold."""
    table = pd.DataFrame({"class_name": class_names, "videos": targets.sum(axis=0), "ap": average_precisions(scores, targets)})
    return table if thresholds is None else table.assign(f1=class_f1(scores, targets, thresholds), threshold=thresholds)


def one_sided(targets: Bool[ndarray, "n k"], opposites: Int[ndarray, "k"]) -> tuple[Int[ndarray, "m"], Int[ndarray, "m"]]:
    """Videos and those of their labels whose opposite is a class, but no label of the video."""
    return np.nonzero(targets & ~targets[:, opposites] & (opposites >= 0))


def ranking_precision(scores: Float[ndarray, "n k"], targets: Bool[ndarray, "n k"]) -> Float[ndarray, "n"]:
    """How high its labels rank among the classes of each video: mean over them of the share of labels among the classes up to this rank."""
    hits = np.take_along_axis(targets, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    shares = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (hits * shares).sum(axis=1) / hits.sum(axis=1)
