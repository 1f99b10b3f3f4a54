"""Figures of the evaluation step: what is right, what is wrong, and against what."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, chance_line, class_ticks


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


AXES = {
    "frames": "frames a view",
    "views": "views a video",
    "gflops": "GFLOP a video, all views (a multiply-add counts as two)",
}


def plot_cost(ax: Axes, ours: pd.DataFrame, others: pd.DataFrame, cost: str) -> Axes:
    """One point a model: top-1 in percent over a cost, log scale.

    Args:
        ours, others: columns model, top1, and the cost (evaluate.cost.published_costs gives the others'); both have one dataset, and
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


COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
MARKERS = ("o", "^")
SHOWN = len(COLOURS) * len(MARKERS)  # classes that can be told apart; the others are grey


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, float]:
    """(n, e) -> coordinates on the two directions of greatest variance (n, 2), and the share of all variance they hold."""
    centred = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2], float((s[:2] ** 2).sum() / (s**2).sum())


def neighbour_share(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips whose nearest other clip, by cosine in all dimensions, is of the same class, percent."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return 100 * float((labels[cosine.argmax(axis=1)] == labels).mean())


def plot_embedding(ax: Axes, features: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Principal components of the clips' features, one colour and mark a class; the twelve commonest classes.

    features: (n, e). labels: (n,).
    """
    points, share = principal_axes(features)
    common = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")[:SHOWN]
    others = ~np.isin(labels, common)
    ax.scatter(*points[others].T, s=12, color=GREY, alpha=0.3)
    for place, label in enumerate(sorted(common)):
        colour, marker = COLOURS[place // len(MARKERS)], MARKERS[place % len(MARKERS)]
        own = points[labels == label]
        if len(own):
            ax.scatter(*own.T, s=34, color=colour, marker=marker, alpha=0.75, linewidth=0, label=class_names[label])
    ax.set_xlabel(f"first principal component (both hold {100 * share:.0f} % of the variance)")
    ax.set_ylabel("second principal component")
    ax.set_title(f"{neighbour_share(features, labels):.0f} % of clips have their nearest neighbour in their own class")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=12, markerscale=1.5)
    return ax
