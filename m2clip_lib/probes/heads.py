"""Probe heads, many at once: every parameter has a leading axis for the grid of learning rates and weight decays."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

KINDS = {  # name -> whether it can see the order of frames
    "linear": False,  # on the mean over frames
    "attentive": True,  # a learned query attends to frames with learned positions; a linear classifier on what it sees
    "attentive on patches": True,  # likewise, to the patches of all frames
    "temporal convolution": True,  # depthwise over three frames, GELU, mean over time, linear classifier
}


def start(kind: str, frames: int, width: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random parameters of one head."""
    parameters = {"weight": torch.randn(classes, width, generator=generator) * width**-0.5, "bias": torch.zeros(classes)}
    if kind.startswith("attentive"):
        parameters |= {"query": torch.randn(width, generator=generator) * width**-0.5, "position": torch.zeros(frames, width)}
    if kind == "temporal convolution":
        own = torch.tensor([0.0, 1.0, 0.0])[:, None]  # each frame as it is
        parameters["kernel"] = own + 0.02 * torch.randn(3, width, generator=generator)
    return parameters


def scores(kind: str, parameters: dict[str, Tensor], x: Float[Tensor, "n t e"]) -> Float[Tensor, "g n k"]:
    """Logits of every head of the grid."""
    weight = parameters["weight"]
    if kind == "linear":
        return F.linear(x.mean(1), weight.flatten(0, 1), parameters["bias"].flatten()).unflatten(1, weight.shape[:2]).transpose(0, 1)
    if kind.startswith("attentive"):  # on x + position, which would be a copy of x for every head
        query, position = parameters["query"], parameters["position"]
        asked = x @ query.T + (position @ query[..., None])[..., 0].T  # (n, t, g)
        weights = asked.softmax(1)
        pooled = (weights.transpose(1, 2) @ x).transpose(0, 1) + weights.permute(2, 0, 1) @ position
    else:
        windows = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).permute(2, 3, 0, 1)  # (e, 3, n, t)
        mixed = parameters["kernel"].permute(2, 0, 1) @ windows.flatten(2)  # (e, g, n * t): one product for all heads
        pooled = F.gelu(mixed).unflatten(2, windows.shape[2:]).mean(3).permute(1, 2, 0)
    return torch.baddbmm(parameters["bias"][:, None], pooled, weight.transpose(1, 2))


def fit(
    kind: str,
    x: Float[Tensor, "n t e"],
    y: Int[Tensor, "n"] | Float[Tensor, "n k"],
    classes: int,
    grid: Sequence[tuple[float, float]],
    steps: int,
    batch: int,
    seed: int,
) -> dict[str, Tensor]:
    """Train a grid of heads by AdamW, all from one start and on the same batches.

    Args:
        y: the label of each clip, or all its labels as zeros and ones, for binary cross entropy.
        grid: (learning rate, weight decay) of each; biases have no decay. batch: clips per step, drawn without replacement per pass.
    """
    generator = torch.Generator().manual_seed(seed)
    begin = start(kind, x.shape[1], x.shape[2], classes, generator)
    heads = [{name: value.clone().requires_grad_() for name, value in begin.items()} for _ in grid]
    groups = []
    for head, (rate, decay) in zip(heads, grid, strict=True):
        groups.append({"params": [value for name, value in head.items() if name != "bias"], "lr": rate, "weight_decay": decay})
        groups.append({"params": [head["bias"]], "lr": rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    if kind == "linear":
        x = x.mean(1, keepdim=True)  # once
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-steps * batch // len(x)))])
    entropy = F.cross_entropy if y.dim() == 1 else F.binary_cross_entropy_with_logits
    for rows in order.split(min(batch, len(x)))[:steps]:
        of_heads = scores(kind, stacked(heads), x[rows]).flatten(0, 1)
        wanted = y[rows].repeat(len(grid), *[1] * (y.dim() - 1))
        loss = entropy(of_heads, wanted, reduction="sum") / len(rows)  # a sum over heads: none sees another
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in stacked(heads).items()}


def stacked(heads: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The parameters of several heads, each with a leading axis."""
    return {name: torch.stack([head[name] for head in heads]) for name in heads[0]}
