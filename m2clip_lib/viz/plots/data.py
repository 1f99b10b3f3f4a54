"""Figures of the data step: the clips with their names, and how many there are."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, RED


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
    below = max(0.14, 0.6 / max(0.5, ax.figure.get_figheight() - 1.2))  # of the axes' height; with few classes they are low
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -below), ncols=3)
    return ax


def plot_durations(ax: Axes, table: pd.DataFrame, clip_frames: int) -> Axes:
    """How long the usable videos are. table: a manifest. clip_frames: frames of a video that one clip spans, from first to last."""
    usable = table[table.status == "ok"]
    ax.hist(usable.duration_s, bins=np.linspace(0, max(usable.duration_s.quantile(0.99) * 1.1, 1e-3), 31), color=BLUE)
    middle = usable.duration_s.median()
    ax.axvline(middle, color=ORANGE, linewidth=3, label=f"median {middle:.3g} s")
    ax.set_xlabel("duration, s (the longest 1 % may lie outside)")
    ax.set_ylabel("usable videos")
    short = int((usable.num_frames < clip_frames).sum())
    if short:
        ax.set_title(f"{short:,} of {len(usable):,} videos are shorter than a clip\nof {clip_frames} frames: their last frame is repeated")
    else:
        ax.set_title(f"Every video is long enough\nfor a clip that spans {clip_frames} frames")
    ax.legend()
    return ax


def plot_status(ax: Axes, table: pd.DataFrame) -> Axes:
    """Which videos cannot be used, by reason (the ten commonest). table: a manifest."""
    counts = table.status.value_counts()
    reasons = counts.drop("ok", errors="ignore").iloc[:10]
    names = ["readable", *(textwrap.fill(reason, 28) for reason in reasons.index)]
    values = [int(counts.get("ok", 0)), *reasons]
    ax.barh(names, values, color=[GREY] + [RED] * len(reasons))
    for y, value in enumerate(values):
        ax.text(value, y, f" {value:,}", va="center")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(0, 10 * max(values))
    ax.invert_yaxis()
    ax.set_xlabel("videos (log scale)")
    ax.grid(axis="y", visible=False)
    broken = len(table) - values[0]
    ax.set_title(f"{broken:,} of {len(table):,} videos cannot be used" if broken else f"All {len(table):,} videos can be read")
    return ax
