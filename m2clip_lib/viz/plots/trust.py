"""Figures that say how far an accuracy can be trusted: without time, by confidence, with fewer answers, and nearer to frozen CLIP."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.evaluate.tables import WORDS, measure_of
from m2clip_lib.viz.style import BLUE, GREY, ORANGE, READOUT_COLOURS, name_rows

PLAYED = {"forwards": "as recorded", "backwards": "backwards", "shuffled": "shuffled", "repeated": "one frame repeated"}


def plot_honesty(ax: Axes, table: pd.DataFrame) -> Axes:
    """Top-1, or mAP, with its 95 % interval for every order of the frames (honesty_table, its last read-out), percent."""
    rows = table[table.readout == table.readout.iloc[-1]].reset_index(drop=True)
    colours = [BLUE if played == "forwards" else ORANGE for played in rows.played]
    measure = measure_of(rows)
    values, high = rows[measure], rows[f"{measure}_high"]
    ax.hlines(range(len(rows)), rows[f"{measure}_low"], high, colors=colours, linewidth=4)
    ax.scatter(values, range(len(rows)), s=130, color=colours, zorder=3)
    name_rows(ax, rows.played.map(PLAYED), [(end + 3, f"{value:.1f}") for end, value in zip(high, values, strict=True)])
    by_order = rows.set_index("played")
    finding = f"As recorded {values[0]:.1f} %, with one frame throughout {by_order[measure]['repeated']:.1f} %"
    if "opposite" in rows:
        finding += f";\nplayed backwards, {by_order.opposite['backwards']:.0f} % become their opposite"
    ax.set(xlim=(-2, 115), ylim=(len(rows) - 0.4, -0.6), xlabel=f"{WORDS[measure]}, % ({rows.readout[0]})", title=finding)
    return ax


def plot_reliability(ax: Axes, table: pd.DataFrame) -> Axes:
    """Accuracy against confidence, percent (the calibration table); the area of a dot is its share of the videos."""
    ax.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.5, label="as right as confident")
    for (name, rows), (colour, marker) in zip(table.groupby("scores", sort=False), ((BLUE, "o"), (ORANGE, "^")), strict=False):
        sizes = 40 + 400 * rows.videos / rows.videos.sum()
        label = f"{name} (T = {rows.temperature.iloc[0]:.2f}): error {rows.ece.iloc[0]:.1f} points"
        ax.scatter(rows.confidence, rows.accuracy, s=sizes, color=colour, marker=marker, alpha=0.8, label=label, clip_on=False, zorder=3)
    first = table[table.scores == table.scores.iloc[0]]
    mean = np.average(first.confidence - first.accuracy, weights=first.videos)
    finding = f"On average {abs(mean):.1f} points {'too sure' if mean > 0 else 'too modest'}"
    ax.set(xlim=(0, 100), ylim=(-2, 102), xlabel="confidence (score of the best class), %", ylabel="accuracy, %", title=finding)
    legend = ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=11)
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([60])  # whatever their shares
    return ax


def plot_abstention(ax: Axes, table: pd.DataFrame) -> Axes:
    """Accuracy against the share of videos that are answered, the surest first (abstention_table), percent."""
    ax.plot(table.answered, table.accuracy, color=BLUE, marker="o", linewidth=2)
    half = table.iloc[(table.answered - 50).abs().argmin()]
    finding = f"The surest {half.answered:.0f} % are right in {half.accuracy:.1f} %"
    ax.set(xlim=(0, 103), ylim=(min(table.accuracy.min(), 90) - 3, 101), xlabel="videos answered, %", ylabel="accuracy, %", title=finding)
    return ax


def plot_mix(ax: Axes, table: pd.DataFrame, split: str) -> Axes:
    """Top-1, or mAP, by share of the trained adapters (mix_table), percent: a line per read-out, and one at the chosen share."""
    rows, measure = table[table.split == split], measure_of(table)
    for readout, of_one in rows.groupby("readout", sort=False):
        ax.plot(of_one.mix, of_one[measure], color=READOUT_COLOURS[readout], marker="o", linewidth=2, label=readout)
    chosen, best = rows[rows.chosen], rows[rows.readout == rows.readout.iloc[-1]].set_index("mix")[measure]
    finding = f"From {best.iloc[0]:.1f} % (frozen CLIP) to {best.iloc[-1]:.1f} % (trained)"
    if len(chosen):
        ax.axvline(chosen.mix.iloc[0], color=GREY, linestyle="--", label=f"chosen on validation: {chosen.mix.iloc[0]:g}")
    ax.set(
        ylim=(0, 103),
        xlabel="share of the trained adapters",
        ylabel=f"{WORDS[measure]}, % ({split} split)",
        title=finding,
    )
    ax.legend(loc="best", fontsize=12)
    return ax
