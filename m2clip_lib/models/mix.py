"""The dial between frozen CLIP and the trained model: adapters whose output counts for a share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from m2clip_lib.models.adapters import Bottleneck, LoRA, TemporalDifference, TemporalEnhancement, TextAdapter
from m2clip_lib.models.m2clip import M2CLIP


@contextmanager
def mixed_with_frozen(model: M2CLIP, ratio: float) -> Iterator[M2CLIP]:
    """The model with the output of every adapter scaled by ratio: 1 is the trained model, 0 is frozen CLIP, whose adapters add nothing.

    Scaling the last layer of a visual adapter is the mean of its trained weights and those it started from, which are zero there. A
    text adapter starts from random weights, so that only scaling leads back to CLIP. CLIP's own weights, where they are trained, are
    mixed with the frozen ones. The classifier keeps its weights, and reads what the mixed tower gives it.
    """
    mixed = [(parameter, parameter.detach().clone(), start) for parameter, start in _frozen(model)]
    try:
        with torch.no_grad():
            for parameter, _, start in mixed:
                parameter.mul_(ratio) if start is None else parameter.lerp_(start.to(parameter.device), 1 - ratio)
        yield model
    finally:
        with torch.no_grad():
            for parameter, trained, _ in mixed:
                parameter.copy_(trained)


def _frozen(model: M2CLIP) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
    """The parameters that make the model differ from frozen CLIP, with the values at which they do not; None: zeros."""
    for module in model.modules():
        if isinstance(module, TemporalEnhancement | TemporalDifference | TextAdapter | Bottleneck):
            yield from ((parameter, None) for parameter in module.fc2.parameters())
        elif isinstance(module, LoRA):
            yield module.up, None
    visual = model.backbone.visual
    if model.time_embedding is not None:
        yield model.time_embedding, None
        yield from zip(model.video_norm.parameters(), visual.norm.parameters(), strict=True)
    own = dict(model.named_parameters())
    yield from ((own[name], visual.module.get_parameter(name.removeprefix("clip.visual."))) for name in model.unfrozen)
