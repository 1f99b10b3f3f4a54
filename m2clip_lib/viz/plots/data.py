"""Figures of the data step: clips with their names, videos per class, their durations, and the files that cannot be used."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, RED, name_rows


def plot_clip_grid(ax: Axes, clips: Sequence[np.ndarray], captions: Sequence[str], title: str) -> Axes:
    """One clip per row, its frames from left to right in time.

    clips: (t, h, w, 3) uint8 RGB, all of one size. captions: beside the rows.
    """
    height, width = clips[0].shape[1:3]
    gap = max(1, width // 20)
    rows = [np.pad(clip, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for clip in clips]
    ax.imshow(np.vstack([np.hstack(row) for row in rows]), interpolation="nearest")
    ax.set_yticks([(height + 2 * gap) * (i + 0.5) for i in range(len(clips))], captions)
    ax.set(xticks=[], xlabel="time, frames of the clip from first to last →", title=title)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_class_balance(ax: Axes, table: pd.DataFrame) -> Axes:
    """Usable videos per class and split; the 30 largest classes. table: a manifest."""
    counts = table.assign(usable=table.status == "ok").groupby(["class_name", "split"], sort=False).usable.sum().unstack(fill_value=0)
    total = counts.sum(axis=1).sort_values(ascending=False, kind="stable")
    shown = counts.loc[total.index[:30], [split for split in ("train", "val", "test") if split in counts]]
    left = 0
    for (split, values), colour in zip(shown.items(), (BLUE, ORANGE, GREEN), strict=False):
        ax.barh(range(len(shown)), values, left=left, color=colour, label=split)
        left += values
    name_rows(ax, shown.index)
    least, most = total.min(), total.max()
    balance = "All classes have the same number of videos" if least == most else f"Classes have {least} to {most} videos"
    ax.set(xlabel="usable videos", title=balance)
    below = max(0.14, 0.6 / max(0.5, ax.figure.get_figheight() - 1.2))  # of the axes' height, which is small with few classes
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -below), ncols=3)
    return ax


def plot_durations(ax: Axes, table: pd.DataFrame, clip_frames: int) -> Axes:
    """How long the usable videos are. table: a manifest. clip_frames: frames of a video that one clip spans, from first to last."""
    usable = table[table.status == "ok"]
    ax.hist(usable.duration_s, bins=np.linspace(0, max(usable.duration_s.quantile(0.99) * 1.1, 1e-3), 31), color=BLUE)
    middle = usable.duration_s.median()
    ax.axvline(middle, color=ORANGE, linewidth=3, label=f"median {middle:.3g} s")
    finding = f"Every video is long enough\nfor a clip that spans {clip_frames} frames"
    if short := (usable.num_frames < clip_frames).sum():
        finding = f"{short:,} of {len(usable):,} videos are shorter than a clip\nof {clip_frames} frames: their last frame is repeated"
    ax.set(xlabel="duration, s (the longest 1 % may be outside)", ylabel="usable videos", title=finding)
    ax.legend()
    return ax


def plot_status(ax: Axes, table: pd.DataFrame) -> Axes:
    """Which videos cannot be used, by reason (the ten most frequent). table: a manifest."""
    counts = table.status.value_counts()
    reasons = counts.drop("ok", errors="ignore").iloc[:10]
    readable = counts.get("ok", 0)
    values = [readable, *reasons]
    ax.barh(range(len(values)), values, color=[GREY] + [RED] * len(reasons))
    name_rows(ax, ["readable", *(textwrap.fill(reason, 28) for reason in reasons.index)], [(value, f" {value:,}") for value in values])
    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))  # the scale's own one writes mathematics
    broken = len(table) - readable
    finding = f"{broken:,} of {len(table):,} videos cannot be used" if broken else f"All {len(table):,} videos can be read"
    ax.set(xlim=(0, 10 * max(values)), xlabel="videos (log scale)", title=finding)
    return ax
