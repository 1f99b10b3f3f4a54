"""A map of the clips: their features in two dimensions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

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
