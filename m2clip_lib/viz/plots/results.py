"""Figures of the evaluation step: what is right, what is wrong, and against what."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREY, ORANGE, chance_line, class_ticks


def plot_confusion(ax: Axes, counts: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Confusion matrix as row percentages; rows are true classes."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(share, cmap="cividis", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="share of the true class, %", shrink=0.8)
    class_ticks(ax, class_names, rotate=True)
    if len(class_names) <= 20:
        for i, j in zip(*np.nonzero(share >= 0.5), strict=True):
            ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=11, color="black" if share[i, j] > 55 else "white")
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    ax.grid(False)
    wrong = counts - np.diag(np.diag(counts))
    if wrong.any():
        i, j = np.unravel_index(wrong.argmax(), wrong.shape)
        ax.set_title(f"Most frequent mistake: “{class_names[i]}” taken for\n“{class_names[j]}” ({wrong[i, j]} of {counts[i].sum()} videos)")
    else:
        ax.set_title("Not one mistake")
    return ax


def plot_per_class(ax: Axes, table: pd.DataFrame) -> Axes:
    """Top-1 a class, sorted (per_class_table), percent; at most the 15 best and 15 worst."""
    ordered = table.dropna(subset="top1").sort_values("top1", kind="stable")  # a class without videos has no accuracy
    if len(ordered) > 30:
        ordered = pd.concat([ordered.iloc[:15], ordered.iloc[-15:]])
    ax.barh(ordered.class_name, ordered.top1, color=BLUE)
    for y, value in enumerate(ordered.top1):
        ax.text(value + 1, y, f"{value:.0f}", va="center", fontsize=12)
    ax.set_xlim(0, 108)
    ax.set_xlabel("top-1 of the ensemble, %")
    ax.grid(axis="y", visible=False)
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    ax.set_title(f"From “{worst.class_name}” ({worst.top1:.0f} %) to “{best.class_name}” ({best.top1:.0f} %)")
    return ax


def plot_models(ax: Axes, rows: pd.DataFrame, measure: str, chance: float) -> Axes:
    """One dot a model; the last row is the model of the run, the others its controls (columns model, top1 or direction); percent."""
    positions = np.arange(len(rows))[::-1]
    colours = [GREY] * (len(rows) - 1) + [BLUE]
    values = rows[measure].to_numpy()
    for x, y, colour in zip(values, positions, colours, strict=True):
        ax.plot([0, x], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
        ax.scatter(x, y, s=130, color=colour, zorder=3)
        ax.text(x + 4, y, f"{x:.1f}", va="center")
    chance_line(ax, chance)
    ax.set_yticks(positions, rows.model)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlim(0, 115)
    ax.set_xlabel({"top1": "top-1, %", "direction": "direction accuracy, % (true class against its opposite)"}[measure])
    ax.grid(axis="y", visible=False)
    name = {"top1": "Top-1", "direction": "Direction"}[measure]
    ax.set_title(f"{name}: {values[-1]:.1f} %, best control without time {values[:-1].max():.1f} %")
    ax.legend(loc="lower right", fontsize=12)
    return ax


def plot_backwards(ax: Axes, table: pd.DataFrame) -> Axes:
    """Ensemble top-1 on the true and on the opposite class, videos played forwards and backwards; percent."""
    rows = table[table.readout == "ensemble"].set_index("played")
    for offset, column, colour, name, hatch in (
        (-0.2, "true_class", BLUE, "true class", None),
        (0.2, "opposite_class", ORANGE, "opposite class", "//"),
    ):
        values = rows.loc[["forwards", "backwards"], column]
        ax.bar(np.arange(2) + offset, values, width=0.38, color=colour, label=f"predicted: {name}", hatch=hatch, edgecolor="white")
        for x, value in zip(np.arange(2) + offset, values, strict=True):
            ax.text(x, value + 1.5, f"{value:.1f}", ha="center")
    ax.set_xticks([0, 1], ["played forwards", "played backwards"])
    ax.set_ylim(0, 110)
    ax.set_ylabel("share of videos, %")
    ax.grid(axis="x", visible=False)
    ax.set_title(f"Played backwards, {rows.loc['backwards', 'opposite_class']:.0f} % become their opposite")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return ax


def plot_gain(ax: Axes, ours: pd.DataFrame, control: pd.DataFrame, name: str) -> Axes:
    """What each class gains over a control, sorted (two per_class_tables); percentage points, at most the 15 best and 15 worst.

    name: of the control.
    """
    gain = (ours.set_index("class_name").top1 - control.set_index("class_name").top1).dropna().sort_values(kind="stable")
    shown = pd.concat([gain.iloc[:15], gain.iloc[-15:]]) if len(gain) > 30 else gain
    bars = ax.barh(range(len(shown)), shown, color=[BLUE if value >= 0 else ORANGE for value in shown])
    for bar, value in zip(bars, shown, strict=True):
        if value < 0:
            bar.set(hatch="//", edgecolor="white")
    ax.set_yticks(range(len(shown)), shown.index)
    for y, value in enumerate(shown):
        ax.text(value + (1 if value >= 0 else -1), y, f"{value:+.0f}", va="center", ha="left" if value >= 0 else "right", fontsize=12)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_xlim(min(0, shown.min()) - 12, max(0, shown.max()) + 12)
    ax.set_xlabel(f"top-1 of M2-CLIP minus {name}, percentage points")
    ax.grid(axis="y", visible=False)
    worse = int((gain < 0).sum())
    ax.set_title(f"{int((gain > 0).sum())} of {len(gain)} classes gain, {worse or 'none'} lose{'s' if worse == 1 else ''}")
    return ax
