"""What the optimizer gets, and at which rate."""

import math

from torch import nn

from m2clip_lib.models import M2CLIP


def live_parameters(model: M2CLIP) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that is trained and that something reads."""
    dead = model.dead_parameters()
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad and name not in dead}


def parameter_groups(model: M2CLIP, lr: float, weight_decay: float) -> list[dict]:
    """Groups for AdamW: text adapters at lr / 2, no decay on biases and norms; parameters that nothing reads are left out."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in live_parameters(model).items():
        rate = lr / 2 if name.startswith("text_adapters.") else lr
        decay = 0.0 if parameter.dim() < 2 else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear over the first warmup share of all steps, then cosine to 0."""
    warmup_steps = warmup * total_steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
