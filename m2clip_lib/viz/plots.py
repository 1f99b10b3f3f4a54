"""The workbook's figures. Every function takes axes and tables, returns the axes, and writes the finding into the title."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, READOUT_COLOURS, RED, chance_line

TERM_NAMES = {"contrastive": "contrastive", "cross_modal": "cross-modal", "classification": "classification", "mlm": "masked words"}
TERM_STYLES = {"contrastive": (BLUE, "-"), "cross_modal": (ORANGE, "--"), "classification": (GREEN, "-."), "mlm": (RED, ":")}


def plot_clip_grid(ax: Axes, clips: Sequence[np.ndarray], captions: Sequence[str], title: str) -> Axes:
    """One clip a row, its frames from left to right in time.

    clips: (t, h, w, 3) uint8 RGB, all of one size. captions: beside the rows.
    """
    gap = max(1, clips[0].shape[2] // 20)
    height = clips[0].shape[1]
    rows = [np.concatenate([np.pad(f, ((gap, gap), (gap, gap), (0, 0)), constant_values=255) for f in clip], axis=1) for clip in clips]
    ax.imshow(np.concatenate(rows, axis=0), interpolation="nearest")
    ax.set_yticks([(height + 2 * gap) * (i + 0.5) for i in range(len(clips))], captions)
    ax.set_xticks([])
    ax.set_xlabel("time, frames of the clip from first to last →")
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title)
    return ax


def plot_class_balance(ax: Axes, table: pd.DataFrame) -> Axes:
    """Usable videos a class and split. table: a manifest."""
    counts = table.assign(usable=table.status == "ok").groupby(["class_name", "split"], sort=False).usable.sum().unstack(fill_value=0)
    counts = counts[[split for split in ("train", "val", "test") if split in counts]]
    order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index[:30]  # more do not fit a picture: the largest 30
    left = np.zeros(len(order))
    for split, colour in zip(counts, (BLUE, ORANGE, GREEN), strict=False):
        values = counts.loc[order, split].to_numpy()
        ax.barh(order, values, left=left, color=colour, label=split)
        left += values
    least, most = int(counts.sum(axis=1).min()), int(counts.sum(axis=1).max())
    balanced = "All classes have the same number of videos" if least == most else f"Classes have {least} to {most} videos"
    ax.set_title(balanced)
    ax.invert_yaxis()
    ax.set_xlabel("usable videos")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return ax


def plot_text_similarity(ax: Axes, similarity: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Cosine similarity of the class texts, (k, k)."""
    image = ax.imshow(similarity, cmap="cividis", vmin=min(0.0, float(similarity.min())), vmax=1)
    ax.figure.colorbar(image, ax=ax, label="cosine similarity", shrink=0.8)
    _class_ticks(ax, class_names, rotate=True)
    ax.set_xlabel("class")
    ax.set_ylabel("class")
    ax.grid(False)
    off = similarity - 2 * np.eye(len(similarity))
    i, j = np.unravel_index(off.argmax(), off.shape)
    ax.set_title(f"Hardest to tell apart by text:\n“{class_names[i]}” and “{class_names[j]}” ({off[i, j]:.2f})")
    return ax


def plot_relabelling(ax: Axes, observed: float, shuffled: np.ndarray, chance: float, suspicious: bool) -> Axes:
    """Zero-shot top-1 of frozen CLIP against the same under random relabellings, percent; suspicious: the verdict of LabelCheck."""
    ax.hist(shuffled, bins=min(20, len(shuffled)), color=GREY, label=f"{len(shuffled)} random relabellings")
    ax.axvline(observed, color=BLUE, linewidth=3, label=f"the list as it is ({observed:.1f} %)")
    chance_line(ax, chance)
    ax.set_xlabel("zero-shot top-1 of frozen CLIP, %")
    ax.set_ylabel("relabellings")
    verdict = "fit NO better than" if suspicious else "fit better than"
    ax.set_title(f"To frozen CLIP the names {verdict} shuffled ones")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return ax


