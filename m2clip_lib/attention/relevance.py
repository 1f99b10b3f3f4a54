"""Gradient-weighted relevance: which patches speak for a chosen class, not only where attention goes.

Source: Chefer et al. (ICCV 2021), the rule for self-attention. The TED-Adapters mix frames and neighbouring patches between the blocks;
the rule ignores that, so relevance is accurate to about one patch and one frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.attention.record import attention_weights, read_patches, to_shares
from m2clip_lib.evaluate.scoring import class_logits
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.blocks import listen, project_heads
from m2clip_lib.models.m2clip import VideoOutput


def log_odds(seen: VideoOutput, texts: Float[Tensor, "k e"], classes: Int[Tensor, "b"], readout: str) -> Float[Tensor, "b"]:
    """log p - log(1 - p) of each clip's class in a read-out ("similarity", "classifier" or "ensemble").

    Unlike the score, the odds still have a gradient where p rounds to 1, and they weigh the class against the others.
    texts: features of all class texts, of length 1.
    """
    logits = class_logits(seen, texts, own=readout != "similarity")
    logs = [logits[name].log_softmax(-1) for name in (logits if readout == "ensemble" else [readout])]
    mean = torch.stack(logs).logsumexp(0)  # the ensemble's mean of scores; its constant log 2 cancels
    own = F.one_hot(classes, mean.shape[1]).bool()
    return mean[own] - mean.masked_fill(own, -torch.inf).logsumexp(-1)


def propagate(weighted: Sequence[Float[Tensor, "b t rows n"]], first_only: bool = True) -> Float[Tensor, "b t rows n"]:
    """The product of (A + I) over the blocks, first block first: the rule R <- R + A R, starting from R = I.

    weighted: A per block, with rows of all tokens or, in the last block, of CLS alone. first_only: return CLS's row alone.
    """
    rows = None
    for update in reversed(weighted):
        step = update + torch.eye(update.shape[-1], dtype=update.dtype, device=update.device)[: update.shape[-2]]
        rows = (step[:, :, :1] if first_only else step) if rows is None else rows @ step
    return rows


def relevance(
    model: M2CLIP, video: Float[Tensor, "b 3 t h w"], texts: Float[Tensor, "k e"], classes: Int[Tensor, "b"], readout: str = "ensemble"
) -> Float[Tensor, "b t r c"]:
    """Relevance of every patch for one class per clip, as shares of the clip's sum: frames that matter more hold more.

    Args:
        video: normalised. texts: features of all class texts, of length 1. classes: the class asked about, per clip.
        readout: "similarity", "classifier" or "ensemble"; only "similarity" fits texts other than the model's own classes.
    Source: see the module. The gradient of the fused attention's hidden probabilities is dL/dA = dL/d(A V) V^T.
    """
    blocks = model.visual.blocks
    normed, mixed = [], []  # per block: what attention reads (b, t, n, c), and A V of all heads (b * t, rows, c)
    hooks = [(block.ln_1, lambda _, out: normed.append(out)) for block in blocks]
    hooks += [(block.attn.out_proj, lambda heads, _: mixed.append(heads)) for block in blocks]
    with listen(hooks), torch.enable_grad():
        # The input requires a gradient, so that the frozen blocks below the first adapter have one too.
        seen = model.encode_video(video.detach().clone().requires_grad_())
        score = log_odds(seen, texts.clone(), classes, readout).sum()  # clips do not interact: one sum gives each its own gradient
        gradients = torch.autograd.grad(score, mixed)
    weighted = []  # per block: the mean over heads of gradient x attention, negatives set to 0
    with torch.no_grad():
        for block, x, gradient in zip(blocks, normed, gradients, strict=True):
            attn = block.attn
            gradient = gradient.reshape(-1, *gradient.shape[-2:])
            by_head = gradient.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # (b * t, heads, rows, d)
            slope = by_head @ project_heads(x, attn, 2).transpose(-1, -2)  # (b * t, heads, rows, n)
            probabilities = attention_weights(attn, x[..., : gradient.shape[-2], :], x)
            weighted.append((slope * probabilities).clamp(min=0).mean(dim=1).unflatten(0, x.shape[:2]))
        return to_shares(read_patches(model, propagate(weighted, model.visual.reads_first)), model.visual.grid, over=(1, 2))
