"""LoRA: a change of low rank to the frozen weights of attention.

Source: Hu et al., "LoRA" (ICLR 2022). open_clip keeps query, key and value in one matrix, in_proj; each has factors of its own.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class LoRA(nn.Module):
    """W + B A for the query, key, value and output matrices of a block's attention; B starts at 0, so that nothing is changed."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.empty(4, rank, width))  # A
        self.up = nn.Parameter(torch.zeros(4, width, rank))  # B
        nn.init.normal_(self.down, std=width**-0.5)

    def weights(self, attn: Any) -> tuple[Float[Tensor, "c3 c"], Float[Tensor, "c c"]]:
        """The changed in_proj (query, key and value below one another) and out_proj."""
        change = self.up @ self.down  # (4, c, c)
        return attn.in_proj_weight + change[:3].flatten(0, 1), attn.out_proj.weight + change[3]

    def forward(self, block: Any) -> SimpleNamespace:
        """The block with the changed weights, for clip_block; the block itself stays as it is."""
        attn = block.attn
        in_proj, out_proj = self.weights(attn)
        changed = SimpleNamespace(num_heads=attn.num_heads, in_proj_weight=in_proj, in_proj_bias=attn.in_proj_bias)
        changed.rotate = getattr(attn, "rotate", None)
        changed.out_proj = partial(F.linear, weight=out_proj, bias=attn.out_proj.bias)
        return SimpleNamespace(attn=changed, **{name: getattr(block, name) for name in ("ln_1", "ls_1", "ln_2", "ls_2", "mlp")})
