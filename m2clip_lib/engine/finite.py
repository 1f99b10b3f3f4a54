"""Loss and gradient must be finite. The device keeps the first update where they were not; it is asked only now and then."""

import torch
from torch import Tensor

from m2clip_lib.engine.metrics import TERMS
from m2clip_lib.engine.processes import Processes
from m2clip_lib.errors import UserError

SHOWN = 4  # videos named


class FiniteCheck:
    """Remembers the first bad update: its terms on the device, its videos on the host."""

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
        """Waits for the device; all processes must call it together. Raises: UserError naming term, step and videos."""
        step = int(self.first)
        if step < 0:
            self.recent.clear()
            return
        epoch, rows = self.recent[step]
        own = [term for term, value in zip(TERMS, self.terms.tolist(), strict=True) if not torch.tensor(value).isfinite()]
        told = self.processes.gather((own, [self.videos[row] for row in rows]))
        terms = [term for term in TERMS if any(term in bad for bad, _ in told)]
        videos = [video for bad, some in told for video in some if bad or not terms]
        what = f"loss {', '.join(terms)}" if terms else "the gradient"
        more = f" and {len(videos) - SHOWN} more" if len(videos) > SHOWN else ""
        raise UserError(
            f"training: {what} is not finite at epoch {epoch}, step {step}; lower train.lr, or use train.precision=fp32; "
            f"nothing of it was saved; videos of this update: {', '.join(videos[:SHOWN])}{more}"
        )
