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
        """x: CLS and patches, or the CLS token alone. grid: not read, the convolution (the authors' 3 x 1 x 1) has no extent in space."""
        if x.shape[2] == 1:
            return x
        return x + F.pad(super().forward(x[:, :, 1:]), (0, 0, 1, 0))
