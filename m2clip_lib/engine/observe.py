"""What a run should say of itself: data that starve the device, adapters that learn nothing, memory that ran out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from m2clip_lib.errors import UserError

STARVED = 0.3  # share of an epoch spent waiting for clips from which on it is worth a word


@contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Raises: UserError in place of the GPU's out-of-memory error. advice: which settings to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"out of memory: {advice}") from error


def training_advice(batch_size: int) -> str:
    """For a step that the GPU does not hold."""
    return (
        f"the GPU's memory does not hold a training step; lower train.batch_size (now {batch_size}) and raise train.accumulate by the "
        "same factor, or set train.activation_checkpointing=true, or train.precision=bf16"
    )


def evaluation_advice(batch_size: int) -> str:
    """For a batch of views that the GPU does not hold."""
    return (
        f"the GPU's memory does not hold a batch of the evaluation; lower eval.batch_size (now {batch_size} videos, each with all its "
        "views), or eval.spatial_views and eval.temporal_views"
    )


def starved_warning(waited: float, seconds: float, workers: int) -> str:
    """One line when waiting for clips took much of an epoch's training time (both in seconds), else ""."""
    if waited <= STARVED * seconds:
        return ""
    return (
        f"warning: {100 * waited / seconds:.0f} % of the epoch was spent waiting for clips: raise data.workers (now {workers}), "
        "transcode the videos to a short side of 256 with close keyframes, or set data.cache_frames for a small dataset"
    )


def idle_adapters(names: Sequence[str], has_gradient: Sequence[bool]) -> list[str]:
    """Adapters none of whose parameters has had a gradient other than zero; names: of the parameters, one flag each."""
    alive: dict[str, bool] = {}
    for name, flag in zip(names, has_gradient, strict=True):
        adapter = name.rsplit(".", 2)[0]  # visual_adapters.3.pre_mlp.enhancement.fc1.weight -> ....enhancement
        if "adapter" in adapter:
            alive[adapter] = alive.get(adapter, False) or bool(flag)
    return [adapter for adapter, flag in alive.items() if not flag]


def idle_warning(adapters: Sequence[str]) -> str:
    """One line naming them, or ""."""
    if not adapters:
        return ""
    return (
        f"warning: the gradients of {', '.join(adapters)} were exactly zero for a whole epoch: nothing that the losses read depends on it; "
        "check where the model section places adapters"
    )


def gpu_memory(device: torch.device) -> str:
    """Peak memory so far, for the bar."""
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else "-"
