"""What the attention explorer (notebook 10) computes, without any display.

A clip of a video, edits of it (played backwards, parts hidden), a model's scores and maps for it, and the Explorer, which holds a
trained run: its model, its evaluation videos and their saved predictions.
"""

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
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.evaluate import take_class_names
from m2clip_lib.evaluate.metrics import top_ids
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import Protocol, views_of_files
from m2clip_lib.evaluate.scoring import class_logits, class_scores
from m2clip_lib.experiment import open_backbone, pick_device
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.text import text_features
from m2clip_lib.moments.windows import Timeline, video_timeline
from m2clip_lib.runs import Run
from m2clip_lib.viz.overlay import plot_overlay
from m2clip_lib.viz.style import new_figure


@dataclass(frozen=True)
class Look:
    """A clip to look at: (t, 3, s, s) uint8 RGB; the time in seconds of each frame; the video's path; its class, "" if unknown."""

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

    backwards: play it in reverse. frames: to hide, counted from 0 in playing order.
    rows, columns: [first, end) of the patches to hide in every frame.
    """

    backwards: bool = False
    frames: tuple[int, ...] = ()
    rows: tuple[int, int] = (0, 0)
    columns: tuple[int, int] = (0, 0)


def read_clip(path: str | Path, protocol: Protocol, side: int, truth: str = "") -> Look:
    """Read the clip that evaluation takes from the middle of a video, cropped to `side` pixels.

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
    return Look(item.clip[0], frame_times(info.times)[indices].tolist(), str(path), truth)


def edit_clip(look: Look, edit: Edit, mean: Sequence[float], grid: tuple[int, int]) -> Look:
    """Apply an edit. Hidden parts get the backbone's mean colour (RGB in [0, 1]), which the model reads as zeros."""
    clip = look.clip.flip(0) if edit.backwards else look.clip.clone()
    seconds = look.seconds[::-1] if edit.backwards else look.seconds
    colour = (255 * torch.tensor(mean)).round().to(torch.uint8)[:, None, None]
    clip[list(edit.frames)] = colour
    height, width = clip.shape[2] // grid[0], clip.shape[3] // grid[1]
    (top, bottom), (left, right) = edit.rows, edit.columns
    clip[:, :, top * height : bottom * height, left * width : right * width] = colour
    return dataclasses.replace(look, clip=clip, seconds=seconds)


def model_video(model: M2CLIP, look: Look) -> Float[Tensor, "1 3 t s s"]:
    """Return a clip as this model reads it, on its device; resized if its backbone has another image size."""
    clip, side = look.clip, model.backbone.image_size
    if clip.shape[-1] != side:
        clip = F.interpolate(clip.float(), size=(side, side), mode="bicubic", antialias=True).clamp(0, 255).round().to(torch.uint8)
    return model.backbone.video(clip[None], model.clip.logit_scale.device)


@torch.inference_mode()
def score_table(model: M2CLIP, look: Look, names: Sequence[str], texts: Float[Tensor, "k e"], weight: float = 0.5) -> pd.DataFrame:
    """Scores of a clip in percent, best first: one row per name, one column per read-out.

    Names other than the model's own classes have similarity alone. texts: text_features of the names. weight: of the similarity in the
    ensemble.
    """
    own = list(names) == list(model.config.class_names)
    logits = class_logits(model.encode_video(model_video(model, look)), texts, own)
    table = pd.DataFrame(
        {name: scores[0].cpu().numpy() for name, scores in class_scores(logits, model).items()}, index=pd.Index(names, name="label")
    )
    if own:
        table["ensemble"] = weight * table.similarity + (1 - weight) * table.classifier
    return (100 * table).sort_values(table.columns[-1], ascending=False, kind="stable")


@functools.lru_cache(maxsize=32)  # a moving slider does not encode the names again
def _cached_texts(model: M2CLIP, names: tuple[str, ...], protocol: Protocol | None = None) -> Float[Tensor, "k e"]:
    return protocol.class_texts(model, names) if protocol else text_features(model, names)


