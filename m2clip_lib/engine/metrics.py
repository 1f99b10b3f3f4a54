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
