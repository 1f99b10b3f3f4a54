"""Figures of transfer: few videos of each class, and seen against unseen classes between frozen CLIP and the trained model."""

import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, READOUT_COLOURS, RED


def plot_few_shot(ax: Axes, table: pd.DataFrame) -> Axes:
    """Top-1 over training videos per class, percent (few_shot): a line per read-out, bars from the least to the most of the seeds."""
    for readout, rows in table.groupby("readout", sort=False):
        error = [rows.top1 - rows.top1_min, rows.top1_max - rows.top1]
        ax.errorbar(rows.shots, rows.top1, yerr=error, color=READOUT_COLOURS[readout], marker="o", linewidth=2, capsize=4, label=readout)
    last = table[table.readout == table.readout.iloc[-1]]
    finding = f"From {last.shots.iloc[0]} to {last.shots.iloc[-1]} videos per class: {last.top1.iloc[0]:.1f} → {last.top1.iloc[-1]:.1f} %"
    ax.set_xscale("log", base=2)
    ax.set_xticks(shown := sorted(set(table.shots)), list(map(str, shown)))
    ax.set(ylim=(0, 103), xlabel="training videos per class", ylabel="top-1, %", title=finding)
    ax.legend(loc="best", fontsize=12)
    return ax


def plot_dial(ax: Axes, table: pd.DataFrame) -> Axes:
    """Seen (supervised) over unseen classes (zero-shot), percent: a point per share of the adapters (base_to_novel with several mixes)."""
    curve = table.pivot_table(index="mix", columns="measure", values="top1")
    ax.plot(curve.novel, curve.base, color=BLUE, marker="o", linewidth=2, label="share of the trained adapters")
    for mix, row in curve.iterrows():
        ax.annotate(f"{mix:g}", (row.novel, row.base), (7, -14), textcoords="offset points", fontsize=12)
    for mix in table.mix[table.chosen].unique():
        ax.scatter(curve.novel[mix], curve.base[mix], s=220, facecolor="none", edgecolor=RED, linewidth=2, label="chosen on validation")
    first, last = curve.iloc[0], curve.iloc[-1]
    finding = f"Seen {first.base:.1f} → {last.base:.1f} %, unseen {first.novel:.1f} → {last.novel:.1f} %"
    limits = {"xlim": (0, 103), "ylim": (0, 103)}
    ax.set(xlabel="top-1 on unseen classes, zero-shot, %", ylabel="top-1 on seen classes, supervised, %", title=finding, **limits)
    ax.legend(loc="best", fontsize=12)
    return ax
