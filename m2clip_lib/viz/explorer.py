"""A trained run, ready to be explored: its model, its evaluation videos, and their saved predictions. No display in here."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib import paths
from m2clip_lib.attention.maps import MapChoice, PatchMap, patch_map
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import top_ids
from m2clip_lib.evaluate.predict import Timeline, open_checkpoint, video_timeline
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import Protocol, views_of_files
from m2clip_lib.experiment import open_backbone, pick_device
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.losses import SCORE_SCALE
from m2clip_lib.models.text import text_features
from m2clip_lib.runs import Run
from m2clip_lib.viz.overlay import plot_overlay
from m2clip_lib.viz.style import new_figure


@dataclass(frozen=True)
class Look:
    """A clip to look at: (t, 3, s, s) uint8 RGB, the second in the video of each frame, where it is from; truth "" if unknown."""

    clip: UInt8[Tensor, "t 3 s s"]
    seconds: list[float]
    path: str
    truth: str = ""

    @property
    def frames(self) -> np.ndarray:
        """(t, s, s, 3) uint8 RGB."""
        return self.clip.permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True)
class Edit:
    """What is done to a clip before the model sees it.

    Attributes:
        backwards: play it in reverse. frames: counted from 0 in playing order, hidden whole.
        rows, columns: patches [first, end) hidden in every frame; both must be given.
    """

    backwards: bool = False
    frames: tuple[int, ...] = ()
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None


def read_clip(path: str | Path, protocol: Protocol, side: int, truth: str = "") -> Look:
    """The clip that evaluation takes from the middle of a video, cropped to `side` pixels.

    Raises: UserError with the reason when the video cannot be read.
    """
    protocol = protocol.one_view()
    table, views, failed = views_of_files([path], protocol, side)
    if views is None:
        raise UserError(f"{path}: {failed[0]}")
    item, info = views[0], table.iloc[0]
    if item.clip is None:
        raise UserError(f"{path}: {item.error}")
    indices = test_indices(info.num_frames, protocol.frames, protocol.stride)[0]
    return Look(item.clip[0], [float(i / (info.fps or 1)) for i in indices], str(path), truth)


def edit_clip(look: Look, edit: Edit, mean: Sequence[float], grid: tuple[int, int]) -> Look:
    """Apply an edit. What is hidden becomes the backbone's mean colour (RGB in [0, 1]), which the model reads as zeros."""
    clip = look.clip.flip(0) if edit.backwards else look.clip.clone()
    seconds = look.seconds[::-1] if edit.backwards else look.seconds
    colour = (255 * torch.tensor(mean)).round().to(torch.uint8)[:, None, None]
    for frame in edit.frames:
        clip[frame] = colour
    if edit.rows is not None and edit.columns is not None:
        height, width = clip.shape[2] // grid[0], clip.shape[3] // grid[1]
        (top, bottom), (left, right) = edit.rows, edit.columns
        clip[:, :, top * height : bottom * height, left * width : right * width] = colour
    return dataclasses.replace(look, clip=clip, seconds=seconds)


def model_video(model: M2CLIP, look: Look) -> Float[Tensor, "1 3 t s s"]:
    """A clip as this model reads it, on its device; resized where its backbone has another size."""
    clip, side = look.clip, model.backbone.image_size
    if clip.shape[-1] != side:
        clip = F.interpolate(clip.float(), size=(side, side), mode="bicubic", antialias=True).clamp(0, 255).round().to(torch.uint8)
    return model.backbone.video(clip[None], model.clip.logit_scale.device)


@torch.inference_mode()
def score_table(model: M2CLIP, look: Look, names: Sequence[str], texts: Float[Tensor, "k e"]) -> pd.DataFrame:
    """Scores of a clip in percent, best first: a row a name, a column a read-out; similarity alone for names that are not the model's.

    texts: text_features of the names.
    """
    seen = model.encode_video(model_video(model, look))
    cosine = F.normalize(seen.image_features, dim=-1) @ texts.T
    table = pd.DataFrame({"similarity": (SCORE_SCALE * cosine).softmax(-1)[0].cpu()}, index=pd.Index(names, name="label"))
    if list(names) == list(model.config.class_names):
        table["classifier"] = seen.fc_logits.softmax(-1)[0].cpu().numpy()
        table["ensemble"] = (table.similarity + table.classifier) / 2
    return (100 * table).sort_values(table.columns[-1], ascending=False, kind="stable")


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
    def protocol(self) -> Protocol:
        """How the saved predictions were made."""
        return self.predictions.protocol

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
        return read_clip(Path(path).expanduser(), self.protocol, self.model.backbone.image_size, truth)

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
        return video_timeline(Path(path), self.model, self.protocol, names)

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