def plot_stills(ax: Axes, table: pd.DataFrame) -> Axes:
    """Zero-shot accuracy of the small CLIP per attribute (columns attribute, top1, chance; percent)."""
    positions = np.arange(len(table))
    ax.barh(positions, table.top1, color=BLUE)
    ax.scatter(table.chance, positions, color=RED, marker="|", s=700, linewidths=3, label="chance", zorder=3)
    for y, value in zip(positions, table.top1, strict=True):
        ax.text(value + 1, y, f"{value:.0f}", va="center")
    ax.set_yticks(positions, table.attribute)
    ax.invert_yaxis()
    ax.set_xlim(0, 108)
    ax.set_xlabel("zero-shot accuracy on held-out stills, %")
    learned = [a for a, top1, chance in zip(table.attribute, table.top1, table.chance, strict=True) if top1 > 1.5 * chance]
    ax.set_title(f"The small CLIP has learned {len(learned)} of {len(table)} attributes")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.3), markerscale=0.5)
    return ax


def plot_walk(ax: Axes, trace: pd.DataFrame) -> Axes:
    """How many numbers a clip is at every station (trace_shapes), log scale, its shape beside the bar."""
    positions = np.arange(len(trace))
    frozen = trace.step.str.startswith(("clip.", "video", "tokens"))
    ax.barh(positions, trace["values"], color=np.where(frozen, GREY, BLUE))
    ax.set_xscale("log")
    ax.set_xlim(1, trace["values"].max() * 40)
    for y, row in zip(positions, trace.itertuples(), strict=True):
        ax.text(row.values * 1.3, y, " x ".join(map(str, row.shape)), va="center", fontsize=11)
    ax.set_yticks(positions, [step.removeprefix("clip.").replace("transformer.resblocks", "block") for step in trace.step], fontsize=11)
    ax.invert_yaxis()
    ax.set_xlabel("numbers in the tensor (log scale); grey: input and frozen CLIP, blue: trained parts and outputs")
    ax.grid(axis="y", visible=False)
    least = trace.set_index("step")["values"]
    ax.set_title(f"From {least['video']:,} pixel values to {least['image_features']:,} numbers a batch")
    return ax


def plot_losses(ax: Axes, metrics: pd.DataFrame) -> Axes:
    """The four loss terms over epochs (metrics.csv), unweighted."""
    for term, (colour, line) in TERM_STYLES.items():
        ax.plot(metrics.epoch, metrics[term], color=colour, linestyle=line, linewidth=2.5, marker="o", markersize=4, label=TERM_NAMES[term])
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    _epoch_axis(ax)
    ax.set_ylabel("training loss, nats (log scale)")
    first, last = metrics.total.iloc[0], metrics.total.iloc[-1]
    ax.set_title(f"Total loss: {first:.1f} → {last:.2f}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=12)
    return ax


def plot_validation(ax: Axes, metrics: pd.DataFrame, chance: float) -> Axes:
    """Validation top-1 of the read-outs over epochs (metrics.csv), percent."""
    for (name, colour), line in zip(READOUT_COLOURS.items(), ("--", ":", "-"), strict=True):
        ax.plot(
            metrics.epoch, metrics[f"val_top1_{name}"], color=colour, linestyle=line, linewidth=2.5, marker="o", markersize=4, label=name
        )
    chance_line(ax, chance, vertical=False)
    ax.set_ylim(0, 100)
    _epoch_axis(ax)
    ax.set_ylabel("validation top-1, %")
    if metrics.val_top1_ensemble.isna().all():
        ax.set_title("No validation split: the last epoch counts as the best")
        return ax
    best = metrics.loc[metrics.val_top1_ensemble[::-1].idxmax()]
    ax.set_title(f"Best epoch {int(best.epoch)}: {best.val_top1_ensemble:.1f} %")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=12)
    return ax


def plot_confusion(ax: Axes, counts: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Confusion matrix as row percentages; rows are true classes."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(share, cmap="cividis", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="share of the true class, %", shrink=0.8)
    _class_ticks(ax, class_names, rotate=True)
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
    return f"“{best}” is {'ahead of' if apart else 'not separable from'} “{second}”"


def _epoch_axis(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")


def _class_ticks(ax: Axes, class_names: Sequence[str], rotate: bool) -> None:
    if len(class_names) > 40:  # names would overlap: count instead
        return
    ticks = range(len(class_names))
    ax.set_xticks(ticks, class_names, rotation=45 if rotate else 0, ha="right", fontsize=11)
    ax.set_yticks(ticks, class_names, fontsize=11)
