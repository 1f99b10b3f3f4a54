"""A trained run, ready to be explored: its model, its evaluation videos, and their saved predictions. No display in here."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from m2clip_lib import paths
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.engine.build import open_backbone, pick_device
from m2clip_lib.engine.evaluate import Predictions, load_predictions
from m2clip_lib.engine.predict import open_checkpoint
from m2clip_lib.engine.protocols import top_ids
from m2clip_lib.engine.timeline import Timeline, video_timeline
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run
from m2clip_lib.viz.looking import Look, model_video, read_clip, score_table, text_features
from m2clip_lib.viz.maps import MapChoice, PatchMap, patch_map
from m2clip_lib.viz.overlay import plot_overlay
from m2clip_lib.viz.style import new_figure


@dataclass
class Explorer:
    """model: of the run. table: the evaluation videos. models: every model opened so far, by name; the run's own is first."""

    model: M2CLIP
    predictions: Predictions
    table: pd.DataFrame
    run: Run
    manifest: Manifest
    models: dict[str, M2CLIP] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Run, manifest: Manifest) -> "Explorer":
        """Load a run's best checkpoint and predictions. Raises: UserError saying which step is missing."""
        split = run.experiment.eval.split
        model = M2CLIP.from_checkpoint(run.checkpoint, open_backbone(run.experiment)).to(pick_device())
        return cls(
            model, load_predictions(run.predictions, split), manifest.split(split), run, manifest, {paths.shown(run.checkpoint): model}
        )

    @property
    def blocks(self) -> int:
        """Visual blocks to choose from."""
        return len(self.model.clip.visual.transformer.resblocks)

    @property
    def heads(self) -> int:
        """Heads of a block."""
        return self.model.clip.visual.transformer.resblocks[0].attn.num_heads

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints on this machine, the run's own first."""
        own = paths.shown(self.run.checkpoint)
        found = [paths.shown(file) for file in _checkpoints() if file.with_suffix(".json").is_file()]
        return [own, *(name for name in found if name != own and "/backbones/" not in name)]

    def other(self, name: str) -> M2CLIP:
        """Another checkpoint, opened once: ours on its own backbone, a published file on that of the run. Raises: UserError."""
        if name not in self.models:
            path = paths.resolve(name)
            if path.suffix == ".safetensors":
                self.models[name], _ = open_checkpoint(path)
            else:
                self.models[name] = M2CLIP.from_checkpoint(path, self.model.backbone).to(pick_device()).eval()
        return self.models[name]

    def look(self, row: int) -> Look:
        """The evaluation clip of a video of the table."""
        return self.look_at(self.table.path[row], truth=self.table.class_name[row])

    def look_at(self, path: str | Path, truth: str = "") -> Look:
        """The clip of any video file. Raises: UserError when it cannot be read."""
        data = self.run.experiment.data
        return read_clip(Path(path).expanduser(), data.num_frames, data.stride, self.model.backbone.image_size, truth)

    def texts(self, model: M2CLIP, names: Sequence[str]) -> torch.Tensor:
        """Text features of names, kept: sliders that move do not encode them again."""
        return _texts(model, tuple(names))

    def scores(self, look: Look, names: Sequence[str] = (), model: M2CLIP | None = None) -> pd.DataFrame:
        """score_table of a clip; by default for the run's classes and model."""
        model, names = model or self.model, list(names) or self.manifest.class_names
        return score_table(model, look, names, self.texts(model, names))

    def map(self, look: Look, choice: MapChoice, names: Sequence[str] = (), model: M2CLIP | None = None) -> PatchMap:
        """patch_map of a clip; by default for the run's classes and model."""
        model, names = model or self.model, list(names) or self.manifest.class_names
        return patch_map(model, model_video(model, look), choice, self.texts(model, names), names)

    def figure(self, look: Look, maps: Sequence[PatchMap]) -> Figure:
        """Frames and one map or several of them, one below the other."""
        frames = len(look.clip)
        width = 12 if frames > 5 else 9  # inches; a title needs 9
        side = min(1.6, (width - 2) / frames)  # of a frame
        figure, axes = new_figure(width, (2 * side + 1.3) * len(maps), rows=2 * len(maps))
        for i, found in enumerate(maps):
            plot_overlay((axes[2 * i], axes[2 * i + 1]), look.frames, found, look.seconds)
        return figure

    def timeline(self, path: str | Path, names: Sequence[str] = ()) -> Timeline:
        """What the run's model sees in a video, window by window."""
        return video_timeline(Path(path), self.model, self.run.experiment.data.stride, names)

    def ranking(self, row: int, top: int = 5) -> pd.DataFrame:
        """The best classes of every read-out for one video, from the saved predictions (all views), scores in percent."""
        place = self.predictions.rows.index(row)
        columns = {}
        for readout in self.predictions.readouts:
            scores = self.predictions.readout(readout)[place]
            ids = top_ids(scores[None], top)[0]
            columns[readout] = [f"{self.predictions.class_names[i]}  {100 * scores[i]:.1f} %" for i in ids]
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(ids) + 1, name="rank"))

    def surest_mistake(self) -> int:
        """Row of the wrongly classified video the ensemble was surest of; of the least sure one if there is no mistake."""
        scores, labels = self.predictions.readout("ensemble"), self.predictions.labels
        wrong = scores.argmax(axis=1) != labels
        place = np.where(wrong, scores.max(axis=1), -scores.max(axis=1)).argmax()
        return self.predictions.rows[int(place)]

    def surest_hit(self) -> int:
        """Row of the rightly classified video the ensemble was surest of."""
        scores, labels = self.predictions.readout("ensemble"), self.predictions.labels
        right = scores.argmax(axis=1) == labels
        return self.predictions.rows[int(np.where(right, scores.max(axis=1), -1).argmax())]


@functools.lru_cache(maxsize=32)
def _texts(model: M2CLIP, names: tuple[str, ...]) -> torch.Tensor:
    return text_features(model, names)


def parse_names(text: str) -> list[str]:
    """ "a, b, c" as typed -> names without doubles, in order. Raises: UserError for one name alone: it has nothing to compete with."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if len(names) == 1:
        raise UserError(f"labels: “{names[0]}” alone has nothing to be compared with; type two or more, with commas between")
    return names


def _checkpoints() -> list[Path]:
    """Of runs, then of the variants of their ablations."""
    return [*sorted(paths.CHECKPOINTS.glob("*/*.safetensors")), *sorted(paths.CHECKPOINTS.glob("*/ablations/*/*.safetensors"))]
