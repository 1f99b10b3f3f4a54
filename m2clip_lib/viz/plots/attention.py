"""Figures of what the model looks at: relevance on the moving object, words over frames, and class scores over a video's time."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from m2clip_lib.files import write_atomically
from m2clip_lib.moments.windows import Timeline
from m2clip_lib.viz.style import BLUE, GREY, ORANGE, RED, name_rows, new_figure, png_bytes

MODEL_LOOKS = (("o", BLUE), ("D", ORANGE), ("x", GREY))  # the run's own model first
TIMELINE_ROWS = 8  # classes: more rows cannot be read


def plot_focus(ax: Axes, table: pd.DataFrame) -> Axes:
    """Share of relevance inside the object's box, per class and model, beside the box's share of the area (focus_table); percent."""
    models, classes = table.model.unique(), table.class_name.unique()
    inside = table.pivot(index="class_name", columns="model", values="inside").loc[classes]
    area = table[table.model == models[0]].set_index("class_name").area.loc[classes]
    ax.barh(range(len(classes)), area, color="#D9D9D9", height=0.75, label="the box's share of the picture")
    for model, (marker, colour) in zip(models, MODEL_LOOKS, strict=False):
        ax.scatter(inside[model], range(len(classes)), marker=marker, color=colour, s=90, linewidth=2.5, zorder=3, label=model)
    name_rows(ax, classes)
    ax.set(xlim=(0, max(40, 1.1 * float(table.inside.max()))), xlabel="relevance inside the object's box, % of the clip's relevance")
    mean = table.groupby("model")[["inside", "area"]].mean()
    ratio = mean.inside / mean.area
    others = ", ".join(f"{model} {ratio[model]:.1f}" for model in models[1:])
    ax.set_title(
        f"The object's box holds {ratio[models[0]]:.1f} times its share of relevance,\n"
        f"more than its share in {(inside[models[0]] > area).sum()} of {len(classes)} classes" + (f"\n({others} times)" if others else "")
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=12)
    return ax


def plot_word_attention(ax: Axes, words: Sequence[str], rows: np.ndarray) -> Axes:
    """Attention of n words over t frames, (n, t), as word_attention returns it: rows sum to 1."""
    image = ax.imshow(100 * rows, cmap="cividis", aspect="auto", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="share of the word's attention, %")
    frames = rows.shape[1]
    ax.set_yticks(range(len(words)), words)
    ax.set_xticks(range(frames), range(1, frames + 1))
    ax.grid(False)
    word, frame = np.unravel_index(rows.argmax(), rows.shape)
    finding = f"“{words[word]}” reads frame {frame + 1} most: {100 * rows[word, frame]:.0f} % (even: {100 / frames:.0f} %)"
    ax.set(xlabel="frame of the clip", ylabel="word of the caption", title=finding)
    return ax


def plot_timeline(ax: Axes, starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> Axes:
    """One cell per class and window, the best framed; the eight classes with the highest score anywhere, ordered by their best time.

    starts, ends: of the windows (n,), seconds. scores: (n, k) in [0, 1]; NaN rows could not be read.
    """
    read, known = np.isfinite(scores).all(axis=1), np.nan_to_num(scores)
    peak, winners = known.max(axis=0), known.argmax(axis=1)
    shown = np.argsort(-peak, kind="stable")[:TIMELINE_ROWS]
    shown = shown[peak[shown] >= min(0.01, peak.max())]  # rows without a trace of colour say nothing
    shown = shown[np.argsort(known[:, shown].argmax(axis=0), kind="stable")]
    centres = (starts + ends) / 2
    edges = np.concatenate([[starts[0]], (centres[1:] + centres[:-1]) / 2, [ends[-1]]])
    image = ax.pcolormesh(edges, np.arange(len(shown) + 1), 100 * scores[:, shown].T, cmap="cividis", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="score, %")
    width = 2.5 if len(starts) <= 60 else 1.0
    # One frame per run of windows with the same winner: with hundreds of windows, single frames would hide the scores.
    cuts = np.flatnonzero(np.diff(np.where(read, winners, -1))) + 1
    for first, last in pairwise([0, *cuts, len(starts)]):
        row = np.flatnonzero(shown == winners[first])
        if read[first] and len(row):
            ax.add_patch(Rectangle((edges[first], row[0]), edges[last] - edges[first], 1, fill=False, edgecolor=RED, linewidth=width))
    ax.set_yticks(np.arange(len(shown)) + 0.5, [textwrap.shorten(names[i], 34) for i in shown])
    ax.invert_yaxis()
    ax.grid(False)
    finding = "No window could be read"
    if read.any():
        wins = np.bincount(winners[read])
        finding = f"“{names[wins.argmax()]}” leads in {wins.max()} of {read.sum()} windows of {ends[0] - starts[0]:.3g} s"
    ax.set(xlabel="time in the video, s (middle of each window to the middle of the next)", title=finding)
    return ax


def timeline_figure(timeline: Timeline) -> Figure:
    """Draw a timeline as a figure of its own."""
    figure, (ax,) = new_figure(11, 1.9 + 0.32 * min(TIMELINE_ROWS, len(timeline.names)))
    plot_timeline(ax, timeline.starts, timeline.ends, timeline.scores, timeline.names)
    return figure


def save_timeline(timeline: Timeline, path: Path) -> None:
    """Write the picture of a timeline as PNG."""
    png = png_bytes(timeline_figure(timeline), dpi=150)
    write_atomically(path, lambda file: file.write_bytes(png))
