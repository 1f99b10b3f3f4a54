"""The frozen blocks of open_clip, run step by step so that adapters can be placed between the steps."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

QUICK_GELU = 1.702  # of q(z) = z sigmoid(1.702 z)


def clip_block(
    block: Any,
    x: Float[Tensor, "*batch n c"],
    context: Float[Tensor, "*batch m c"] | None = None,
    mask: Tensor | None = None,
    first_only: bool = False,
    lean: bool = False,
    pre_attn: Callable[[Tensor], Tensor] | None = None,
    post_attn: Callable[[Tensor], Tensor] | None = None,
    pre_mlp: Callable[[Tensor], Tensor] | None = None,
    beside_mlp: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Run one frozen open_clip block: x + MHA(ln_1 x), then x + mlp(ln_2 x).

    Args:
        block: an open_clip ResidualAttentionBlock, or what has its parts (LoRA); its parameters are read, never changed.
        context: what is attended to, before ln_1 (default: x itself).
        mask: additive attention mask, broadcastable to (n, m).
        first_only: compute the first token only (all that is read after the last visual block).
        lean: compute the MLP with fewer passes over its hidden channels (see lean_mlp).
        pre_attn, post_attn, pre_mlp, beside_mlp: adapters; see models/adapters.
    """
    x = x if pre_attn is None else pre_attn(x)
    normed = block.ln_1(x)
    keys = normed if context is None else block.ln_1(context)
    if first_only:
        x, normed = x[..., :1, :], normed[..., :1, :]
    attended = block.ls_1(attend(block.attn, normed, keys, mask))
    x = x + (attended if post_attn is None else post_attn(attended))
    x = x if pre_mlp is None else pre_mlp(x)
    normed = block.ln_2(x)
    x = x + block.ls_2(lean_mlp(block.mlp, normed) if lean else block.mlp(normed))
    return x if beside_mlp is None else x + beside_mlp(normed)


def is_quick_gelu(mlp: nn.Module) -> bool:
    """Whether an MLP computes QuickGELU (OpenAI's weights)."""
    return type(getattr(mlp, "gelu", None)).__name__ == "QuickGELU"


def lean_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    """Run an MLP; with QuickGELU, save one hidden-sized tensor for the backward pass where the plain form saves three.

    q(z) = z sigmoid(1.702 z) = silu(1.702 z) / 1.702, with both factors folded into the matrix products.
    """
    if not is_quick_gelu(mlp):
        return mlp(x)
    rows = x.flatten(0, -2)
    hidden = torch.addmm(mlp.c_fc.bias, rows, mlp.c_fc.weight.t(), beta=QUICK_GELU, alpha=QUICK_GELU)
    out = torch.addmm(mlp.c_proj.bias, F.silu(hidden), mlp.c_proj.weight.t(), alpha=1 / QUICK_GELU)
    return out.view(x.shape)


def project_heads(x: Tensor, attn: Any, part: int) -> Tensor:
    """Query (part 0), key (1) or value (2) of every head: (*batch, n, c) -> (batch, heads, n, c / heads)."""
    c, heads = x.shape[-1], attn.num_heads
    rows = slice(part * c, (part + 1) * c)
    y = F.linear(x, attn.in_proj_weight[rows], None if attn.in_proj_bias is None else attn.in_proj_bias[rows])
    y = y.reshape(-1, x.shape[-2], heads, c // heads).transpose(1, 2)
    rotate = getattr(attn, "rotate", None) if part < 2 else None
    return y if rotate is None else rotate(y)


def attend(attn: Any, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention with the weights of `attn`: (*batch, n, c), (*batch, m, c) -> (*batch, n, c)."""
    q, k, v = project_heads(queries, attn, 0), project_heads(keys, attn, 1), project_heads(keys, attn, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    return attn.out_proj(out.transpose(1, 2).reshape(queries.shape))


@contextmanager
def listen(hooks: Iterable[tuple[nn.Module, Callable[[Tensor, Tensor], None]]]) -> Iterator[None]:
    """Pass each module's first input and its output to its callback on every run; all hooks are removed on exit, even after an error."""
    with ExitStack() as stack:
        for module, hear in hooks:
            handle = module.register_forward_hook(lambda _module, inputs, out, hear=hear: hear(inputs[0], out))
            stack.callback(handle.remove)
        yield
