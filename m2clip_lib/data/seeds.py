"""The keys of random draws. Each purpose has a constant of its own in its key, so that no two kinds of draws follow the same stream."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a draw decides, and the rest of its key after (seed, purpose)."""

    CLIP = 1  # frames, crop and augmentation of a training clip: epoch, row
    ORDER = 2  # of the videos in an epoch: epoch
    MASK = 3  # which words of a caption are hidden: epoch, row
    PROMPT = 4  # which prompt a step reads: step, number of prompts
    DROPOUT = 5  # of one part of an update: step, part
    WEIGHTS = 6  # initial weights of a model or a probe
    SHUFFLE = 7  # the order of the frames of a view, where frames are shuffled: row, view
    DRAW = 8  # which classes, or which videos of a class, a study of transfer uses: nothing, or the label
    LABEL = 9  # which of a video's labels its caption names, where it has several: epoch, row


def stream(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """The generator of one draw."""
    return np.random.default_rng([seed, purpose, *place])


def torch_seed(seed: int, purpose: Purpose, *place: int) -> int:
    """The seed of one draw that torch's own generator makes, 32 bits."""
    return int(np.random.SeedSequence([seed, purpose, *place]).generate_state(1)[0])
