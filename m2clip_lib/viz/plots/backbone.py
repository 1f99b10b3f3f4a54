"""Figures of the backbone step: what the frozen CLIP knows, and how a clip walks through the model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREY, RED, chance_line, class_ticks


def plot_text_similarity(ax: Axes, similarity: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Cosine similarity of the class texts, (k, k)."""
    image = ax.imshow(similarity, cmap="cividis", vmin=min(0.0, float(similarity.min())), vmax=1)
    ax.figure.colorbar(image, ax=ax, label="cosine similarity", shrink=0.8)
    class_ticks(ax, class_names, rotate=True)
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


def plot_zero_shot(ax: Axes, scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Frozen CLIP's mean score of every name for the videos of every class, percent; rows are true classes.

    scores: (n, k) in [0, 1], labels: (n,): its predictions. A class without videos has an empty row.
    """
    mean = np.full((len(class_names), len(class_names)), np.nan)
    for label in np.unique(labels):
        mean[label] = 100 * scores[labels == label].mean(axis=0)
    image = ax.imshow(mean, cmap="cividis", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="mean score, %", shrink=0.8)
    class_ticks(ax, class_names, rotate=True)
    ax.set_xlabel("name that is scored")
    ax.set_ylabel("true class of the videos")
    ax.grid(False)
    seen = np.unique(labels)
    right = int((mean[seen].argmax(axis=1) == seen).sum())
    ax.set_title(f"Frozen CLIP scores the right name highest\nin {right} of {len(seen)} classes")
    return ax
