"""Attention rollout: which patches CLS has read from after all blocks, if attention were all that moves information.

Source: Abnar and Zuidema (ACL 2020). The TED-Adapters, which move information between frames and neighbouring patches, are not in it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from m2clip_lib.models import M2CLIP
from m2clip_lib.viz.record import AttentionRecorder, check_block, to_shares


def rollout(attention: Sequence[Float[Tensor, "b t heads rows n"]]) -> Float[Tensor, "b t n"]:
    """CLS's row of the product of (A + I) / 2 over blocks, first block first; A is the mean over heads. Rows sum to 1.

    The last entry may hold the row of CLS alone.
    """
    row = None
    for weights in reversed(attention):
        mean = weights.mean(dim=2)  # (b, t, rows, n)
        mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)[: mean.shape[-2]]) / 2
        row = mixed[:, :, :1] if row is None else row @ mixed
    return row[:, :, 0]


@torch.inference_mode()
def attention_rollout(model: M2CLIP, video: Float[Tensor, "b 3 t h w"], block: int) -> Float[Tensor, "b t r c"]:
    """Rollout from the first block to `block` (counted from 0): each frame divided by its sum over patches."""
    check_block(model, block)
    with AttentionRecorder(model, range(block + 1)) as recorder:
        model.encode_video(video)
    return to_shares(rollout([recorder.attention[i] for i in range(block + 1)])[..., 1:], model.clip.visual.grid_size)
