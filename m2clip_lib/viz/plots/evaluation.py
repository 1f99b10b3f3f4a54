"""Figures of the evaluation and ablation steps: what is right and wrong, against which controls, at what cost; and the features."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from m2clip_lib.evaluate.tables import MEASURES
from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, chance_line, class_matrix, name_rows

NAMES = {  # of measures on an axis
    "top1": "top-1, %",
    "mean_ap": "mAP, %",
    "direction": "direction accuracy, % (true class against its opposite)",
}
CLASS_LOOKS = list(product((BLUE, ORANGE, GREEN, RED, PURPLE, SKY), ("o", "^")))  # classes that can be told apart; the others are grey
COSTS = {  # column -> unit, axis label
    "frames": ("frames", "frames per view"),
    "views": ("views", "views per video"),
    "gflops": ("GFLOP", "GFLOP per video: all views, full forward pass, 2 per multiply-add"),
}


def plot_confusion(ax: Axes, counts: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Confusion matrix as row percentages; rows are true classes."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    class_matrix(ax, share, class_names, "share of the true class, %", high=100)
    if len(class_names) <= 20:
        for i, j in np.argwhere(share >= 0.5):
            ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=11, color="black" if share[i, j] > 55 else "white")
    wrong = counts - np.diag(np.diag(counts))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    most = f"“{class_names[i]}” taken for\n“{class_names[j]}” ({wrong[i, j]} of {counts[i].sum()} videos)"
    ax.set(xlabel="predicted", ylabel="true", title=f"Most frequent mistake: {most}" if wrong.any() else "Not one mistake")
    return ax


def plot_per_class(ax: Axes, table: pd.DataFrame) -> Axes:
    """Top-1 per class, sorted (per_class_table, with a column readout to name), percent; at most the 15 best and 15 worst.

    Where videos have several labels, the average precision of each class (label_table).
    """
    measure = "ap" if "ap" in table else "top1"
    shown = _extremes(table.set_index("class_name")[measure])
    ax.barh(range(len(shown)), shown, color=BLUE)
    name_rows(ax, shown.index, [(value + 1, f"{value:.0f}") for value in shown], downwards=False, size=12)
    finding = f"From “{shown.index[0]}” ({shown.iloc[0]:.0f} %) to “{shown.index[-1]}” ({shown.iloc[-1]:.0f} %)"
    name = {"ap": "average precision, %", "top1": "top-1, %"}[measure]
    ax.set(xlim=(0, 108), xlabel=name + (f" ({table.readout.iloc[0]})" if "readout" in table else ""), title=finding)
    return ax


def _extremes(values: pd.Series) -> pd.Series:
    """Sort values, without those that are missing (classes without videos), and keep the first and last 15."""
    ordered = values.dropna().sort_values(kind="stable")
    return ordered if len(ordered) <= 30 else pd.concat([ordered.iloc[:15], ordered.iloc[-15:]])


def plot_models(ax: Axes, rows: pd.DataFrame, measure: str, chance: float) -> Axes:
    """One dot per model; the last row is the model of the run, the others its controls (columns model, and one of MEASURES); percent."""
    values, last = rows[measure].to_numpy(), len(rows) - 1
    colours = [GREY] * last + [BLUE]
    ax.hlines(range(len(rows)), 0, values, colors=colours, linewidth=3)
    ax.scatter(values, range(len(rows)), s=130, color=colours, zorder=3)
    chance_line(ax, chance)
    name_rows(ax, rows.model, [(value + 4, f"{value:.1f}") for value in values])
    finding = f"{MEASURES[measure]}: {values[-1]:.1f} %, best control without time {values[:-1].max():.1f} %"
    ax.set(xlim=(0, 115), ylim=(last + 0.6, -0.6), xlabel=NAMES[measure], title=finding)
    ax.legend(loc="lower right", fontsize=12)
    return ax


def plot_gain(ax: Axes, ours: pd.DataFrame, control: pd.DataFrame, name: str, own_name: str = "M2-CLIP") -> Axes:
    """What each class gains over a control, sorted (two per_class_tables or label_tables), points; at most the 15 best and 15 worst.

    name: of the control. own_name: of the other model.
    """
    measure, words = ("ap", "average precision") if "ap" in ours else ("top1", "top-1")
    gain = ours.set_index("class_name")[measure] - control.set_index("class_name")[measure]
    shown = _extremes(gain)
    for y, value in enumerate(shown):
        up = value >= 0
        look = {"color": BLUE} if up else {"color": ORANGE, "hatch": "//", "edgecolor": "white"}
        ax.barh(y, value, **look)
        ax.text(value + (1 if up else -1), y, f"{value:+.0f}", va="center", ha="left" if up else "right", fontsize=12)
    name_rows(ax, shown.index, downwards=False)
    ax.axvline(0, color="black", linewidth=1)
    better, worse = (gain > 0).sum(), (gain < 0).sum()
    finding = f"{better} of {gain.count()} classes gain, {worse or 'none'} lose{'s' if worse == 1 else ''}"
    ax.set(xlim=(min(0, shown.min()) - 12, max(0, shown.max()) + 12), title=finding)
    space = " " if len(own_name + name) < 35 else "\n"
    ax.set_xlabel(f"{words} of {own_name}{space}minus {name}, percentage points")
    return ax


def plot_ablation(ax: Axes, table: pd.DataFrame, measure: str, chance: float, comparisons: pd.DataFrame | None = None) -> Axes:
    """One row per variant: a ring per seed, a red bar at the mean (job_table, ensemble read-out); percent.

    comparisons: a comparison_table of the variants; without it the title claims no order.
    """
    rows = table[table.readout == "ensemble"]
    found = rows.groupby("variant", sort=False)[measure].agg(["mean", "min", "max"]).sort_values("mean", kind="stable")
    places = rows.variant.map({variant: y for y, variant in enumerate(found.index)})
    ax.hlines(range(len(found)), found["min"], found["max"], color=BLUE, linewidth=2, zorder=2)
    ax.scatter(rows[measure], places, s=60, facecolor="white", edgecolor=BLUE, linewidth=2, zorder=3)
    ax.scatter(found["mean"], range(len(found)), marker="|", s=500, color=RED, linewidths=3, zorder=4)
    chance_line(ax, chance)
    labels = [(high + 3, f"{mean:.1f}") for mean, high in zip(found["mean"], found["max"], strict=True)]
    name_rows(ax, found.index, labels, downwards=False)
    finding = f"{MEASURES[measure]}: no order is claimed"
    if comparisons is not None and len(comparisons):
        first = comparisons.iloc[0]  # the best two
        verdict = "ahead of" if first.ahead else "not separable from"
        finding = f"{MEASURES[measure]}: “{first.better}” is {verdict} “{first.other}”"
    name = {"top1": "top-1 of the ensemble, %", "mean_ap": "mAP of the ensemble, %", "direction": "direction accuracy, %"}[measure]
    ax.set(xlim=(0, 112), ylim=(-0.6, len(found) - 0.4), xlabel=name, title=finding)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def plot_cost(ax: Axes, ours: pd.DataFrame, others: pd.DataFrame, cost: str) -> Axes:
    """One point per model: top-1 in percent over a cost, log scale.

    Args:
        ours, others: columns model, top1, and the cost (evaluate.cost.published_costs gives the others'); both have one dataset, and
            either may be empty. A row without the cost is left out. ours may carry top1_low and top1_high.
        cost: "frames", "views" or "gflops".
    """
    own, published = (table.dropna(subset=[cost]) for table in (ours, others))
    if len(published):
        ax.scatter(published[cost], published.top1, s=70, color=ORANGE, marker="s", label="published by others", zorder=3)
        published = published.sort_values("top1")
        gap = 0.04 * max(np.ptp(published.top1), 1)
        heights = _apart(list(np.log(published[cost])), list(published.top1), gap)
        for model, x, y in zip(published.model, published[cost], heights, strict=True):
            ax.annotate(model, (x, y), (7, 0), textcoords="offset points", fontsize=10, va="center")
    if len(own):
        own = own.sort_values(cost)
        tops = own.get("top1_high", own.top1)  # a number is written above its interval
        error = [own.top1 - own.top1_low, tops - own.top1] if "top1_low" in own else None
        ax.errorbar(own[cost], own.top1, yerr=error, fmt="o-", color=BLUE, linewidth=2.5, markersize=9, capsize=4, label="this run")
        for x, y, value in zip(own[cost], tops, own.top1, strict=True):
            ax.annotate(f"{value:.1f}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=12)
    ax.set_xscale("log", base=2 if cost != "gflops" else 10)
    shown = sorted({*own[cost], *published[cost]})
    if cost != "gflops" or not len(published):
        ax.set_xticks(shown)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.2g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(y=0.15)
    limits = (shown[0] / 1.5, shown[-1] * (4 if len(published) else 1.5))
    unit, name = COSTS[cost]
    ax.set(xlim=limits, xlabel=name, ylabel="top-1, %", title=_cost_finding(own, published, cost, unit))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def _apart(x: list[float], y: list[float], gap: float) -> list[float]:
    """Return heights of labels, at least `gap` above those nearby in x. y ascends; labels only move up."""
    near = 0.25 * (max(x) - min(x) + np.log(6))  # about the width of a label: the axis is that long, in logarithms
    placed: list[tuple[float, float]] = []
    for left, height in zip(x, y, strict=True):
        below = [h + gap for at, h in placed if abs(at - left) < near]
        placed.append((left, max([height, *below])))
    return [height for _, height in placed]


def _cost_finding(own: pd.DataFrame, published: pd.DataFrame, cost: str, unit: str) -> str:
    if len(own) > 1:
        first, best = own.iloc[0], own.loc[own.top1.idxmax()]
        if best.name == first.name:
            return f"{best[cost]:.3g} {unit} are best: top-1 {best.top1:.1f} %, {own.top1.min():.1f} % at worst"
        return f"From {first[cost]:.3g} to {best[cost]:.3g} {unit}: top-1 {first.top1:.1f} → {best.top1:.1f} %"
    if len(own) and len(published):
        ahead = (published.top1 > own.top1.iloc[0]).sum()
        return f"{ahead} of {len(published)} published models are above this run's {own.top1.iloc[0]:.1f} %"
    rows = own if len(own) else published
    return f"Best: {rows.loc[rows.top1.idxmax(), 'model']} with {rows.top1.max():.1f} %"


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, float]:
    """(n, e) -> coordinates on the two directions of greatest variance (n, 2), and the share of all variance they hold."""
    u, s, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    return u[:, :2] * s[:2], float((s[:2] ** 2).sum() / (s**2).sum())


def neighbour_share(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips whose nearest other clip, by cosine in all dimensions, is of the same class, percent."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return 100 * float((labels[cosine.argmax(axis=1)] == labels).mean())


def plot_embedding(ax: Axes, features: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Principal components of the clips' features, one colour and mark per class for the twelve most frequent classes.

    features: (n, e). labels: (n,).
    """
    points, share = principal_axes(features)
    common = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")[: len(CLASS_LOOKS)]
    ax.scatter(*points[~np.isin(labels, common)].T, s=12, color=GREY, alpha=0.3)
    marks = {}
    for label, (colour, marker) in zip(sorted(common), CLASS_LOOKS, strict=False):
        own = points[labels == label]
        if len(own):
            marks[class_names[label]] = ax.scatter(*own.T, s=34, color=colour, marker=marker, alpha=0.75, linewidth=0)
    finding = f"{neighbour_share(features, labels):.0f} % of clips have their nearest neighbour in their own class"
    ax.set(ylabel="second principal component", title=finding)
    ax.set_xlabel(f"first principal component (both hold {100 * share:.0f} % of the variance)")
    ax.legend(marks.values(), marks, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=12, markerscale=1.5)
    return ax
