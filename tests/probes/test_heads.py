"""Probe heads: a grid trained at once is the same as one by one; what can see time does, what cannot does not."""

import pytest
import torch
from torch.nn import functional as F

from m2clip_lib.probes.heads import KINDS, fit, scores, start


def clips(n: int = 60, frames: int = 4, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, frames, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_does_not_depend_on_the_others_of_its_grid(kind):
    x, y, grid = clips(), torch.arange(60) % 3, [(1e-2, 1e-2), (3e-3, 1.0), (0.1, 0.0)]
    together = fit(kind, x, y, 3, grid, 30, 16, seed=1)
    for i, pair in enumerate(grid):
        alone = fit(kind, x, y, 3, [pair], 30, 16, seed=1)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value[0], atol=1e-5, rtol=1e-5, msg=name)


def test_the_update_is_that_of_adamw():
    x, y = clips(), torch.arange(60) % 3
    found = fit("linear", x, y, 3, [(1e-2, 0.1)], 25, 60, seed=4)
    begin = start("linear", 4, 6, 3, torch.Generator().manual_seed(4))
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(begin["weight"])
        layer.bias.copy_(begin["bias"])
    groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(layer(x.mean(1)), y).backward()
        optimizer.step()
    torch.testing.assert_close(found["weight"][0], layer.weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["bias"][0], layer.bias.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "sees_order"), KINDS.items())
def test_only_heads_that_say_so_tell_a_clip_from_its_reverse(kind, sees_order):
    half = clips(200, 5, 6)
    x, y = torch.cat([half, half.flip(1)]), torch.cat([torch.zeros(200), torch.ones(200)]).long()
    x[:, 0, 0] += 2.0 * (1 - 2 * y)  # the first frame of a clip played forwards is brighter, of one played backwards darker ...
    x[:, -1, 0] -= 2.0 * (1 - 2 * y)  # ... and the last one the other way round: no bag of frames knows
    parameters = fit(kind, x, y, 2, [(3e-2, 1e-4)], 300, 100, seed=0)
    right = (scores(kind, parameters, x)[0].argmax(1) == y).float().mean()
    assert right > 0.9 if sees_order else right < 0.7
