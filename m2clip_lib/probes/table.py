"""Every kind of probe, a grid of each trained at once, the best chosen on validation: their scores and their table."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import with_list
from m2clip_lib.evaluate.tables import accuracy_rows
from m2clip_lib.experiment import keep_freed_memory
from m2clip_lib.models import Backbone
from m2clip_lib.probes.features import split_features
from m2clip_lib.probes.heads import KINDS, fit, scores

GRID = [(rate, decay) for rate in (1e-3, 3e-3, 1e-2, 3e-2) for decay in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
MIDDLE = GRID.index((1e-2, 1e-2))  # used where no validation split may choose
STEPS, BATCH = 300, 512


class Probes:
    """Probes on the frozen features of an experiment: read once, used by every kind and seed."""

    def __init__(
        self,
        experiment: Experiment,
        manifest: Manifest,
        backbone: Backbone,
        report: Callable[[str], None] = lambda line: None,
    ):
        """Like the model, which reads one clip per step in training, probes are trained on one view and scored on all."""
        keep_freed_memory()
        self.experiment, self.manifest = experiment, manifest
        self.protocol = Protocol.of_experiment(experiment)
        self.classes, self.features = len(manifest.class_names), {}
        self.may_choose = self.protocol.split != "val" and bool((manifest.table.split == "val").any())
        for split in ("train", *(["val"] if self.may_choose else []), self.protocol.split):
            asked = Protocol.of_experiment(experiment, split=split)
            asked = asked.one_view() if split == "train" else asked
            self.features[split] = split_features(experiment, manifest, backbone, asked, report=report)
        seen = torch.from_numpy(self.features["train"].scores["encoded"][:, 0]).float()
        seen = seen / seen.mean(1, keepdim=True).norm(dim=-1, keepdim=True)  # image features have length 1
        self.mean, self.std = seen.mean((0, 1)), seen.mean(1).std(0) + 1e-6

    def __call__(self, kind: str, seed: int = 0) -> tuple[Predictions, tuple[float, float]]:
        """Train a grid of one kind. Returns: the best one's scores of the reported split, its learning rate and weight decay."""
        y = torch.from_numpy(self.features["train"].labels)
        parameters = fit(kind, self._views("train")[:, 0], y, self.classes, GRID, STEPS, BATCH, seed)
        best = MIDDLE
        if self.may_choose:  # of equals, the first
            right = self._scored(kind, parameters, "val").argmax(-1) == self.features["val"].labels
            best = int(right.mean(1).argmax())
        chosen = {name: value[best : best + 1] for name, value in parameters.items()}
        own = self.features[self.protocol.split]
        answers = self._scored(kind, chosen, self.protocol.split)[0]
        found = Predictions(answers, None, own.labels, own.rows.tolist(), self.manifest.class_names, own.failed, protocol=self.protocol)
        return with_list(found, self.experiment, self.manifest), GRID[best]

    def _views(self, split: str) -> torch.Tensor:
        """Frames (n, v, t, e), each view's mean of length 1 before both are scaled as those of the training split."""
        x = torch.from_numpy(self.features[split].scores["encoded"]).float()
        return (x / x.mean(2, keepdim=True).norm(dim=-1, keepdim=True) - self.mean) / self.std

    @torch.inference_mode()
    def _scored(self, kind: str, parameters: dict[str, torch.Tensor], split: str) -> np.ndarray:
        """Mean over views of the softmax of every head of the grid (g, n, k)."""
        parts = []
        for x in self._views(split).split(BATCH):
            logits = scores(kind, parameters, x.flatten(0, 1)).unflatten(1, x.shape[:2])
            parts.append(logits.softmax(-1).mean(2))
        return torch.cat(parts, 1).numpy()


def probe_table(probes: Probes, seeds: int = 3) -> pd.DataFrame:
    """One row per kind and seed: kind, sees_order, seed, lr, weight_decay, and the columns of accuracy_rows."""
    rows = []
    for kind, sees_order in KINDS.items():
        for seed in range(seeds):
            found, (rate, decay) = probes(kind, seed)
            about = {"kind": kind, "sees_order": sees_order, "seed": seed, "lr": rate, "weight_decay": decay}
            rows.append(about | accuracy_rows(found, f"{kind} probe")[0] | found.columns())
    return pd.DataFrame(rows)
