"""The frozen blocks of open_clip, run step by step so that adapters can stand between the steps."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def clip_block(
    block: nn.Module,
    x: Float[Tensor, "*batch n c"],
    context: Float[Tensor, "*batch m c"] | None = None,
    mask: Tensor | None = None,
    first_only: bool = False,
    before_mlp: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One frozen open_clip block: x + MHA(ln_1 x), an optional adapter, x + mlp(ln_2 x).

    Args:
        block: an open_clip ResidualAttentionBlock; its parameters are read, never changed.
        context: what is attended to, before ln_1 (default: x itself).
        mask: additive attention mask, broadcastable to (n, m).
        first_only: compute the first token only (all that is read after the last visual block).
        before_mlp: module applied between attention and MLP.
    """
    normed = block.ln_1(x)
    keys = normed if context is None else block.ln_1(context)
    if first_only:
        x, normed = x[..., :1, :], normed[..., :1, :]
    x = x + block.ls_1(attend(block.attn, normed, keys, mask))
    if before_mlp is not None:
        x = before_mlp(x)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def project_heads(x: Tensor, attn: nn.MultiheadAttention, part: int) -> Tensor:
    """Query (part 0), key (1) or value (2) of every head: (*batch, n, c) -> (batch, heads, n, c / heads)."""
    c, heads = attn.embed_dim, attn.num_heads
    rows = slice(part * c, (part + 1) * c)
    y = F.linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows])
    return y.reshape(-1, x.shape[-2], heads, c // heads).transpose(1, 2)


def attend(attn: nn.MultiheadAttention, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention with the weights of `attn`: (*batch, n, c), (*batch, m, c) -> (*batch, n, c)."""
    q = project_heads(queries, attn, 0)
    k, v = project_heads(keys, attn, 1), project_heads(keys, attn, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    return attn.out_proj(out.transpose(1, 2).reshape(queries.shape))
