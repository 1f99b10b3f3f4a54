"""Figures of the ablations."""

import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, RED, chance_line


def plot_ablation(ax: Axes, table: pd.DataFrame, measure: str, chance: float) -> Axes:
    """One row a variant: each seed a dot, the mean a bar (job_table, ensemble read-out); percent."""
    rows = table[table.readout == "ensemble"]
    order = rows.groupby("variant", sort=False)[measure].mean().sort_values(kind="stable")
    for y, (variant, mean) in enumerate(order.items()):
        values = rows.loc[rows.variant == variant, measure]
        ax.plot([values.min(), values.max()], [y, y], color=BLUE, linewidth=2, zorder=2)
        ax.scatter(values, [y] * len(values), s=60, facecolor="white", edgecolor=BLUE, linewidth=2, zorder=3)
        ax.scatter(mean, y, marker="|", s=500, color=RED, linewidths=3, zorder=4)
        ax.text(values.max() + 3, y, f"{mean:.1f}", va="center")
    chance_line(ax, chance)
    ax.set_yticks(range(len(order)), order.index)
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.set_xlim(0, 112)
    ax.set_xlabel({"top1": "top-1 of the ensemble, %", "direction": "direction accuracy, %"}[measure])
    ax.grid(axis="y", visible=False)
    ax.set_title(_ablation_finding(rows, list(order.index), measure))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def _ablation_finding(rows: pd.DataFrame, order: list[str], measure: str) -> str:
    """Best variant against the runner-up; a claim only where their seeds do not overlap."""
    if len(order) < 2 or rows.seed.nunique() < 2:
        return "Too few variants or seeds for a claim"
    best, second = order[-1], order[-2]
    apart = rows.loc[rows.variant == best, measure].min() > rows.loc[rows.variant == second, measure].max()
    name = {"top1": "Top-1", "direction": "Direction"}[measure]
    return f"{name}: “{best}” is {'ahead of' if apart else 'not separable from'} “{second}”"
