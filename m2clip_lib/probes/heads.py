"""Probe heads, many at once: every parameter has a leading axis for the grid of learning rates and weight decays."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

KINDS = {  # name -> whether it can see the order of frames
    "linear": False,  # on the mean over frames
    "attentive": True,  # a learned query attends to frames with learned positions; a linear classifier on what it sees
    "temporal convolution": True,  # depthwise over three frames, GELU, mean over time, linear classifier
}
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


def start(kind: str, grid: int, frames: int, width: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters of a grid of heads, each with the same random start."""
    parameters = {"weight": torch.randn(1, classes, width, generator=generator) * width**-0.5, "bias": torch.zeros(1, classes)}
    if kind == "attentive":
        parameters |= {"query": torch.randn(1, width, generator=generator) * width**-0.5, "position": torch.zeros(1, frames, width)}
    if kind == "temporal convolution":
        parameters["kernel"] = torch.tensor([0.0, 1.0, 0.0])[None, :, None].repeat(1, 1, width)  # each frame as it is
        parameters["kernel"] += 0.02 * torch.randn(1, 3, width, generator=generator)
    return {name: value.repeat(grid, *[1] * (value.dim() - 1)).requires_grad_() for name, value in parameters.items()}


def scores(kind: str, parameters: dict[str, Tensor], x: Float[Tensor, "n t e"]) -> Float[Tensor, "g n k"]:
    """Logits of every head of the grid."""
    if kind == "attentive":
        seen = x[None] + parameters["position"][:, None]  # (g, n, t, e)
        weights = (torch.einsum("gnte,ge->gnt", seen, parameters["query"])).softmax(-1)
        pooled = torch.einsum("gnt,gnte->gne", weights, seen)
    elif kind == "temporal convolution":
        kernel, around = parameters["kernel"], F.pad(x, (0, 0, 1, 1))  # (g, 3, e), (n, t + 2, e)
        mixed = sum(around[None, :, i : i + x.shape[1]] * kernel[:, None, i, None] for i in range(3))
        pooled = F.gelu(mixed).mean(2)
    else:
        pooled = x.mean(1)[None].expand(len(parameters["weight"]), -1, -1)
    return pooled @ parameters["weight"].transpose(1, 2) + parameters["bias"][:, None]


def fit(
    kind: str,
    x: Float[Tensor, "n t e"],
    y: Int[Tensor, "n"],
    classes: int,
    grid: Sequence[tuple[float, float]],
    steps: int,
    batch: int,
    seed: int,
) -> dict[str, Tensor]:
    """Train a grid of heads by AdamW, all on the same batches.

    Args:
        grid: (learning rate, weight decay) of each; biases have no decay. batch: clips per step, drawn without replacement per pass.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = start(kind, len(grid), x.shape[1], x.shape[2], classes, generator)
    rates, decays = (torch.tensor(values) for values in zip(*grid, strict=True))
    first, second = ({name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-steps * batch // len(x)))])
    for step, rows in enumerate(order.split(min(batch, len(x)))[:steps], 1):
        of_heads = scores(kind, parameters, x[rows]).flatten(0, 1)
        loss = F.cross_entropy(of_heads, y[rows].repeat(len(grid)), reduction="sum") / len(rows)  # a sum over heads: none sees another
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
                shape = (-1, *[1] * (value.dim() - 1))
                rate, decay = rates.view(shape), decays.view(shape) * (name != "bias")
                first[name].lerp_(gradient, 1 - BETAS[0])
                second[name].lerp_(gradient.square(), 1 - BETAS[1])
                spread = (second[name] / (1 - BETAS[1] ** step)).sqrt() + EPSILON
                value.mul_(1 - rate * decay).sub_(rate * (first[name] / (1 - BETAS[0] ** step)) / spread)
    return {name: value.detach() for name, value in parameters.items()}
