"""Paired comparisons on the same videos: of two evaluations, and of models that were trained with the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped
from numpy import ndarray
from scipy.stats import t as student

from m2clip_lib.evaluate.metrics import numbered, resampled

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus that of another, percentage points, with its 95 % interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(first: Bool[ndarray, "n"], second: Bool[ndarray, "n"], recordings: Shaped[ndarray, "n"] | None = None) -> Difference:
    """Compare hits of two evaluations of the same n videos: a percentile bootstrap over recordings, and a p-value from the same draws.

    It speaks of these two trained models, not of others: for that, train with several seeds and use paired_difference.
    recordings: what each video was cut from, see numbered.
    """
    gain = first.astype(int) - second.astype(int)
    if not len(gain):
        return Difference(*[float("nan")] * 4)
    drawn = resampled(gain, numbered(recordings, len(gain)))
    low, high = np.percentile(drawn, [2.5, 97.5])
    p_value = min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn)))
    return Difference(100 * float(gain.mean()), float(low), float(high), float(p_value))


def in_words(first: str, second: str, found: Difference) -> str:
    """A comparison as a sentence that claims no more than its interval."""
    if not (found.low > 0 or found.high < 0):
        return f"{first} and {second}: no difference shown ({found.mean:+.1f} points, 95 % interval {found.low:.1f} to {found.high:.1f})."
    better, other, sign = (first, second, 1) if found.mean > 0 else (second, first, -1)
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{better} is better than {other} by {sign * found.mean:.1f} points (95 % interval {low:.1f} to {high:.1f})."


def paired_difference(
    first: Bool[ndarray, "s n"], second: Bool[ndarray, "s n"], recordings: Shaped[ndarray, "n"] | None = None
) -> Difference:
    """Compare hits of two models on n videos, each trained with the same s seeds.

    Both seeds and recordings count as drawn at random: the variance of the mean is that over seeds plus that over recordings, which is
    never too small (Owen 2007, "The pigeonhole bootstrap"), and t has s - 1 degrees of freedom. One seed proves nothing: p is 1.
    recordings: what each video was cut from, see numbered.
    """
    gain = 100 * (first.astype(float) - second.astype(float))
    seeds, videos = gain.shape
    groups = numbered(recordings, videos)
    count = int(groups.max()) + 1
    mean = float(gain.mean())
    if seeds < 2 or count < 2:
        return Difference(mean, -100.0, 100.0, 1.0)
    of_recording = np.bincount(groups, gain.mean(axis=0) - mean) / videos  # each one's part of the mean; they add up to 0
    error = float(np.sqrt(gain.mean(axis=1).var(ddof=1) / seeds + (of_recording**2).sum() * count / (count - 1)))
    half = float(student.ppf(1 - LEVEL / 2, seeds - 1)) * error
    p_value = 2 * float(student.sf(abs(mean) / error, seeds - 1)) if error else float(mean == 0)
    return Difference(mean, max(-100.0, mean - half), min(100.0, mean + half), p_value)


def comparison_table(hits: Mapping[str, Bool[ndarray, "s n"]], recordings: Shaped[ndarray, "n"] | None = None) -> pd.DataFrame:
    """Every pair of models, the better one first: difference, its interval, p_value, and `ahead`, whether an order may be claimed.

    p_value is corrected for the number of pairs (Bonferroni); the intervals are of single differences. recordings: see paired_difference.
    """
    ranked = sorted(hits, key=lambda name: -hits[name].mean())
    pairs = list(combinations(ranked, 2))
    rows = []
    for better, other in pairs:
        found = paired_difference(hits[better], hits[other], recordings)
        p_value = min(1.0, found.p_value * len(pairs))
        numbers = {"difference": found.mean, "low": found.low, "high": found.high, "p_value": p_value}
        rows.append({"better": better, "other": other} | numbers | {"ahead": p_value < LEVEL})
    return pd.DataFrame(rows)
