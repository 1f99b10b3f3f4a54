"""AIM: the block's own frozen attention is used once more, over time, with bottleneck adapters around it and beside the MLP.

Source: Yang et al., "AIM" (ICLR 2023); held to outputs and gradients of the authors' code in tests/. Their drop path is left out.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.models.blocks import attend


class Bottleneck(nn.Module):
    """fc2(GELU(fc1 x)), times a scale; 0 until it is trained. skip: x is added."""

    def __init__(self, width: int, bottleneck: int, scale: float = 1.0, skip: bool = False):
        super().__init__()
        self.scale, self.skip = scale, skip
        self.fc1, self.fc2 = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Float[Tensor, "*batch n c"]) -> Float[Tensor, "*batch n c"]:
        """x: one vector per token."""
        added = self.fc2(F.gelu(self.fc1(x)))
        added = added if self.scale == 1 else self.scale * added
        return x + added if self.skip else added


class TimeAttention(nn.Module):
    """x + adapter(MHA(u)): every place in the picture attends to itself in all frames. u = ln_1 x, after an adapter of its own if any."""

    def __init__(self, width: int, bottleneck: int, inner: bool = False):
        """inner: there is an adapter before the attention, too ("num_tadapter == 2")."""
        super().__init__()
        self.outer = Bottleneck(width, bottleneck)
        self.inner = Bottleneck(width, bottleneck, skip=True) if inner else None

    def forward(self, x: Float[Tensor, "b t n c"], block: Any) -> Float[Tensor, "b t n c"]:
        """block: the frozen block whose ln_1 and attention are used."""
        u = block.ln_1(x).transpose(1, 2)  # (b, n, t, c)
        u = u if self.inner is None else self.inner(u)
        return x + self.outer(attend(block.attn, u, u)).transpose(1, 2)
