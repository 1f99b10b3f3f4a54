"""What an epoch adds up, and metrics.csv."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch

from m2clip_lib.errors import UserError
from m2clip_lib.files import write_atomically

TERMS = ("total", "contrastive", "cross_modal", "classification", "mlm")


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are means over the clips of the epoch; accuracies in percent; lr at its last step."""

    epoch: int
    step: int
    lr: float
    total: float
    contrastive: float
    cross_modal: float
    classification: float
    mlm: float
    val_top1_similarity: float
    val_top1_classifier: float
    val_top1_ensemble: float
    clips: int
    skipped: int
    seconds: float


@dataclass
class Tally:
    """What an epoch has added up so far, over all processes. sums: each loss term times its clips, on the device; times in seconds.

    decoders: clips of this process by what read them.
    """

    sums: torch.Tensor
    clips: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    decoders: dict[str, int] = field(default_factory=dict)

    def add_decoders(self, counts: Mapping[str, int]) -> None:
        """Count clips by what read them."""
        for name, count in counts.items():
            self.decoders[name] = self.decoders.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """Mean of each loss term over clips. Raises: UserError when there was none."""
        if not self.clips:
            raise UserError("training: not one video of the training split could be read; run prepare again")
        return dict(zip(TERMS, (self.sums / self.clips).tolist(), strict=True))


def metrics_table(rows: Sequence[EpochMetrics]) -> pd.DataFrame:
    """One row an epoch."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(EpochMetrics.__dataclass_fields__))


def write_metrics(file: Path, rows: Sequence[EpochMetrics]) -> None:
    """The whole table anew, atomically: after a resume no row is there twice."""
    write_atomically(file, lambda temporary: metrics_table(rows).to_csv(temporary, index=False))


FILE, EXAMPLES = "skipped.csv", 3


def note_skipped(tables: Path, failed: Mapping[str, str]) -> list[str]:
    """Add videos to tables/skipped.csv.

    Args:
        failed: path -> reason.
    Returns: lines about those that were not in it yet: three examples, and how many there are.
    """
    file = tables / FILE
    known = dict(pd.read_csv(file, keep_default_na=False).values) if file.is_file() else {}
    new = {path: reason for path, reason in sorted(failed.items()) if path not in known}
    if not new:
        return []
    rows = pd.DataFrame(sorted((known | new).items()), columns=["path", "reason"])
    write_atomically(file, lambda target: rows.to_csv(target, index=False))
    lines = [f"skipped: {path}: {reason}" for path, reason in list(new.items())[:EXAMPLES]]
    return [*lines, f"skipped: {len(rows)} videos of this run so far, all in {file}"]


def forget_skipped(tables: Path) -> None:
    """A run that starts over has skipped nothing yet."""
    (tables / FILE).unlink(missing_ok=True)


STARVED = 0.3  # share of an epoch spent waiting for clips from which on it is worth a word


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
