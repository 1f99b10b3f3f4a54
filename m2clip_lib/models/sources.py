"""The sources of a CLIP's weights: open_clip's zoo, OpenAI's files, open_clip's files, our own file. Nothing is ever unpickled."""

import hashlib
import json
import logging
import pickle
import socket
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json
from m2clip_lib.models.demo_clip import unpack
from m2clip_lib.models.text_tower import TextTower, make_tokenizer, unfit_text
from m2clip_lib.models.visual_tower import unfit_visual

log = logging.getLogger(__name__)

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HOW_TO_GET = "connect once, or download the file elsewhere and set backbone.source to its path"
OPENAI_TORCHSCRIPT_SHA256 = {  # the digests in the published URLs
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14-336": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # scalars that only OpenAI's files carry
WRAPPERS = ("model_state_dict", "state_dict", "model")  # keys under which files keep the tensors, if not at the top level
OTHER_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")  # of open_clip's configs
RGB = tuple[float, float, float]
Loaded = tuple[nn.Module, dict, RGB, RGB]  # CLIP, open_clip's text_cfg, mean, std


def from_tag(tag: str) -> Loaded:
    """Load an open_clip tag "MODEL/PRETRAINED", with QuickGELU when its weights need it (open_clip itself only warns)."""
    import open_clip

    name, _, pretrained = tag.partition("/")
    if name not in open_clip.list_models() or not pretrained:
        example = "tags look like 'ViT-B-16-quickgelu/openai' (see open_clip.list_pretrained())"
        raise UserError(f"backbone source {tag!r}: neither a file nor an open_clip tag; {example}")
    if pretrained not in open_clip.list_pretrained_tags_by_model(name):
        raise UserError(f"backbone source {tag!r}: open_clip has no weights {pretrained!r} for {name}; see open_clip.list_pretrained()")
    architecture = open_clip.get_model_config(name)
    context = TextTower(refuse_unfit(architecture, name)).context_length  # before hundreds of megabytes are downloaded
    make_tokenizer(architecture["text_cfg"], context)  # likewise: it may lack a library
    config = open_clip.get_pretrained_cfg(name, pretrained)
    if config.get("quick_gelu") and not name.endswith("-quickgelu"):
        log.warning("backbone %s: the weights were trained with QuickGELU although the name says GELU: using QuickGELU", tag)
    if not _is_cached(config) and not _hub_answers():
        raise UserError(f"backbone weights {tag!r} are not in the local cache, and there is no network to download them; {HOW_TO_GET}")
    try:
        clip = open_clip.create_model(name, pretrained=pretrained, force_quick_gelu=bool(config.get("quick_gelu")))
    except (OSError, RuntimeError) as error:  # the hub client's errors are subclasses of these
        raise UserError(f"backbone weights {tag!r} could not be downloaded ({type(error).__name__}); {HOW_TO_GET}") from error
    return clip, architecture["text_cfg"], tuple(config.get("mean") or OPENAI_MEAN), tuple(config.get("std") or OPENAI_STD)


def from_file(path: Path, model_name: str, trust_torchscript: bool) -> Loaded:
    """Load a local file; see load_backbone for the kinds."""
    state, header = read_state(path, trust_torchscript)
    if "open_clip_config" in header:
        config, preprocess = json.loads(header["open_clip_config"]), {}
        state = unpack(state, config["text_cfg"]["vocab_size"])
    else:
        config, preprocess = _architecture(path, state, model_name)
    refuse_unfit(config, str(path))
    clip = _build(config, {name: value for name, value in state.items() if name not in OPENAI_MARKS}, path)
    return clip, config["text_cfg"], tuple(preprocess.get("mean", OPENAI_MEAN)), tuple(preprocess.get("std", OPENAI_STD))


def refuse_unfit(config: dict, name: str) -> nn.Module:
    """Reject architectures that the adapters do not fit. Returns: the CLIP, without weights. Raises: UserError naming the tower."""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if config.get("multimodal_cfg"):
        reason = "a CoCa text tower"
    elif text.get("hf_model_name"):
        reason = f"a text tower of the hub ({text['hf_model_name']})"
    elif own := [field for field in OTHER_BLOCKS if vision.get(field) or text.get(field)]:
        reason = f"blocks that compute something else than CLIP's ({own[0]})"
    elif text.get("text_arch", "clip") != "clip" or text.get("embed_cls"):
        reason = "a text tower of another architecture than CLIP's"
    else:
        with torch.device("meta"):
            clip = new_clip(config)
        if not (reason := unfit_visual(clip.visual) or unfit_text(clip)):
            return clip
    needed = "a ViT and a text tower like CLIP's (ViT-B-16, ViT-B-16-SigLIP2, PE-Core-B-16, ...)"
    raise UserError(f"backbone {name!r} has {reason}; the adapters need {needed}")


def new_clip(config: dict) -> nn.Module:
    """open_clip's model of a configuration, with new weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    kind = CustomTextCLIP if config.get("custom_text") else CLIP
    return kind(**{key: value for key, value in config.items() if key != "custom_text"})


def read_state(path: Path, trust_torchscript: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read named tensors, and the header (safetensors only). Raises: UserError; no code in the file is run."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from error
    if is_torchscript(path):
        return _read_torchscript(path, trust_torchscript), {}
    state = load_weights_only(path)
    if not state:
        raise UserError(f"{path}: holds no named tensors, so it is not a CLIP; give the path of a CLIP file")
    return state, {}


def refuse_not_finite(where: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises: UserError naming the first tensor with a value that is NaN or infinite in fp32."""
    for name, value in tensors.items():
        if not value.float().isfinite().all():
            raise UserError(f"{where}: tensor {name} is not finite (it holds NaN or infinity); copy the file again, or give another")


def load_weights_only(path: Path) -> dict[str, Tensor]:
    """The named tensors of a torch.save file, {} if there are none. Raises: UserError; no code in the file is run."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # torch asks for a bug report; what is refused has its line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError) as error:
        raise UserError(f"{path}: not a readable weight file ({type(error).__name__}); no code in it was run") from error
    state = next((content[key] for key in WRAPPERS if key in content), content) if isinstance(content, dict) else {}
    named = state.items() if isinstance(state, dict) else ()
    return {str(name).removeprefix("module."): value for name, value in named if isinstance(value, Tensor)}


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive (a zip with constants.pkl)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path, trusted: bool) -> dict[str, Tensor]:
    """Open a trusted archive, or one of OpenAI's published files: torch.jit.load runs the code in the archive."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in OPENAI_TORCHSCRIPT_SHA256.values() and not trusted:
        raise UserError(
            f"{path}: a TorchScript archive that is not one of OpenAI's published files (sha256 {digest[:12]}...); "
            "opening it can run code, so it was not opened; set backbone.trust_torchscript=true if you trust its author"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format; OpenAI publishes no other
        return dict(torch.jit.load(path, map_location="cpu").state_dict())


def _architecture(path: Path, state: dict[str, Tensor], model_name: str) -> tuple[dict, dict]:
    """Find a file's open_clip model config and preprocessing: by name, from the hub's side file, or from the tensor shapes."""
    import open_clip

    side, preprocess = path.parent / "open_clip_config.json", {}
    if model_name:
        config = open_clip.get_model_config(model_name)
        if config is None:
            raise UserError(f"backbone.model_name {model_name!r}: open_clip has no such architecture (see open_clip.list_models())")
    elif side.is_file():
        content = read_json(side)
        config, preprocess = content["model_cfg"], content.get("preprocess_cfg", {})
    else:
        config = config_from_tensors(path, state)
        if not state.keys() & OPENAI_MARKS:
            log.warning("backbone %s: does not say its architecture: assuming OpenAI's, with QuickGELU and heads of 64 channels", path)
    if state.keys() & OPENAI_MARKS and not config.get("quick_gelu"):
        log.warning("backbone %s: a file from OpenAI, trained with QuickGELU: using QuickGELU", path)
        config = config | {"quick_gelu": True}
    return config, preprocess


def config_from_tensors(path: Path, state: dict[str, Tensor]) -> dict:
    """Infer the open_clip model config of a state dict in OpenAI's layout. Raises: UserError for another layout."""
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection", "token_embedding.weight")
    for name in (*needed, "positional_embedding", "ln_final.weight"):
        if name not in state:
            raise UserError(f"{path}: not a CLIP with a ViT in OpenAI's layout (no tensor {name!r}); set backbone.model_name")
    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    text_width = state["ln_final.weight"].shape[0]

    def layers(prefix: str) -> int:
        return sum(name.startswith(prefix) and name.endswith(".attn.in_proj_weight") for name in state)

    vision = {"image_size": patch * grid, "patch_size": patch, "width": width, "layers": layers("visual."), "head_width": min(64, width)}
    text = {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": text_width,
        "heads": max(1, text_width // 64),
        "layers": layers("transformer."),
    }
    return {"embed_dim": state["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def _build(config: dict, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Build the CLIP. Raises: UserError naming the first tensor that differs, with both shapes."""
    clip = new_clip(config)
    expected = clip.state_dict()
    for name, value in expected.items():
        if name not in state or state[name].shape != value.shape:
            found = tuple(state[name].shape) if name in state else "missing"
            raise UserError(f"{path}: tensor {name} is {found}, expected {tuple(value.shape)}; give this file's backbone.model_name")
    unknown = sorted(state.keys() - expected.keys())
    if unknown:
        raise UserError(f"{path}: tensor {unknown[0]} does not belong to a CLIP of this architecture; give this file's backbone.model_name")
    clip.load_state_dict({name: value.float() for name, value in state.items()})  # OpenAI's files mix fp16 and fp32
    return clip


def _is_cached(config: dict) -> bool:
    """Whether open_clip's downloader already has this tag's file."""
    from huggingface_hub import try_to_load_from_cache

    repository = (config.get("hf_hub") or "").rstrip("/")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _hub_answers() -> bool:
    """Whether the hub's name resolves (or a proxy resolves names); the downloader itself would retry for a minute before failing."""
    from huggingface_hub import constants

    try:
        return bool(getproxies() or socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443))
    except socket.gaierror:
        return False
