"""Videos whose label is probably wrong: confident learning on the out-of-sample probabilities of a linear probe on frozen features.

A video is suspected if the probe, trained on other videos, gives another class a probability that is at least the mean of those that
videos of that class get for it (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels).
The probe sees single frames: it has no verdict on classes that differ in motion alone, and says so.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from m2clip_lib.data.seeds import Purpose, stream
from m2clip_lib.probes.heads import fit, scores

FOLDS = 5
GRID = [(1e-2, decay) for decay in (0.1, 1.0, 10.0)]  # learning rate and weight decays of the probe
STEPS, BATCH = 300, 512
RELIABLE, Z = 0.75, 1.64  # two classes are told apart if the lower end of the one-sided 95 % interval of being right exceeds RELIABLE


def deal_folds(labels: Int[ndarray, "n"], groups: Sequence[object], seed: int = 0) -> Int[ndarray, "n"]:
    """Deal videos to FOLDS folds: groups stay whole, and every class is in as many folds as its groups allow."""
    first: dict[object, int] = {}
    for row, group in enumerate(groups):
        first.setdefault(group, row)
    order = stream(seed, Purpose.ORDER).permutation(len(labels))
    dealt = sorted(first, key=lambda group: (labels[first[group]], order[first[group]]))
    fold = {group: place % FOLDS for place, group in enumerate(dealt)}
    return np.array([fold[group] for group in groups], np.int64)


def out_of_sample(
    x: Float[ndarray, "n e"], labels: Int[ndarray, "n"], classes: int, folds: Int[ndarray, "n"], seed: int = 0
) -> Float[ndarray, "n k"]:
    """Probabilities of a linear probe for every video, trained without its fold; of GRID the one with the best mean log-likelihood."""
    found = torch.zeros(len(GRID), len(x), classes)
    features, targets = torch.from_numpy(x), torch.tensor(labels)
    for fold in np.unique(folds):
        out = torch.from_numpy(folds == fold)
        if out.all():  # all are clips of one recording: none is judged
            continue
        mean, std = features[~out].mean(0), features[~out].std(0, correction=0) + 1e-6
        own, others = ((features[rows] - mean) / std for rows in (out, ~out))
        heads = fit("linear", others[:, None], targets[~out], classes, GRID, STEPS, BATCH, seed)
        found[:, out] = scores("linear", heads, own[:, None]).softmax(-1)
    likelihood = found[:, torch.arange(len(x)), targets].clamp_min(1e-6).log().mean(1)
    return found[int(likelihood.argmax())].numpy()


def told_apart(probabilities: Float[ndarray, "n k"], labels: Int[ndarray, "n"]) -> tuple[Float[ndarray, "k k"], Bool[ndarray, "k k"]]:
    """For each pair of classes: how often the probe prefers the right one (mean over both classes), and whether that is reliable."""
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    wins = np.full((classes, classes), 0.5)
    for label in np.unique(labels):
        of_class = labels == label
        wins[label] = (own[of_class, None] > probabilities[of_class]).mean(axis=0)
    right, share = (wins + wins.T) / 2, 1 / np.maximum(1, np.bincount(labels, minlength=classes))
    return right, right - Z * 0.25 * np.sqrt(share[:, None] + share[None]) > RELIABLE


def suspects(probabilities: Float[ndarray, "n k"], labels: Int[ndarray, "n"], apart: Bool[ndarray, "k k"]) -> list[tuple[int, int, float]]:
    """(row, the likelier class, by how much its probability is higher) of the suspected videos, the most suspected first.

    apart: pairs of classes on which there is a verdict.
    """
    rows = np.arange(len(labels))
    means = np.array([probabilities[labels == label, label].mean() if (labels == label).any() else 2.0 for label in range(len(apart))])
    may_be = (probabilities >= means) & apart[labels]
    may_be[rows, labels] = False
    likelier = np.where(may_be, probabilities, -1).argmax(axis=1)
    margin = probabilities[rows, likelier] - probabilities[rows, labels]
    chosen = [row for row in rows[may_be.any(axis=1) & (margin > 0)]]
    return sorted(((int(row), int(likelier[row]), float(margin[row])) for row in chosen), key=lambda found: (-found[2], found[0]))
