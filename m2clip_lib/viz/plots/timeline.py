"""What is happening when: scores over the time of a long video."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from m2clip_lib.viz.style import RED

SHOWN = 8  # classes: more rows cannot be read


def plot_timeline(ax: Axes, starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> Axes:
    """One row a class (the eight with the highest score anywhere, in order of their best time), one cell a window, the best
    framed.

    starts, ends: of the windows (n,), seconds. scores: (n, k) in [0, 1]; NaN rows could not be read.
    """
    read = np.isfinite(scores).all(axis=1)
    peak = np.nan_to_num(scores).max(axis=0)
    shown = np.argsort(-peak, kind="stable")[:SHOWN]
    shown = shown[peak[shown] >= min(0.01, peak.max())]  # rows without a trace of colour say nothing
    shown = shown[np.argsort(np.nan_to_num(scores)[:, shown].argmax(axis=0), kind="stable")]
    centres = (starts + ends) / 2
    edges = np.concatenate([[starts[0]], (centres[1:] + centres[:-1]) / 2, [ends[-1]]])
    image = ax.pcolormesh(edges, np.arange(len(shown) + 1), 100 * scores[:, shown].T, cmap="cividis", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="score, %")
    winners = np.nan_to_num(scores).argmax(axis=1)
    width = 2.5 if len(starts) <= 60 else 1.0
    for first, last in _runs(np.where(read, winners, -1)):  # one frame a run: of hundreds of windows frames would hide the scores
        row = np.flatnonzero(shown == winners[first])
        if read[first] and len(row):
            ax.add_patch(Rectangle((edges[first], row[0]), edges[last] - edges[first], 1, fill=False, edgecolor=RED, linewidth=width))
    ax.set_yticks(np.arange(len(shown)) + 0.5, [textwrap.shorten(names[i], 34) for i in shown])
    ax.invert_yaxis()
    ax.set_xlabel("time in the video, s (middle of each window to the middle of the next)")
    ax.grid(False)
    if not read.any():
        ax.set_title("No window could be read")
        return ax
    labels, counts = np.unique(winners[read], return_counts=True)
    best = labels[counts.argmax()]
    ax.set_title(f"“{names[best]}” leads in {counts.max()} of {read.sum()} windows of {ends[0] - starts[0]:.3g} s")
    return ax


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """[first, end) of each stretch of equal values."""
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(pairwise(cuts))
