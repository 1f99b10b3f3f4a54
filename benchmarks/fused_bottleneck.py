"""Does it pay to fuse both bottlenecks of the TED-Adapter into one matrix product? python benchmarks/fused_bottleneck.py

W1 and W3 read the same x, and the difference is linear, so both products can be fused; likewise W2 and W4. Measured forward and
backward at ViT-B/16's size, one clip of 8 frames, one thread, interleaved. It did not pay on CPU, so the model keeps the plain form.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.models.adapters.ted import TEDAdapter, frame_difference, temporal_conv

GRID, WIDTH, BOTTLENECK, ROUNDS = (14, 14), 768, 384, 15


def fused(adapter: TEDAdapter, x: Tensor) -> Tensor:
    """The adapter with one down and one up projection; equal to adapter(x, GRID) up to fp32 rounding."""
    enhance, differ = adapter.enhancement, adapter.difference
    b, t, n, _ = x.shape
    both = F.linear(x, torch.cat([enhance.fc1.weight, differ.fc1.weight]))
    kept = temporal_conv(both[..., :BOTTLENECK] + enhance.fc1.bias, enhance.conv)
    moved = frame_difference(both[:, :, 1:, BOTTLENECK:]) + differ.fc1.bias
    moved = moved.reshape(b * t, *GRID, -1).permute(0, 3, 1, 2)
    moved = F.conv2d(moved, differ.conv.weight[:, :, 0], differ.conv.bias, padding=1, groups=BOTTLENECK)
    moved = F.pad(moved.permute(0, 2, 3, 1).reshape(b, t, n - 1, -1), (0, 0, 1, 0))
    up = torch.cat([enhance.fc2.weight, differ.fc2.weight], dim=1)
    out = x + F.linear(torch.cat([kept, moved], dim=-1), up, enhance.fc2.bias)
    return out + F.pad(differ.fc2.bias.expand(b, t, n - 1, -1), (0, 0, 1, 0))


def main() -> None:
    """Print the largest difference and the ratio of the times, plain over fused."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    adapter = TEDAdapter(WIDTH, BOTTLENECK)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, 8, 1 + GRID[0] * GRID[1], WIDTH, requires_grad=True)

    def seconds(form: Callable[[Tensor], Tensor]) -> float:
        adapter.zero_grad()
        start = time.perf_counter()
        form(x).square().mean().backward()
        return time.perf_counter() - start

    pairs = [(seconds(lambda y: adapter(y, GRID)), seconds(lambda y: fused(adapter, y))) for _ in range(ROUNDS + 1)][1:]
    print(f"largest difference {(adapter(x, GRID) - fused(adapter, x)).abs().max().item():.1e}")
    print(f"plain / fused: {statistics.median(plain / one for plain, one in pairs):.2f}")


if __name__ == "__main__":
    main()
