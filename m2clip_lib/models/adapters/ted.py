"""The TED-Adapter between the frozen blocks of the visual tower, and the frame adapter after them.

Source: M2-CLIP (AAAI 2024), section 3; the exact order of operations is checked against golden outputs in tests/.
Axis letters: b clips, t frames, n tokens (CLS first), c channels, d bottleneck channels.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def temporal_conv(x: Float[Tensor, "b t n d"], conv: nn.Conv1d, static: bool = False) -> Float[Tensor, "b t n d"]:
    """Depthwise convolution along time, zero padded, applied to each token separately. static: each frame is its own neighbour."""
    taps = conv.weight[:, 0].unbind(-1)  # k tensors of (d,)
    if static or len(taps) == 1:
        return x * sum(taps[1:], taps[0]) + conv.bias
    # Shifted multiply-adds keep channels last: at these shapes they avoid the layout copy that conv1d needs.
    past = F.pad(x[:, :-1], (0, 0, 0, 0, 1, 0))
    future = F.pad(x[:, 1:], (0, 0, 0, 0, 0, 1))
    return past * taps[0] + x * taps[1] + future * taps[2] + conv.bias


def frame_difference(x: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t n c"]:
    """d_t = x_t - x_{t-1}; the first frame has no predecessor, so d_0 = 0."""
    return F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 0, 1, 0))


def zero_biases_and_convs(*layers: nn.Module) -> None:
    """Start the biases of all layers, and the weights of convolutions, at 0."""
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class TemporalEnhancement(nn.Module):
    """W2 conv_t(W1 x + b1) + b2: mixes each token with itself one frame earlier and later."""

    def __init__(self, width: int, bottleneck: int, kernel: int = 3, static: bool = False):
        """kernel: frames the convolution sees, 3 (published) or 1. static: a control that cannot see time."""
        super().__init__()
        self.static = static
        self.fc1 = nn.Linear(width, bottleneck)
        self.conv = nn.Conv1d(bottleneck, bottleneck, kernel, padding=kernel // 2, groups=bottleneck)
        self.fc2 = nn.Linear(bottleneck, width)
        zero_biases_and_convs(self.fc1, self.conv, self.fc2)

    def forward(self, x: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t n c"]:
        """Return the enhancement alone; TEDAdapter adds it to x."""
        return self.fc2(temporal_conv(self.fc1(x), self.conv, self.static))


class TemporalDifference(nn.Module):
    """W4 conv_s(W3 d + b3) + b4 on the patch grid, where d is the change since the previous frame."""

    def __init__(self, width: int, bottleneck: int, static: bool = False):
        """static: a control that cannot see time, where d is the frame itself."""
        super().__init__()
        self.static = static
        self.fc1 = nn.Linear(width, bottleneck)
        self.conv = nn.Conv3d(bottleneck, bottleneck, (1, 3, 3), padding=(0, 1, 1), groups=bottleneck)
        self.fc2 = nn.Linear(bottleneck, width)
        zero_biases_and_convs(self.fc1, self.conv, self.fc2)

    def forward(self, patches: Float[Tensor, "b t n c"], grid: tuple[int, int]) -> Float[Tensor, "b t n c"]:
        """Return the difference branch alone. patches: without CLS, in row-major order of the grid."""
        b, t, n, _ = patches.shape
        x = self.fc1(patches if self.static else frame_difference(patches))
        x = x.reshape(b * t, *grid, -1).permute(0, 3, 1, 2)  # (b*t, d, rows, columns)
        x = F.conv2d(x, self.conv.weight[:, :, 0], self.conv.bias, padding=1, groups=x.shape[1])
        return self.fc2(x.permute(0, 2, 3, 1).reshape(b, t, n, -1))


class TEDAdapter(nn.Module):
    """TED(x) = x + enhance(x) + [0 for CLS; difference(patches)]: the identity until it is trained."""

    def __init__(
        self, width: int, bottleneck: int, *, enhancement: bool = True, difference: bool = True, kernel: int = 3, static: bool = False
    ):
        super().__init__()
        self.enhancement = TemporalEnhancement(width, bottleneck, kernel, static) if enhancement else None
        self.difference = TemporalDifference(width, bottleneck, static) if difference else None

    def forward(self, x: Float[Tensor, "b t n c"], grid: tuple[int, int]) -> Float[Tensor, "b t n c"]:
        """x: grid[0] * grid[1] patches, after CLS if there is one, or CLS alone (the difference branch never touches CLS)."""
        out = x if self.enhancement is None else x + self.enhancement(x)
        if self.difference is None or x.shape[2] == 1:
            return out
        before = x.shape[2] - grid[0] * grid[1]
        return out + F.pad(self.difference(x[:, :, before:], grid), (0, 0, before, 0))


class FrameAdapter(nn.Module):
    """The "t_adapter" on the frame embeddings: x + W6 conv_t(W5 x + b5) + b6, with a bottleneck of half the embedding."""

    def __init__(self, embed_dim: int, kernel: int = 3, static: bool = False):
        super().__init__()
        self.enhancement = TemporalEnhancement(embed_dim, embed_dim // 2, kernel, static)

    def forward(self, frames: Float[Tensor, "b t e"]) -> Float[Tensor, "b t e"]:
        """frames: one embedding per frame."""
        return frames + self.enhancement(frames[:, :, None])[:, :, 0]
