"""The processes that share a training or an evaluation: which one this is, on which device, and how they exchange data.

Started by torchrun, by `accelerate launch`, or alone. Only accelerate's PartialState is used: its Accelerator keeps one precision
for the life of a Python process, and a notebook trains more than once.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn

from m2clip_lib.errors import UserError


class Processes:
    """rank: number of this process. count: number of processes. device: of this process."""

    def __init__(self) -> None:
        state = PartialState(cpu=not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true")
        self.rank, self.count = state.process_index, state.num_processes
        if self.count != int(os.environ.get("WORLD_SIZE", 1)):
            raise UserError(f"processes: WORLD_SIZE is {os.environ['WORLD_SIZE']}, but this process runs alone; start it with torchrun")
        self.device = state.device if state.device.type == "cuda" else torch.device("cpu")
        # Counts and flags are exchanged between the hosts' memories, so that nobody waits for a device.
        self._hosts = distributed.new_group(backend="gloo") if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def exchange(self, values: Sequence[int]) -> np.ndarray:
        """Integers of this process -> those of all, (processes, n)."""
        if self.count == 1:
            return np.array([values], dtype=np.int64)
        own = torch.tensor(values, dtype=torch.int64)  # every update waits for it: one exchange of a tensor, where gather makes two
        rows = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(rows, own, group=self._hosts)
        return torch.stack(rows).numpy()

    def gather(self, value: Any) -> list[Any]:
        """An object of this process -> those of all, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self._hosts)
        return found

    def from_main(self, value: Any) -> Any:
        """The main process' object, in every process."""
        box = [value]
        if self.count > 1:
            distributed.broadcast_object_list(box, src=0, group=self._hosts)
        return box[0]

    def gather_rows(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """Rows (n, e) of this process -> those of all, by rank. sizes: number of rows in each process."""
        if self.count == 1:
            return own
        padded = own.new_zeros(max(sizes), own.shape[1])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    def add_up(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Sum the gradients over all processes, in place, and `values` in the same message. Returns: the sum of values.

        The adapters have few gradients, so one message after the backward pass is simple and exact. DistributedDataParallel would
        average them, and would require the same number of clips in every process.
        """
        if self.count == 1:
            return values
        flat = torch.cat([*(parameter.grad.flatten() for parameter in parameters), values])
        distributed.all_reduce(flat)
        *gradients, values = flat.split([*(parameter.numel() for parameter in parameters), len(values)])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return values
