"""The label check of the backbone step: does frozen CLIP recognise more with the list as it is than with names shuffled?"""

from dataclasses import dataclass

import numpy as np

from m2clip_lib.engine.evaluate import Predictions
from m2clip_lib.engine.protocols import top_ids, topk_accuracy


@dataclass(frozen=True)
class LabelCheck:
    """Zero-shot top-1 of the list as it is and under random relabellings, percent.

    p_value: share of relabellings that do at least as well (the list itself counted as one).
    """

    observed: float
    shuffled: np.ndarray
    p_value: float

    @property
    def suspicious(self) -> bool:
        """True when the mapping is no better than chance: permuted names, or a backbone that cannot see these classes."""
        return self.p_value > 0.05


def check_labels(zero_shot: Predictions, relabellings: int = 200, seed: int = 0) -> LabelCheck:
    """Compare the list with random permutations of its class names.

    Args:
        zero_shot: frozen CLIP's predictions; only its similarity scores are read.
    """
    rng = np.random.default_rng(seed)
    guesses = top_ids(zero_shot.similarity, 1)[:, 0]
    classes = zero_shot.similarity.shape[1]
    observed = topk_accuracy(zero_shot.similarity, zero_shot.labels, 1)
    shuffled = np.array([100 * (guesses == rng.permutation(classes)[zero_shot.labels]).mean() for _ in range(relabellings)])
    return LabelCheck(observed, shuffled, (1 + int((shuffled >= observed).sum())) / (1 + relabellings))
