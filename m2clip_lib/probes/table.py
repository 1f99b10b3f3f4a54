"""Every kind of probe, a grid of each trained at once, the best chosen on validation: their scores and their table."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.honesty import REVERSED, honesty_rows
from m2clip_lib.evaluate.multilabel import mean_average_precision
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
STEPS, BATCH = 300, 64  # clips
ON_PATCHES = "attentive on patches"
FRAME_KINDS = tuple(kind for kind in KINDS if kind != ON_PATCHES)


class Probes:
    """Probes on the frozen features of an experiment: read once, used by every kind and seed."""

    def __init__(
        self,
        experiment: Experiment,
        manifest: Manifest,
        backbone: Backbone,
        report: Callable[[str], None] = lambda line: None,
        patches: bool = False,
    ):
        """Like the model, which reads one clip per step in training, probes are trained on one view and scored on all.

        patches: read patches in place of frames, which attentive probes can.
        """
        keep_freed_memory()
        self.experiment, self.manifest, self.several = experiment, manifest, manifest.several_labels
        self.protocol = Protocol.of_experiment(experiment)
        self.found, self.clips = {}, {}
        self.may_choose = self.protocol.split != "val" and manifest.has("val")
        for split in ("train", *(["val"] if self.may_choose else []), self.protocol.split):
            asked = dataclasses.replace(self.protocol.one_view() if split == "train" else self.protocol, split=split)
            found = self.found[split] = split_features(experiment, manifest, backbone, asked, report=report, patches=patches)
            if not len(found.rows):
                raise UserError(f"probes: no video of split {split} can be read: {found.failed[0][1]}")
            x = torch.from_numpy(found.scores["encoded"]).float()  # (n, v, t, e), or (n, v, t * p, c)
            self.clips[split] = x if patches else x / x.mean(2, keepdim=True).norm(dim=-1, keepdim=True)  # image features have length 1
        seen = self.clips["train"].flatten(0, 2) if patches else self.clips["train"].mean(2)[:, 0]
        mean, std = seen.mean(0), seen.std(0) + 1e-6
        self.clips = {split: (x - mean) / std for split, x in self.clips.items()}

    def __call__(self, kind: str, seed: int = 0) -> tuple[Predictions, Predictions, tuple[float, float]]:
        """Train a grid of one kind.

        Returns: the best one's scores of the reported split, those of the same clips played backwards, its learning rate and weight decay.
        """
        x, y = self.clips["train"][:, 0], torch.from_numpy(self.found["train"].labels)
        if self.several:
            y = torch.from_numpy(self._targets("train")).float()
        batch = BATCH * x.shape[1] if kind == "linear" else BATCH  # a linear head reads one mean for every clip
        parameters = fit(kind, x, y, len(self.manifest.class_names), GRID, STEPS, batch, seed)
        best = MIDDLE
        if self.may_choose:  # of equals, the first
            answers = self._scored(kind, parameters, self.clips["val"])
            if self.several:
                best = int(np.argmax([mean_average_precision(of_one, self._targets("val")) for of_one in answers]))
            else:
                best = int((answers.argmax(-1) == self.found["val"].labels).mean(1).argmax())
        chosen = {name: value[best : best + 1] for name, value in parameters.items()}
        own, clips, both = self.found[self.protocol.split], self.clips[self.protocol.split], []
        reversed_ = clips.unflatten(2, (self.protocol.frames, -1)).flip(2).flatten(2, 3)  # frozen CLIP sees each frame by itself
        for order, frames in (("forwards", clips), ("backwards", reversed_)):
            answers, asked = self._scored(kind, chosen, frames)[0], dataclasses.replace(self.protocol, order=order)
            found = Predictions(answers, None, own.labels, own.rows.tolist(), self.manifest.class_names, own.failed, protocol=asked)
            both.append(with_list(found, self.experiment, self.manifest))
        return *both, GRID[best]

    def _targets(self, split: str) -> np.ndarray:
        """All labels of the videos that were read (n, k)."""
        return self.manifest.targets(split)[self.found[split].rows]

    @torch.inference_mode()
    def _scored(self, kind: str, parameters: dict[str, torch.Tensor], clips: torch.Tensor) -> np.ndarray:
        """Mean over views of the softmax, or of sigmoids, of every head of the grid (g, n, k). clips: (n, v, t, e)."""
        parts = []
        for x in clips.split(BATCH):
            logits = scores(kind, parameters, x.flatten(0, 1)).unflatten(1, x.shape[:2])
            parts.append((logits.sigmoid() if self.several else logits.softmax(-1)).mean(2))
        return torch.cat(parts, 1).numpy()


def probe_table(probes: Probes, seeds: int = 3, kinds: Sequence[str] = FRAME_KINDS) -> pd.DataFrame:
    """One row per kind and seed: kind, sees_order, seed, lr, weight_decay, the columns of accuracy_rows, and those of REVERSED."""
    rows = []
    for kind in kinds:
        for seed in range(seeds):
            found, reversed_, (rate, decay) = probes(kind, seed)
            about = {"kind": kind, "sees_order": KINDS[kind], "seed": seed, "lr": rate, "weight_decay": decay}
            played = honesty_rows(found, {"backwards": reversed_})[0]
            about |= {column: played[name] for name, column in REVERSED.items() if name in played}
            rows.append(about | accuracy_rows(found, f"{kind} probe")[0] | found.columns())
    return pd.DataFrame(rows)
