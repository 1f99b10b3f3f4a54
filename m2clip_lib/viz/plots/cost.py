"""Accuracy against what it costs, with the published numbers of others beside ours."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from m2clip_lib.viz.style import BLUE, ORANGE

AXES = {
    "frames": "frames a view",
    "views": "views a video",
    "gflops": "GFLOP a video, all views (a multiply-add counts as two)",
}


def plot_cost(ax: Axes, ours: pd.DataFrame, others: pd.DataFrame, cost: str) -> Axes:
    """One point a model: top-1 in percent over a cost, log scale.

    Args:
        ours, others: columns model, top1, and the cost (engine.cost.published_costs gives the others'); both have one dataset, and
            either may be empty. A row without the cost is left out. ours may carry top1_low and top1_high.
        cost: "frames", "views" or "gflops".
    """
    own, published = ours.dropna(subset=[cost]), others.dropna(subset=[cost])
    if len(published):
        ax.scatter(published[cost], published.top1, s=70, color=ORANGE, marker="s", label="published by others", zorder=3)
        gap = 0.04 * max(published.top1.max() - published.top1.min(), 1)
        published = published.sort_values("top1")
        for row, y in zip(published.itertuples(), _apart(list(np.log(published[cost])), list(published.top1), gap), strict=True):
            ax.annotate(row.model, (getattr(row, cost), y), (7, 0), textcoords="offset points", fontsize=10, va="center")
    if len(own):
        own = own.sort_values(cost)
        error = [own.top1 - own.top1_low, own.top1_high - own.top1] if "top1_low" in own else None
        ax.errorbar(own[cost], own.top1, yerr=error, fmt="o-", color=BLUE, linewidth=2.5, markersize=9, capsize=4, label="this run")
        for row in own.itertuples():
            above = getattr(row, "top1_high", row.top1)  # the number stands above its interval
            ax.annotate(f"{row.top1:.1f}", (getattr(row, cost), above), (0, 6), textcoords="offset points", ha="center", fontsize=12)
    ax.set_xscale("log", base=2 if cost != "gflops" else 10)
    shown = sorted({*own[cost], *published[cost]})
    if cost != "gflops" or not len(published):
        ax.set_xticks(shown)
    low, high = min(shown), max(shown)
    ax.set_xlim(low / 1.5, high * (4 if len(published) else 1.5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value > 100 else f"{value:.2g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(y=0.15)
    ax.set_xlabel(AXES[cost])
    ax.set_ylabel("top-1, %")
    ax.set_title(_finding(own, published, cost))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def _apart(x: list[float], y: list[float], gap: float) -> list[float]:
    """Heights of labels, at least `gap` apart from those that stand near in x; y ascending, each label moves up at most."""
    near = 0.25 * (max(x) - min(x) + np.log(6))  # about as wide as a label: the axis is that long, in logarithms
    placed: list[tuple[float, float]] = []
    for left, height in zip(x, y, strict=True):
        below = [h for at, h in placed if abs(at - left) < near]
        placed.append((left, max([height, *(h + gap for h in below if h + gap > height)])))
    return [height for _, height in placed]


def _finding(own: pd.DataFrame, published: pd.DataFrame, cost: str) -> str:
    unit = {"frames": "frames", "views": "views", "gflops": "GFLOP"}[cost]
    if len(own) > 1:
        first, best = own.iloc[0], own.loc[own.top1.idxmax()]
        if best.name == first.name:
            return f"{best[cost]:.3g} {unit} are best: top-1 {best.top1:.1f} %, {own.top1.min():.1f} % at worst"
        return f"From {first[cost]:.3g} to {best[cost]:.3g} {unit}: top-1 {first.top1:.1f} → {best.top1:.1f} %"
    if len(own) and len(published):
        ahead = int((published.top1 > own.top1.iloc[0]).sum())
        return f"{ahead} of {len(published)} published models are above this run's {own.top1.iloc[0]:.1f} %"
    rows = own if len(own) else published
    return f"Best: {rows.loc[rows.top1.idxmax(), 'model']} with {rows.top1.max():.1f} %"
