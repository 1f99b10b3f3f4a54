"""Figures of the backbone step: what the frozen CLIP knows, and the shapes of a clip on its way through the model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREY, RED, chance_line, class_matrix, name_rows

BLOCK = (  # text, column, row, trained; rows: 0 is the stream of tokens, 1 and 2 are what a TED-Adapter adds to it
    ("tokens of a frame", 0, 0, False),
    ("+ attention(ln_1 x)\nwithin the frame", 1, 0, False),
    ("x + enhance(x)\n+ difference(x)", 2, 0, True),
    ("+ MLP(ln_2 x)", 3, 0, False),
    ("enhance: W2 conv_t(W1 x)\nthe token one frame\nearlier and later", 1, 1, True),
    ("difference: W4 conv_s(W3 d)\nd: change since the last frame,\nseen with its neighbours", 3, 1, True),
)


def plot_text_similarity(ax: Axes, similarity: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Cosine similarity of the class texts, (k, k)."""
    class_matrix(ax, similarity, class_names, "cosine similarity", min(0.0, float(similarity.min())), 1)
    off = similarity - 2 * np.eye(len(similarity))
    i, j = np.unravel_index(off.argmax(), off.shape)
    finding = f"Hardest to tell apart by text:\n“{class_names[i]}” and “{class_names[j]}” ({off[i, j]:.2f})"
    ax.set(xlabel="class", ylabel="class", title=finding)
    return ax


def plot_relabelling(ax: Axes, observed: float, shuffled: np.ndarray, chance: float, suspicious: bool) -> Axes:
    """Zero-shot top-1 of frozen CLIP against the same under random relabellings, percent; suspicious: the verdict of LabelCheck."""
    ax.hist(shuffled, bins=min(20, len(shuffled)), color=GREY, label=f"{len(shuffled)} random relabellings")
    ax.axvline(observed, color=BLUE, linewidth=3, label=f"the list as it is ({observed:.1f} %)")
    chance_line(ax, chance)
    finding = f"To frozen CLIP the names fit {'NO better' if suspicious else 'better'} than shuffled ones"
    ax.set(xlabel="zero-shot top-1 of frozen CLIP, %", ylabel="relabellings", title=finding)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return ax


def plot_stills(ax: Axes, table: pd.DataFrame) -> Axes:
    """Zero-shot accuracy of the small CLIP per attribute (columns attribute, top1, chance; percent)."""
    positions = range(len(table))
    ax.barh(positions, table.top1, color=BLUE)
    ax.scatter(table.chance, positions, color=RED, marker="|", s=700, linewidths=3, label="chance", zorder=3)
    name_rows(ax, table.attribute, [(value + 1, f"{value:.0f}") for value in table.top1])
    finding = f"The small CLIP has learned {(table.top1 > 1.5 * table.chance).sum()} of {len(table)} attributes"
    ax.set(xlim=(0, 108), xlabel="zero-shot accuracy on held-out stills, %", title=finding)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.3), markerscale=0.5)
    return ax


def plot_block(ax: Axes, frozen: int, trained: int) -> Axes:
    """A block of the visual tower as it is run, with its TED-Adapter. frozen, trained: numbers of parameters of one block."""
    places = {}
    for text, column, row, is_trained in BLOCK:
        colour = BLUE if is_trained else GREY
        box = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": colour, "linewidth": 3}
        places[column, row] = ax.text(2.6 * column, -1.6 * row, text, ha="center", va="center", fontsize=12, bbox=box)
    arrows = [((column, 0), (column + 1, 0)) for column in range(3)] + [((1, 1), (2, 0)), ((3, 1), (2, 0))]
    for start, end in arrows:
        ends = {"patchA": places[start].get_bbox_patch(), "patchB": places[end].get_bbox_patch()}
        points = [(2.6 * column, -1.6 * row) for column, row in (end, start)]
        ax.annotate("", *points, arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.5} | ends)
    ax.set(xlim=(-1.4, 9.3), ylim=(-2.6, 0.9))
    ax.set_title(f"Of a block, {100 * trained / (frozen + trained):.0f} % of the parameters are trained (blue); CLIP's own stay (grey)")
    ax.axis("off")
    return ax


def plot_walk(ax: Axes, trace: pd.DataFrame) -> Axes:
    """How many numbers a clip is at every station of the model (trace_shapes), log scale, its shape beside the bar."""
    sizes = trace.set_index("step")["values"]
    frozen = sizes.index.str.startswith(("clip.", "video", "tokens"))
    ax.barh(range(len(sizes)), sizes, color=np.where(frozen, GREY, BLUE))
    names = [step.removeprefix("clip.").replace("transformer.resblocks", "block") for step in trace.step]
    shapes = [" x ".join(map(str, shape)) for shape in trace["shape"]]
    name_rows(ax, names, [(size * 1.3, shape) for size, shape in zip(sizes, shapes, strict=True)], size=11)
    ax.tick_params(axis="y", labelsize=11)
    finding = f"From {sizes['video']:,} pixel values to {sizes['image_features']:,} numbers per batch"
    ax.set(xscale="log", xlim=(1, sizes.max() * 40), title=finding)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("numbers in the tensor (log scale); grey: input, frozen CLIP; blue: trained, outputs")
    return ax


def plot_zero_shot(ax: Axes, scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Axes:
    """Frozen CLIP's mean score of every name for the videos of every class, percent; rows are true classes.

    scores: (n, k) in [0, 1], labels: (n,): its predictions. A class without videos has an empty row.
    """
    mean = pd.DataFrame(100 * scores).groupby(labels).mean()
    right = (mean.to_numpy().argmax(axis=1) == mean.index).sum()
    class_matrix(ax, mean.reindex(range(len(class_names))).to_numpy(), class_names, "mean score, %")
    finding = f"Frozen CLIP scores the right name highest\nin {right} of {len(mean)} classes"
    ax.set(xlabel="name that is scored", ylabel="true class of the videos", title=finding)
    return ax