@dataclass
class Explorer:
    """A trained run. table: its evaluation videos. models: every model opened so far, by name; the run's own is first."""

    model: M2CLIP
    predictions: Predictions
    table: pd.DataFrame
    run: Run
    manifest: Manifest
    models: dict[str, M2CLIP] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Run, manifest: Manifest) -> "Explorer":
        """Load a run's best checkpoint and predictions. Raises: UserError that names the missing step."""
        split = run.experiment.eval.split
        model = M2CLIP.from_checkpoint(run.checkpoint, open_backbone(run.experiment)).to(pick_device())
        predictions, models = load_predictions(run.predictions, split), {paths.shown(run.checkpoint): model}
        predictions.check_checkpoint(run.checkpoint)
        return cls(model, predictions, manifest.split(split), run, manifest, models)

    @property
    def blocks(self) -> int:
        """Number of visual blocks."""
        return len(self.model.visual.blocks)

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints on this machine, the run's own first."""
        own = paths.shown(self.run.checkpoint)
        files = [file for pattern in ("*/*", "*/ablations/*/*") for file in sorted(paths.CHECKPOINTS.glob(f"{pattern}.safetensors"))]
        found = [paths.shown(file) for file in files if file.with_suffix(".json").is_file()]
        return [own, *(name for name in found if name != own and "/backbones/" not in name)]

    def other(self, name: str) -> M2CLIP:
        """Return another checkpoint, opened once: ours on its own backbone, a published file on that of the run. Raises: UserError."""
        if name not in self.models:
            path = paths.resolve(name)
            ours = path.suffix == ".safetensors"
            model = open_checkpoint(path)[0] if ours else M2CLIP.from_checkpoint(path, self.model.backbone).to(pick_device())
            take_class_names(model, path, self.run.experiment, self.manifest.class_names)
            self.models[name] = model.eval()
        return self.models[name]

    def look(self, row: int) -> Look:
        """The evaluation clip of the video in a row of the table."""
        return self.look_at(self.table.path[row], truth=self.table.class_name[row])

    def look_at(self, path: str | Path, truth: str = "") -> Look:
        """The clip of any video file. Raises: UserError when it cannot be read."""
        return read_clip(Path(path).expanduser(), self.predictions.protocol, self.model.backbone.image_size, truth)

    def scores(self, look: Look, names: Sequence[str] = (), model: M2CLIP | None = None) -> pd.DataFrame:
        """Return the score_table of a clip; by default for the run's classes and model."""
        model, names = model or self.model, list(names) or self.manifest.class_names
        return score_table(model, look, names, self._texts(model, names), self.predictions.weight)

    def map(self, look: Look, choice: MapChoice, names: Sequence[str] = (), model: M2CLIP | None = None) -> PatchMap:
        """Return the patch_map of a clip; by default for the run's classes and model."""
        model, names = model or self.model, list(names) or self.manifest.class_names
        return patch_map(model, model_video(model, look), choice, self._texts(model, names), names)

    def _texts(self, model: M2CLIP, names: Sequence[str]) -> Float[Tensor, "k e"]:
        """Texts of the names as the run's evaluation read them if it was zero-shot on them, else in the model's own prompts."""
        zero_shot = self.predictions.classifier is None and list(names) == self.predictions.class_names != list(model.config.class_names)
        return _cached_texts(model, tuple(names), self.predictions.protocol if zero_shot else None)

    def figure(self, look: Look, maps: Sequence[PatchMap]) -> Figure:
        """Draw the frames with each map, one below the other."""
        frames = len(look.clip)
        width = 12 if frames > 5 else 9  # inches; a title needs 9
        side = min(1.6, (width - 2) / frames)  # of a frame
        figure, axes = new_figure(width, (2 * side + 1.3) * len(maps), rows=2 * len(maps))
        for upper, lower, found in zip(axes[::2], axes[1::2], maps, strict=True):
            plot_overlay((upper, lower), look.frames, found, look.seconds)
        return figure

    def timeline(self, path: str | Path, names: Sequence[str] = ()) -> Timeline:
        """Score a video window by window with the run's model, by default for the classes of its evaluation."""
        names = names or (() if self.predictions.classifier is not None else self.predictions.class_names)
        return video_timeline(Path(path), self.model, self.predictions.protocol, names)

    def ranking(self, row: int, top: int = 5) -> pd.DataFrame:
        """The best classes per read-out for one video, from the saved predictions (all views), scores in percent."""
        place = self.predictions.rows.index(row)
        columns = {}
        for readout in self.predictions.readouts:
            scores = self.predictions.readout(readout)[place]
            ids = top_ids(scores[None], top)[0]
            columns[readout] = [f"{self.predictions.class_names[i]}  {100 * scores[i]:.1f} %" for i in ids]
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(ids) + 1, name="rank"))

    def surest(self, right: bool) -> int:
        """Row of the video with the highest score in the best read-out, of those classified right (or wrong).

        Where there is none, of the others the one with the lowest.
        """
        scores = self.predictions.best
        sure = scores.max(axis=1)
        wanted = (scores.argmax(axis=1) == self.predictions.labels) == right
        return self.predictions.rows[int(np.where(wanted, sure, -sure).argmax())]
