"""ST-Adapter: a depthwise convolution over time in a bottleneck, for patches alone.

Source: Pan et al., "ST-Adapter" (NeurIPS 2022); held to outputs and gradients of the authors' code in tests/.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.models.adapters.ted import temporal_conv, zero_biases_and_convs


class STAdapter(nn.Module):
    """Patches p + fc2(conv_t(fc1 p)), without non-linearity; CLS stays as it is. The identity until it is trained."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.fc1 = nn.Linear(width, bottleneck)
        self.conv = nn.Conv1d(bottleneck, bottleneck, 3, padding=1, groups=bottleneck)  # the authors' 3 x 1 x 1
        self.fc2 = nn.Linear(bottleneck, width)
        zero_biases_and_convs(self.fc1, self.conv, self.fc2)

    def forward(self, x: Float[Tensor, "b t n c"], grid: tuple[int, int]) -> Float[Tensor, "b t n c"]:
        """x: CLS and patches, or the CLS token alone. grid: not read, the convolution has no extent in space."""
        if x.shape[2] == 1:
            return x
        return x + F.pad(self.fc2(temporal_conv(self.fc1(x[:, :, 1:]), self.conv)), (0, 0, 1, 0))
