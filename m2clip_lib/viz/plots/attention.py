"""Does relevance fall on the moving object?"""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from m2clip_lib.evaluate.predict import Timeline
from m2clip_lib.files import write_atomically
from m2clip_lib.viz.style import BLUE, GREY, ORANGE, RED, new_figure, png_bytes

LOOKS = (("o", BLUE), ("D", ORANGE), ("x", GREY))  # the model of the run first


def plot_focus(ax: Axes, table: pd.DataFrame) -> Axes:
    """Share of relevance inside the object's box, per class and model, beside the box's share of the area (focus_table); percent."""
    models, classes = list(dict.fromkeys(table.model)), list(dict.fromkeys(table.class_name))
    places = np.arange(len(classes))
    wide = table.pivot(index="class_name", columns="model", values="inside").loc[classes]
    area = table[table.model == models[0]].set_index("class_name").area.loc[classes]
    ax.barh(places, area, color="#D9D9D9", height=0.75, label="the box's share of the picture")
    for model, (marker, colour) in zip(models, LOOKS, strict=False):
        ax.scatter(wide[model], places, marker=marker, color=colour, s=90, linewidth=2.5, zorder=3, label=model)
    ax.set_yticks(places, classes)
    ax.invert_yaxis()
    ax.set_xlim(0, max(40, 1.1 * float(table.inside.max())))
    ax.set_xlabel("relevance inside the object's box, % of the clip's relevance")
    ax.grid(axis="y", visible=False)
    ratio = table.groupby("model").inside.mean() / table.groupby("model").area.mean()
    above = int((wide[models[0]] > area).sum())
    others = ", ".join(f"{model} {ratio[model]:.1f}" for model in models[1:])
    ax.set_title(
        f"The object's box holds {ratio[models[0]]:.1f} times its share of relevance,\n"
        f"more than its share in {above} of {len(classes)} classes" + (f"\n({others} times)" if others else "")
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=12)
    return ax


def plot_word_attention(ax: Axes, words: Sequence[str], rows: np.ndarray) -> Axes:
    """Attention of words (n) over frames, (n, t), rows sum to 1: word_attention's."""
    image = ax.imshow(100 * rows, cmap="cividis", aspect="auto", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="share of the word's attention, %")
    ax.set_yticks(range(len(words)), words)
    ax.set_xticks(range(rows.shape[1]), [str(i + 1) for i in range(rows.shape[1])])
    ax.set_xlabel("frame of the clip")
    ax.set_ylabel("word of the caption")
    ax.grid(False)
    word, frame = np.unravel_index(rows.argmax(), rows.shape)
    ax.set_title(f"“{words[word]}” reads frame {frame + 1} most: {100 * rows[word, frame]:.0f} % (even: {100 / rows.shape[1]:.0f} %)")
    return ax


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


def timeline_figure(timeline: Timeline) -> Figure:
    """The picture of a timeline."""
    figure, (ax,) = new_figure(11, 1.9 + 0.32 * min(8, len(timeline.names)))
    plot_timeline(ax, timeline.starts, timeline.ends, timeline.scores, timeline.names)
    return figure


def save_timeline(timeline: Timeline, path: Path) -> None:
    """Write the picture of a timeline as PNG."""
    png = png_bytes(timeline_figure(timeline), dpi=150)
    write_atomically(path, lambda file: file.write_bytes(png))
