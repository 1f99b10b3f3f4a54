"""The frozen CLIP: where it comes from and what the rest of the workbook needs to know about it."""

import hashlib
import json
import logging
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from m2clip_lib.errors import UserError

log = logging.getLogger(__name__)

HOW_TO_GET = "connect once, or download the file elsewhere and set backbone.source to its path"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
OPENAI_TORCHSCRIPT_SHA256 = {  # the digests that stand in the published addresses
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14-336": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP with its tokenizer.

    Attributes:
        clip: an open_clip CLIP with a plain ViT, all parameters frozen, in evaluation mode.
        tokenizer: texts -> token ids (n, context_length).
        source: what was asked for; `sha256`: what was got (over all weights).
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
        """Tokens of a text, start and end included."""
        return self.clip.positional_embedding.shape[0]


def load_backbone(source: str | Path, *, trust_torchscript: bool = False) -> Backbone:
    """Load a CLIP and freeze it.

    Args:
        source: an open_clip tag "MODEL/PRETRAINED" such as "ViT-B-16-quickgelu/openai" (weights are downloaded once),
            or a file: OpenAI's .pt (state dict or TorchScript archive), or the workbook's own .safetensors with the
            open_clip model config in its header (the small CLIP of the demonstration).
        trust_torchscript: open a TorchScript archive that is none of OpenAI's published files (it can run code).
    Raises: UserError when the weights are missing, unreadable, or of a kind the adapters do not fit.
    """
    path = Path(source).expanduser()
    if path.is_file():
        clip, mean, std = _load_file(path, trust_torchscript)
    elif path.suffix in {".pt", ".pth", ".bin", ".safetensors"} or path.is_dir():
        raise UserError(f"backbone weights: no such file: {path.absolute()}; give the path of a CLIP file or an open_clip tag")
    else:
        clip, mean, std = _load_tag(str(source))
    _check_tower(clip, str(source))
    clip.eval().requires_grad_(False)
    return Backbone(
        clip=clip,
        tokenizer=_tokenizer(clip),
        source=str(source),
        sha256=state_sha256(clip.state_dict()),
        image_size=int(clip.visual.image_size[0]),
        mean=mean,
        std=std,
    )


def state_sha256(state: dict[str, Tensor]) -> str:
    """Digest of names, shapes and values: two models with the same digest compute the same."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.dim() else value[None].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tokenizer(clip: nn.Module) -> Callable[..., Tensor]:
    """CLIP's own byte-pair encoding: all native open_clip ViTs read it, at the context length of their text tower."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=clip.positional_embedding.shape[0])


def _load_tag(tag: str):
    import open_clip

    name, _, pretrained = tag.partition("/")
    known = open_clip.list_models()
    if name not in known or not pretrained:
        raise UserError(
            f"backbone source {tag!r}: neither a file nor an open_clip tag; "
            "tags look like 'ViT-B-16-quickgelu/openai' (see open_clip.list_pretrained())"
        )
    if pretrained not in open_clip.list_pretrained_tags_by_model(name):
        raise UserError(f"backbone source {tag!r}: open_clip has no weights {pretrained!r} for {name}")
    config = open_clip.get_pretrained_cfg(name, pretrained)
    if config.get("quick_gelu") and not name.endswith("-quickgelu"):
        log.info("%s was trained with QuickGELU: using it", tag)
    if not _is_cached(config) and not _hub_answers():
        raise UserError(f"backbone weights {tag!r} are not in the local cache, and there is no network to download them; {HOW_TO_GET}")
    try:
        clip = open_clip.create_model(name, pretrained=pretrained, force_quick_gelu=bool(config.get("quick_gelu")))
    except (OSError, RuntimeError) as error:
        # The hub's client raises its own subclasses of OSError, offline or not found alike.
        raise UserError(
            f"backbone weights {tag!r} are not in the local cache and could not be downloaded ({type(error).__name__}); {HOW_TO_GET}"
        ) from error
    return clip, tuple(config.get("mean") or OPENAI_MEAN), tuple(config.get("std") or OPENAI_STD)


def _is_cached(config: dict) -> bool:
    """Whether open_clip's downloader has this tag's file already."""
    from huggingface_hub import try_to_load_from_cache

    repository = (config.get("hf_hub") or "").rstrip("/")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _hub_answers() -> bool:
    """Whether the hub's name resolves: the downloader itself would try for a minute before it says that it does not."""
    from huggingface_hub import constants

    if getproxies():  # then names are resolved by the proxy
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except socket.gaierror:
        return False
    return True


def _load_file(path: Path, trust_torchscript: bool):
    if path.suffix == ".safetensors":
        return _load_own_file(path)
    from open_clip.model import build_model_from_openai_state_dict

    state = _read_openai_state(path, trust_torchscript)
    if "visual.proj" not in state or "text_projection" not in state:
        raise UserError(f"{path}: not a CLIP with a ViT in OpenAI's layout (no tensor 'visual.proj'); nothing was loaded")
    # OpenAI's models were trained with QuickGELU; their files carry mixed fp16/fp32, computed here in fp32.
    clip = build_model_from_openai_state_dict(dict(state), quick_gelu=True, cast_dtype=torch.float32).float()
    return clip, OPENAI_MEAN, OPENAI_STD


def _read_openai_state(path: Path, trust_torchscript: bool) -> dict[str, Tensor]:
    import pickle

    if _is_torchscript(path):
        return _read_torchscript(path, trust_torchscript)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable weight file ({type(error).__name__}); no code in it was run") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state dict")
    state = state.get("state_dict", state)
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path, trusted: bool) -> dict[str, Tensor]:
    """torch.jit.load runs what is in the archive, so only OpenAI's published files are opened unasked."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in OPENAI_TORCHSCRIPT_SHA256.values() and not trusted:
        raise UserError(
            f"{path}: a TorchScript archive that is none of OpenAI's published files (sha256 {digest[:12]}...); "
            "opening it can run code, so it was not opened; set backbone.trust_torchscript=true if you know who made it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format outdated; OpenAI publishes nothing else
        return torch.jit.load(path, map_location="cpu").state_dict()


def _load_own_file(path: Path):
    from open_clip.model import CLIP
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    if "open_clip_config" not in header:
        raise UserError(f"{path}: has no open_clip model config in its header; it is not a backbone of this workbook")
    clip = CLIP(**json.loads(header["open_clip_config"]))
    clip.load_state_dict(state)
    return clip, OPENAI_MEAN, OPENAI_STD


def _check_tower(clip: nn.Module, source: str) -> None:
    from open_clip.model import CLIP
    from open_clip.transformer import VisionTransformer

    visual = getattr(clip, "visual", None)
    if not isinstance(clip, CLIP) or not isinstance(visual, VisionTransformer):
        raise UserError(
            f"backbone {source!r} is a {type(clip).__name__} with a {type(visual).__name__}; "
            "the adapters need open_clip's native CLIP with a plain ViT (ViT-B-16, ViT-B-32, ViT-L-14, ...)"
        )
    if visual.attn_pool is not None or visual.pool_type != "tok" or visual.final_ln_after_pool or clip.text_pool_type != "argmax":
        raise UserError(f"backbone {source!r}: its towers pool otherwise than CLIP's (CLS token, EOT token); choose another model")
