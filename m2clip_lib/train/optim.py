"""The optimizer's parameter groups, the learning rate schedule, and the check that every update was finite."""

import math

import torch
from torch import Tensor, nn

from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.models import M2CLIP
from m2clip_lib.train.record import TERMS

SHOWN = 4  # videos named when an update is not finite


def live_parameters(model: M2CLIP) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that is trained and that the losses read."""
    dead = model.dead_parameters()
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad and name not in dead}


def parameter_groups(model: M2CLIP, lr: float, weight_decay: float, clip_lr_scale: float = 0.1) -> list[dict]:
    """Groups of the live parameters for AdamW: text adapters at lr / 2, no weight decay on biases and norms.

    clip_lr_scale: share of lr for CLIP's own weights, where they are trained.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in live_parameters(model).items():
        rate = lr / 2 if name.startswith("text_adapters.") else clip_lr_scale * lr if name in model.unfrozen else lr
        decay = 0.0 if parameter.dim() < 2 else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear over the first `warmup` share of all steps, then cosine to 0."""
    return warmup_cosine(step, total_steps, warmup * total_steps, warmup * total_steps + 1)


def warmup_cosine(step: int, total_steps: int, warmup_steps: float, ramp: float) -> float:
    """Share of the peak rate: (step + 1) / ramp during the warm-up steps, then cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * ((step - warmup_steps) / (total_steps - warmup_steps))))


class FiniteCheck:
    """Remembers the first update that was not finite: its loss terms on the device, its videos on the host."""

    def __init__(self, processes: Processes, videos: list[str]):
        self.processes, self.videos = processes, videos
        self.first = torch.full((), -1, dtype=torch.int64, device=processes.device)
        self.terms = torch.zeros(len(TERMS), device=processes.device)
        self.recent: dict[int, tuple[int, list[int]]] = {}

    def watch(self, good: Tensor, terms: Tensor, step: int, epoch: int, rows: list[int]) -> None:
        """good: () bool, the same in all processes; terms: the loss terms of this process; rows: its videos."""
        new = ~good & (self.first < 0)
        self.first = torch.where(new, step, self.first)
        self.terms = torch.where(new, terms, self.terms)
        self.recent[step] = (epoch, rows)

    def check(self) -> None:
        """Wait for the device and check all updates so far, in all processes together. Raises: UserError naming term, step and videos."""
        step = int(self.first)
        if step < 0:
            self.recent.clear()
            return
        epoch, rows = self.recent[step]
        own = [term for term, value in zip(TERMS, self.terms.tolist(), strict=True) if not math.isfinite(value)]
        found = self.processes.gather((own, [self.videos[row] for row in rows]))
        terms = [term for term in TERMS if any(term in bad for bad, _ in found)]
        videos = [video for bad, some in found for video in some if bad or not terms]
        what = f"loss {', '.join(terms)}" if terms else "the gradient"
        more = f" and {len(videos) - SHOWN} more" if len(videos) > SHOWN else ""
        raise UserError(
            f"training: {what} is not finite at epoch {epoch}, step {step}; lower train.lr, or use train.precision=fp32; "
            f"this update was not saved; videos of this update: {', '.join(videos[:SHOWN])}{more}"
        )
