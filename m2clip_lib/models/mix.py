"""The dial between frozen CLIP and the trained model: adapters whose output counts for a share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m2clip_lib.models.adapters import TemporalDifference, TemporalEnhancement, TextAdapter
from m2clip_lib.models.m2clip import M2CLIP


@contextmanager
def mixed_with_frozen(model: M2CLIP, ratio: float) -> Iterator[M2CLIP]:
    """The model with the output of every adapter scaled by ratio: 1 is the trained model, 0 is frozen CLIP, whose adapters add nothing.

    Scaling the last layer of a TED-Adapter's branch is the mean of its trained weights and those it started from, which are zero there. A
    text adapter starts from random weights, so that only scaling leads back to CLIP. The classifier keeps its weights, and reads what
    the mixed tower gives it.
    """
    branches = [module for module in model.modules() if isinstance(module, TemporalEnhancement | TemporalDifference | TextAdapter)]
    last = [parameter for branch in branches for parameter in branch.fc2.parameters()]
    kept = [parameter.detach().clone() for parameter in last]
    try:
        with torch.no_grad():
            for parameter in last:
                parameter.mul_(ratio)
        yield model
    finally:
        with torch.no_grad():
            for parameter, trained in zip(last, kept, strict=True):
                parameter.copy_(trained)
