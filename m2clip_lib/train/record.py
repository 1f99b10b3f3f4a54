"""What an epoch records: its running sums, metrics.csv, skipped.csv, and warnings that name a cause."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from m2clip_lib.csvfiles import read_csv, write_csv
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.tables import WORDS

TERMS = ("total", "contrastive", "cross_modal", "classification", "mlm")
FILE, EXAMPLES = "skipped.csv", 3
STARVED = 0.3  # share of an epoch's time spent waiting for clips above which a warning is printed


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are means over the clips of the epoch; accuracies in percent; lr at its last step.

    seconds: of training, without validation and saving, so that clips / seconds is the speed of training.
    """

    epoch: int
    step: int
    lr: float
    total: float
    contrastive: float
    cross_modal: float
    classification: float
    mlm: float
    clips: int
    skipped: int
    seconds: float
    val_top1_similarity: float = math.nan
    val_top1_classifier: float = math.nan
    val_top1_ensemble: float = math.nan
    val_mean_ap_similarity: float = math.nan
    val_mean_ap_classifier: float = math.nan
    val_mean_ap_ensemble: float = math.nan

    @property
    def score(self) -> float:
        """What chooses the best epoch."""
        return self.val_top1_ensemble if math.isnan(self.val_mean_ap_ensemble) else self.val_mean_ap_ensemble


@dataclass
class Tally:
    """The running sums of an epoch over all processes; times in seconds."""

    sums: torch.Tensor  # each loss term times its clips, on the device
    clips: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    decoders: dict[str, int] = field(default_factory=dict)  # clips of this process by decoder

    def means(self) -> dict[str, float]:
        """Mean of each loss term over the clips. Raises: UserError when there were no clips."""
        if not self.clips:
            raise UserError("training: not one video of the training split could be read; run prepare again")
        return dict(zip(TERMS, (self.sums / self.clips).tolist(), strict=True))


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training. best_val: percent; measure: "top1", or "mean_ap" where videos have several labels."""

    best: Path
    last: Path
    metrics: Path
    best_epoch: int
    best_val: float
    seconds: float
    measure: str = "top1"

    @property
    def outcome(self) -> dict[str, float]:
        """What a run records of it."""
        return {"best_epoch": self.best_epoch, f"best_val_{self.measure}": self.best_val, "seconds": self.seconds}

    @property
    def validation(self) -> str:
        """The best epoch in words."""
        reached = "no validation" if math.isnan(self.best_val) else f"validation {WORDS[self.measure]} {self.best_val:.1f} %"
        return f"epoch {self.best_epoch}, {reached}"


def metrics_table(rows: Sequence[EpochMetrics]) -> pd.DataFrame:
    """The metrics as a table with one row per epoch; val_mean_ap_... take the place of val_top1_... where videos have several labels."""
    names = [column.name for column in fields(EpochMetrics)]
    unused = "val_mean_ap_" if all(math.isnan(row.val_mean_ap_ensemble) for row in rows) else "val_top1_"
    ordered = [*names[:8], *names[11:], *names[8:11]]
    return pd.DataFrame(rows, columns=[name for name in ordered if not name.startswith(unused)])


def note_skipped(tables: Path, failed: Mapping[str, str]) -> list[str]:
    """Add unreadable videos (path -> reason) to tables/skipped.csv. Returns: lines about the new ones: three examples and the total."""
    file = tables / FILE
    known = dict(read_csv(file).values) if file.is_file() else {}
    new = {path: reason for path, reason in sorted(failed.items()) if path not in known}
    if not new:
        return []
    rows = pd.DataFrame(sorted((known | new).items()), columns=["path", "reason"])
    write_csv(file, rows)
    lines = [f"skipped: {path}: {reason}" for path, reason in islice(new.items(), EXAMPLES)]
    return [*lines, f"skipped: {len(rows)} videos in this run so far, listed in {file}"]


def starved_warning(waited: float, seconds: float, workers: int) -> str:
    """A warning when waiting for clips took much of an epoch's training time (both in seconds), else ""."""
    if waited <= STARVED * seconds:
        return ""
    return (
        f"warning: {100 * waited / seconds:.0f} % of the epoch was spent waiting for clips: raise data.workers (now {workers}), "
        "transcode the videos to a short side of 256 with close keyframes, or set data.cache_frames for a small dataset"
    )


def idle_warning(names: Sequence[str], has_gradient: Sequence[bool]) -> str:
    """A warning that names the adapters all of whose gradients were zero, or "". names: of the parameters, each with its flag."""
    adapters = [name.rsplit(".", 2)[0] for name in names]  # visual_adapters.3.pre_mlp.enhancement.fc1.weight -> ....enhancement
    alive = {adapter for adapter, flag in zip(adapters, has_gradient, strict=True) if flag}
    idle = [adapter for adapter in dict.fromkeys(adapters) if "adapter" in adapter and adapter not in alive]
    if not idle:
        return ""
    return (
        f"warning: the gradients of {', '.join(idle)} were exactly zero for a whole epoch: no loss depends on them; "
        "check where the model section places adapters"
    )
