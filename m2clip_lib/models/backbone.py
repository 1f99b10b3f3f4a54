"""The frozen CLIP with its facts, and the configuration of a model built on it."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from m2clip_lib.data.prompts import Prompt, class_prompts
from m2clip_lib.data.transforms import to_model_input
from m2clip_lib.errors import UserError
from m2clip_lib.models.blocks import is_quick_gelu
from m2clip_lib.models.demo_clip import DEMO_CLIP
from m2clip_lib.models.sources import OPENAI_MEAN, OPENAI_STD, from_file, from_tag, refuse_not_finite
from m2clip_lib.models.text_tower import TextTower, make_tokenizer
from m2clip_lib.models.visual_tower import VisualTower, visual_tower
from m2clip_lib.sections import ModelSection

log = logging.getLogger(__name__)

WEIGHT_FILES = {".pt", ".pth", ".bin", ".safetensors"}  # endings


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP with its tokenizer.

    Attributes:
        clip: an open_clip CLIP or CustomTextCLIP with a ViT, all parameters frozen, in evaluation mode.
        tokenizer: texts -> token ids (n, context_length).
        source: the tag or path it was loaded from. sha256: digest of all weights.
        image_size: side of the square input, pixels. mean, std: of the RGB channels in [0, 1].
    """

    clip: nn.Module
    tokenizer: Callable[..., Tensor]
    source: str
    sha256: str
    image_size: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    @property
    def context_length(self) -> int:
        """Tokens per text, including start and end."""
        return self.text.context_length

    @cached_property
    def visual(self) -> VisualTower:
        """Its visual tower."""
        return visual_tower(self.clip.visual)

    @cached_property
    def text(self) -> TextTower:
        """Its text tower."""
        return TextTower(self.clip)

    def video(self, clips: Tensor, device: torch.device) -> Tensor:
        """Turn a loader's clips (b, t, 3, h, w) into the input of encode_video (b, 3, t, h, w) on the device."""
        return to_model_input(clips.to(device, non_blocking=True), self.mean, self.std)

    @property
    def quick_gelu(self) -> bool:
        """Whether the MLPs compute QuickGELU (OpenAI's weights) rather than GELU."""
        return is_quick_gelu(self.visual.blocks[0].mlp)


@dataclass(frozen=True)
class _Words:  # a base class of its own, so that these fields come first in M2CLIPConfig
    class_names: tuple[str, ...]
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class M2CLIPConfig(ModelSection, _Words):
    """What to build on a backbone: class_names and vocabulary, the fields of the model section, and the following."""

    num_frames: int = 8
    prompt: str | tuple[str, ...] = "A video of {}"
    """One template, or several."""
    own_prompts: tuple[tuple[str, ...], ...] = ()
    """Sentences of each class, used instead of the templates; the templates still apply to other class names."""
    own_mlm_block: bool = False
    """The masked-word block came with a full file instead of being copied from CLIP's last text block; it is saved too."""
    several_labels: bool = False
    """A video may have several labels: the classifier's scores are sigmoids, one per class."""

    def prompts(self) -> list[tuple[Prompt, ...]]:
        """The prompts of every class, in the order of the class names."""
        return class_prompts(self.class_names, self.prompt, self.own_prompts)


def load_backbone(source: str | Path, *, model_name: str = "", trust_torchscript: bool = False) -> Backbone:
    """Load a CLIP and freeze it.

    Args:
        source: "demo", the small CLIP that is shipped with the library; an open_clip tag "MODEL/PRETRAINED" such as
            "ViT-B-16-quickgelu/openai" (weights are downloaded once); or a file:
            OpenAI's .pt (TorchScript archive or state dict), an open_clip file (.bin, .pt, .safetensors), or the workbook's
            own .safetensors with the model config in its header (made by m2clip pretrain).
        model_name: open_clip's name of the architecture, for a file that does not record it. Without it, and without an
            open_clip_config.json beside the file, sizes are inferred from the tensors and OpenAI's layout is assumed.
        trust_torchscript: open a TorchScript archive that is not one of OpenAI's published files (it can run code).
    Raises: UserError when the weights are missing, unreadable, not finite, or of an architecture that the adapters do not fit.
    """
    path = DEMO_CLIP if source == "demo" else Path(source).expanduser()
    if path.is_file():
        clip, text_config, mean, std = from_file(path, model_name, trust_torchscript)
    elif path.suffix in WEIGHT_FILES or path.is_dir():
        raise UserError(f"backbone weights: no such file: {path.absolute()}; give the path of a CLIP file or an open_clip tag")
    else:
        clip, text_config, mean, std = from_tag(str(source))
    refuse_not_finite(f"backbone {source}", clip.state_dict())
    clip.eval().requires_grad_(False)
    tokenizer = make_tokenizer(text_config, TextTower(clip).context_length)
    backbone = Backbone(clip, tokenizer, str(source), state_sha256(clip.state_dict()), int(clip.visual.image_size[0]), mean, std)
    log.info("backbone %s: %s", source, "QuickGELU" if backbone.quick_gelu else "GELU")
    return backbone


def state_sha256(state: dict[str, Tensor]) -> str:
    """Digest of names, shapes, dtypes and values: equal digests mean equal weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
