"""Files of others: the authors' adapter-only .pth, the replicate's full .pt. Read into our model, and written for their code.

Their names: visual.transformer.resblocks.0.adapter_pre_mlp.offset_adapter.fc1.weight; the masked-word block is the text tower's
block after CLIP's last. Kind, placement, widths, class count and vocabulary size are read off the tensors.
"""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.files import write_atomically
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.sources import load_weights_only

log = logging.getLogger(__name__)

DEFAULT_FRAMES = 8  # of the published recipes; their files do not say
PLACES = ("pre_attn", "pre_mlp")
_RENAMES = (  # (ours, published): the first that fits is applied
    (r"^visual_adapters\.(\d+)\.(\w+)\.difference\.", r"visual.transformer.resblocks.\1.adapter_\2.offset_adapter."),
    (r"^visual_adapters\.(\d+)\.(\w+)\.enhancement\.", r"visual.transformer.resblocks.\1.adapter_\2."),
    (r"^text_adapters\.(\d+)\.(\w+)\.", r"transformer.resblocks.\1.adapter_\2.textad_"),
    (r"^frame_adapter\.enhancement\.", "visual.t_adapter."),
    (r"^classifier\.", "visual.adapter_fc."),
    (r"^mlm_head\.dense\.", "mlm_adapter.transform.dense."),
    (r"^mlm_head\.norm\.", "mlm_adapter.transform.LayerNorm."),
    (r"^mlm_head\.decoder\.bias$", "mlm_adapter.bias"),
    (r"^mlm_head\.decoder\.weight$", "mlm_adapter.decoder.weight"),
    (r"^clip\.", ""),
)


def published_name(name: str, text_blocks: int) -> str:
    """Our parameter name -> the one in published files. text_blocks: blocks of CLIP's text tower (the masked-word block comes after)."""
    for ours, published in _RENAMES:
        renamed, hits = re.subn(ours, published, name)
        if hits:
            return renamed
    return re.sub(r"^mlm_block\.", f"transformer.resblocks.{text_blocks}.", name)


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of an official or a replicate file, under their names. Raises: UserError when it is neither."""
    content = load_weights_only(path)
    if isinstance(content, dict):
        content = content.get("model_state_dict", content.get("model", content))
    state = {str(name).removeprefix("module."): value for name, value in content.items()} if isinstance(content, dict) else {}
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if "visual.adapter_fc.weight" not in state or "mlm_adapter.decoder.weight" not in state:
        raise UserError(
            f"{path}: neither a checkpoint of this workbook nor the official .pth nor the replicate's .pt "
            "(no tensor 'visual.adapter_fc.weight'); give one of these"
        )
    return state


def load_published(model_class: type, path: Path, backbone: Backbone, num_frames: int | None):
    """Build the model that a published file describes, on a backbone.

    A full file's own masked-word block is kept; an adapter file's is rebuilt as the copy of the backbone's last text block.
    Class names and words are not in such files: they get placeholders ("class 0", "word 0").
    Raises: UserError naming the first tensor that does not fit.
    """
    state = read_published(path)
    if num_frames is None:
        num_frames = DEFAULT_FRAMES
        log.warning("%s: does not say its clip length: taking %d frames; give num_frames to change it", path, num_frames)
    log.warning("%s: carries no class names and no words: they are called 'class 0', ..., 'word 0', ...", path)
    text_blocks = len(backbone.clip.transformer.resblocks)
    model = model_class(backbone, read_config(path, state, backbone, num_frames))
    target = model.state_dict()
    found = {}
    for name, value in target.items():
        published = published_name(name, text_blocks)
        if published in state:
            if state[published].shape != value.shape:
                raise UserError(
                    f"{path}: tensor {published} is {tuple(state[published].shape)} in the file and {tuple(value.shape)} on backbone "
                    f"{backbone.source!r}; load the backbone this file was trained on"
                )
            found[name] = state.pop(published).float()
        elif not name.startswith(("clip.", "mlm_block.")):
            raise UserError(f"{path}: tensor {published} {tuple(value.shape)} is missing; the file is damaged or of another kind")
    if state:
        raise UserError(
            f"{path}: tensor {next(iter(state))} has no place on backbone {backbone.source!r}; load the backbone it was trained on"
        )
    _check_same_clip(path, found, target, backbone)
    model.load_state_dict({name: value for name, value in found.items() if not name.startswith("clip.")}, strict=False)
    return model.eval()


def read_config(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int) -> M2CLIPConfig:
    """Read placement and sizes off the names and shapes."""
    vision_blocks, text_blocks = len(backbone.clip.visual.transformer.resblocks), len(backbone.clip.transformer.resblocks) + 1
    vision, vision_width = _placement(path, state, "visual.transformer.resblocks", "fc1.weight", vision_blocks)
    text, text_width = _placement(path, state, "transformer.resblocks", "textad_fc1.weight", text_blocks)
    return M2CLIPConfig(
        class_names=tuple(f"class {i}" for i in range(state["visual.adapter_fc.weight"].shape[0])),
        vocabulary=tuple(f"word {i}" for i in range(state["mlm_adapter.decoder.weight"].shape[0])),
        vision_adapter_layers=max(vision.values()),
        vision_adapter_width=vision_width,
        vision_adapter_pre_attn=bool(vision["pre_attn"]),
        vision_adapter_pre_mlp=bool(vision["pre_mlp"]),
        text_adapter_layers=max(text.values()),
        text_adapter_width=text_width,
        text_adapter_pre_attn=bool(text["pre_attn"]),
        text_adapter_pre_mlp=bool(text["pre_mlp"]),
        num_frames=num_frames,
        own_mlm_block=_has_own_block(state, backbone, text_blocks - 1),
    )


def _has_own_block(state: dict[str, Tensor], backbone: Backbone, block: int) -> bool:
    """Whether a full file's masked-word block differs from the copy that the backbone would give."""
    copied = backbone.clip.transformer.resblocks[-1].state_dict()
    own = {name: state.get(f"transformer.resblocks.{block}.{name}") for name in copied}
    present = [value is not None and value.shape == copied[name].shape for name, value in own.items()]
    return all(present) and any(not torch.equal(own[name].float(), value.cpu().float()) for name, value in copied.items())


