"""From window scores to segments, without a model: threshold, least length, merging; agreement with known segments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

INSTANT_S = 1e-6  # seconds; less is an error of rounding
THRESHOLDS = tuple(
    (1 / (1 + np.exp(-np.arange(-3, 8.01, 0.125)))).round(4).tolist()
)  # evenly spaced as log-odds: sure scores lie close to 1


@dataclass(frozen=True)
class Segment:
    """A stretch of a video that shows a class. start_s, end_s: seconds after the first frame. score: mean of its windows, in [0, 1]."""

    name: str
    start_s: float
    end_s: float
    score: float = 1.0


def cells(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The edges (n + 1,) of the stretches that n windows stand for: from the middle between two centres to the next middle, seconds."""
    centres = (starts + ends) / 2
    return np.concatenate([starts[:1], (centres[1:] + centres[:-1]) / 2, ends[-1:]])


def segments(
    scores: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    names: Sequence[str],
    threshold: float,
    min_length_s: float = 0.0,
    merge_gap_s: float = 0.0,
) -> list[Segment]:
    """Join the windows in which a class scores at least the threshold. Windows below it, or that could not be read, belong to no segment.

    Each class is on its own, so segments of different classes may overlap.

    Args:
        scores: (n, k) in [0, 1]; NaN rows could not be read. starts, ends: of the windows (n,), ascending, seconds.
        min_length_s: shorter segments are left out, after merging.
        merge_gap_s: segments of a class with no more than this between them become one; its score is the mean over their windows.
    Returns: segments by start, then by the order of names.
    """
    edges, found = cells(starts, ends), []
    for k in range(len(names)):
        runs: list[list[int]] = []  # windows of each segment
        for i in np.flatnonzero(scores[:, k] >= threshold).tolist():
            if runs and edges[i] - edges[runs[-1][-1] + 1] <= merge_gap_s + INSTANT_S:
                runs[-1].append(i)
            else:
                runs.append([i])
        made = [Segment(names[k], float(edges[run[0]]), float(edges[run[-1] + 1]), float(scores[run, k].mean())) for run in runs]
        found += [segment for segment in made if segment.end_s - segment.start_s >= min_length_s - INSTANT_S]
    return sorted(found, key=lambda segment: segment.start_s)  # stable


def overlap(one: Segment, other: Segment) -> float:
    """Intersection over union of two stretches, in [0, 1]."""
    shared = min(one.end_s, other.end_s) - max(one.start_s, other.start_s)
    return max(0.0, shared) / (max(one.end_s, other.end_s) - min(one.start_s, other.start_s))


def hits(found: Sequence[Segment], truth: Sequence[Segment], iou: float = 0.5) -> int:
    """How many found segments have this overlap with a true one of their class. The best scores choose first; a true one is chosen once."""
    left, count = list(truth), 0
    for segment in sorted(found, key=lambda segment: -segment.score):
        best = max((true for true in left if true.name == segment.name), key=lambda true: overlap(segment, true), default=None)
        if best is not None and overlap(segment, best) >= iou:
            left.remove(best)
            count += 1
    return count


def segment_f1(pairs: Sequence[tuple[Sequence[Segment], Sequence[Segment]]], iou: float = 0.5) -> float:
    """F1 of found against true segments over all videos, in [0, 1]: 2 hits / (found + true); 1 where both are none."""
    counts = sum(len(found) + len(truth) for found, truth in pairs)
    return 2 * sum(hits(found, truth, iou) for found, truth in pairs) / counts if counts else 1.0


def choose_threshold(
    videos: Sequence[tuple[Callable[[float], Sequence[Segment]], Sequence[Segment]]], iou: float = 0.5
) -> tuple[float, float]:
    """Pick the threshold with the best segment F1 on videos whose true segments are known.

    Args:
        videos: what finds the segments of a video at a threshold (such as Timeline.segments), and its true segments.
    Returns: the threshold, of equally good ones the middle one; and its F1, which other videos will not reach: it is the best of many.
    """
    found = np.array([segment_f1([(find(threshold), truth) for find, truth in videos], iou) for threshold in THRESHOLDS])
    best = np.flatnonzero(found == found.max())
    return THRESHOLDS[best[len(best) // 2]], float(found.max())
