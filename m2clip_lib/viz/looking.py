"""One clip under the glass: read it, change it, ask a model about it. No run and no display in here."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.data.dataset import TestViews, VideoReader
from m2clip_lib.data.probe import VideoError, probe
from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.data.transforms import to_model_input
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.class_texts import class_features
from m2clip_lib.models.losses import SCORE_SCALE


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


def read_clip(path: str | Path, clip_len: int, stride: int, side: int, truth: str = "") -> Look:
    """The clip that evaluation takes from the middle of a video: `clip_len` frames, centre crop of `side` pixels.

    Raises: UserError with the reason when the video cannot be read.
    """
    try:
        info = probe(path)
    except VideoError as error:
        raise UserError(f"{path}: {error}") from error
    table = pd.DataFrame([{"path": str(path), "label": 0, **asdict(info)}])
    item = TestViews(table, VideoReader(table, "auto"), clip_len, stride, side)[0]
    if item.clip is None:
        raise UserError(f"{path}: {item.error}")
    indices = test_indices(info.num_frames, clip_len, stride)[0]
    return Look(item.clip[0], [i / info.fps if info.fps else float(i) for i in indices], str(path), truth)


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
    return to_model_input(clip[None].to(model.clip.logit_scale.device), model.backbone.mean, model.backbone.std)


@torch.inference_mode()
def text_features(model: M2CLIP, names: Sequence[str]) -> Float[Tensor, "k e"]:
    """Features of the names in the model's prompts, of length 1."""
    own = list(names) == list(model.config.class_names)
    prompts = model.config.prompts() if own else class_prompts(names, model.config.prompt)
    return class_features(model, prompts, model.clip.logit_scale.device)


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