def _placement(path: Path, state: dict[str, Tensor], tower: str, probe: str, blocks: int) -> tuple[dict[str, int], int]:
    """Per place the number of adapted blocks (always the last ones), and the bottleneck width."""
    counts, width = {}, 1
    for place in PLACES:
        names = {i: f"{tower}.{i}.adapter_{place}.{probe}" for i in range(blocks)}
        adapted = [i for i, name in names.items() if name in state]
        if adapted != list(range(blocks - len(adapted), blocks)):
            raise UserError(
                f"{path}: adapters {place} stand in blocks {adapted} of {tower}, not in the last ones; load the backbone it was trained on"
            )
        counts[place] = len(adapted)
        width = state[names[adapted[0]]].shape[0] if adapted else width
    if len({count for count in counts.values() if count}) > 1:
        raise UserError(
            f"{path}: adapters before attention in {counts['pre_attn']} blocks, before the MLP in {counts['pre_mlp']}: not supported"
        )
    return counts, width


def _check_same_clip(path: Path, found: dict[str, Tensor], target: dict[str, Tensor], backbone: Backbone) -> None:
    """A full file carries CLIP too: it must be the backbone's, up to the rounding of fp16 storage."""
    for name, value in found.items():
        if name.startswith("clip.") and not torch.allclose(value, target[name].cpu().float(), rtol=2e-3, atol=1e-5):
            published = name.removeprefix("clip.")
            shape = tuple(value.shape)
            raise UserError(
                f"{path}: tensor {published} {shape} holds other values than backbone {backbone.source!r} {shape}; "
                "load the backbone this file was trained on"
            )


def export_published(model, path: str | Path) -> None:
    """Write the trainable tensors as the authors' code reads them: {'model': ..., 'next_epoch': 0}, fp32, their names.

    Raises: UserError for a model that their format cannot hold.
    """
    config = model.config
    if not (config.enhancement and config.difference and config.frame_adapter and config.temporal_kernel == 3):
        raise UserError("export_official: the published format holds full TED-Adapters only (both branches, frame adapter, kernel 3)")
    if config.own_mlm_block:
        raise UserError("export_official: this model carries a masked-word block of its own, the published format rebuilds it from CLIP")
    text_blocks = len(model.clip.transformer.resblocks)
    tensors = {published_name(n, text_blocks): v.detach().cpu().float().clone() for n, v in model.trainable_state().items()}
    write_atomically(Path(path), lambda file: torch.save({"model": tensors, "next_epoch": 0}, file))
