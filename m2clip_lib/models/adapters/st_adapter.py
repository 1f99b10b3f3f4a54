"""ST-Adapter: a depthwise convolution over time in a bottleneck, for patches alone.

Source: Pan et al., "ST-Adapter" (NeurIPS 2022); held to outputs and gradients of the authors' code in tests/.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.models.adapters.ted import TemporalEnhancement


class STAdapter(TemporalEnhancement):
    """Patches p + fc2(conv_t(fc1 p)), without non-linearity; CLS stays as it is. The identity until it is trained."""

    def forward(self, x: Float[Tensor, "b t n c"], grid: tuple[int, int]) -> Float[Tensor, "b t n c"]:
        """x: patches, after CLS if there is one, or CLS alone. grid: tells them apart; the convolution (3 x 1 x 1) has none in space."""
        if x.shape[2] == 1:
            return x
        before = x.shape[2] - grid[0] * grid[1]
        return x + F.pad(super().forward(x[:, :, before:]), (0, 0, before, 0))
