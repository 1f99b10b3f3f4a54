"""Third-party files: the authors' adapter-only .pth and the replicate's full .pt, read into our model and written for their code.

Example of their names: visual.transformer.resblocks.0.adapter_pre_mlp.offset_adapter.fc1.weight; the masked-word block is numbered
after CLIP's last text block. Kind, placement, widths, class count and vocabulary size are inferred from the tensors.
"""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.files import write_atomically
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.sources import load_weights_only, refuse_not_finite

log = logging.getLogger(__name__)

DEFAULT_FRAMES = 8  # of the published recipes; the files do not record it
RIGHT_ONE = "load the backbone this file was trained on"
PLACES = ("pre_attn", "pre_mlp")
_RENAMES = (  # (ours, published): the first match is applied
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
    """Our parameter name -> the name in published files. text_blocks: blocks of CLIP's text tower, without the masked-word block."""
    for ours, published in _RENAMES:
        renamed, hits = re.subn(ours, published, name)
        if hits:
            return renamed
    return re.sub(r"^mlm_block\.", f"transformer.resblocks.{text_blocks}.", name)


def read_published(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an official or replicate file, under their names. Raises: UserError when it is neither."""
    state = load_weights_only(path, "model_state_dict", "model")
    if "visual.adapter_fc.weight" not in state or "mlm_adapter.decoder.weight" not in state:
        raise UserError(
            f"{path}: not a checkpoint of this workbook, the official .pth or the replicate's .pt "
            "(no tensor 'visual.adapter_fc.weight' or 'mlm_adapter.decoder.weight'); give one of these"
        )
    return state


def load_published(model_class: type, path: Path, backbone: Backbone, num_frames: int | None):
    """Build the model that a published file describes, on a backbone.

    The masked-word block comes from the file if it is a full one, otherwise it is a copy of the backbone's last text block.
    Class names and vocabulary words are placeholders ("class 0", "word 0"), as such files do not contain them.
    Raises: UserError naming the first tensor that is not finite, or does not fit.
    """
    state = read_published(path)
    refuse_not_finite(path, state)
    if num_frames is None:
        num_frames = DEFAULT_FRAMES
        log.warning("%s: does not record its clip length: taking %d frames; give num_frames to change it", path, num_frames)
    log.warning("%s: contains no class names and no vocabulary: using 'class 0', ..., 'word 0', ...", path)
    text_blocks = len(backbone.clip.transformer.resblocks)
    model = model_class(backbone, read_config(path, state, backbone, num_frames))
    target, found = model.state_dict(), {}
    for name, value in target.items():
        published, shape = published_name(name, text_blocks), tuple(value.shape)
        if published in state:
            in_file = tuple(state[published].shape)
            if in_file != shape:
                raise UserError(
                    f"{path}: tensor {published} is {in_file} in the file and {shape} on backbone {backbone.source!r}; {RIGHT_ONE}"
                )
            found[name] = state.pop(published).float()
        elif not name.startswith(("clip.", "mlm_block.")):
            raise UserError(f"{path}: tensor {published} {shape} is missing; the file is incomplete or of another kind; copy it again")
    if state:
        raise UserError(f"{path}: tensor {next(iter(state))} does not exist on backbone {backbone.source!r}; {RIGHT_ONE}")
    for name, value in found.items():  # a full file contains CLIP too: it must be the backbone's, up to the rounding of fp16 storage
        if name.startswith("clip.") and not torch.allclose(value, target[name].cpu().float(), rtol=2e-3, atol=1e-5):
            where = f"tensor {name.removeprefix('clip.')} {tuple(value.shape)}"
            raise UserError(f"{path}: {where} differs in its values from backbone {backbone.source!r}; {RIGHT_ONE}")
    model.load_state_dict({name: value for name, value in found.items() if not name.startswith("clip.")}, strict=False)
    model.source = str(path)
    return model.eval()


def read_config(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int) -> M2CLIPConfig:
    """Infer placement and sizes from the names and shapes."""
    vision_blocks, text_blocks = len(backbone.clip.visual.transformer.resblocks), len(backbone.clip.transformer.resblocks)
    copied = backbone.clip.transformer.resblocks[-1].state_dict()
    block = [(state.get(f"transformer.resblocks.{text_blocks}.{name}"), value) for name, value in copied.items()]
    is_full = all(own is not None and own.shape == value.shape for own, value in block)
    return M2CLIPConfig(
        class_names=tuple(f"class {i}" for i in range(len(state["visual.adapter_fc.weight"]))),
        vocabulary=tuple(f"word {i}" for i in range(len(state["mlm_adapter.decoder.weight"]))),
        **placement(path, state, "vision", "visual.transformer.resblocks", "fc1.weight", vision_blocks),
        **placement(path, state, "text", "transformer.resblocks", "textad_fc1.weight", text_blocks + 1),
        num_frames=num_frames,
        own_mlm_block=is_full and any(not torch.equal(own.float(), value.cpu().float()) for own, value in block),
    )


def placement(path: Path, state: dict[str, Tensor], kind: str, tower: str, probe: str, blocks: int) -> dict[str, int | bool]:
    """Infer the config's <kind>_adapter_* fields: places, bottleneck width, and the number of adapted blocks (always the last ones)."""
    counts, width = {}, 1
    for place in PLACES:
        names = [f"{tower}.{i}.adapter_{place}.{probe}" for i in range(blocks)]
        adapted = [i for i, name in enumerate(names) if name in state]
        if adapted != list(range(blocks - len(adapted), blocks)):
            raise UserError(f"{path}: {place} adapters are in blocks {adapted} of {tower}, not in the last ones; {RIGHT_ONE}")
        counts[place] = len(adapted)
        width = state[names[adapted[0]]].shape[0] if adapted else width
    layers = max(counts.values())
    if not set(counts.values()) <= {0, layers}:
        where = f"{counts['pre_attn']} blocks before attention and in {counts['pre_mlp']} before the MLP"
        raise UserError(f"{path}: {kind} adapters in {where}: different numbers are not supported; give another file")
    places = {f"{kind}_adapter_{place}": count > 0 for place, count in counts.items()}
    return {f"{kind}_adapter_layers": layers, f"{kind}_adapter_width": width} | places


def export_published(model, path: str | Path) -> None:
    """Write the trainable tensors in the authors' format: {'model': ..., 'next_epoch': 0}, fp32, their names.

    Raises: UserError for a model that their format cannot represent.
    """
    config = model.config
    if config.visual_adapter != "ted" or config.unfreeze != "nothing":
        raise UserError("export_official: the published format holds TED-Adapters on a frozen CLIP only")
    if not (config.enhancement and config.difference and config.frame_adapter and config.temporal_kernel == 3 and not config.static):
        raise UserError("export_official: the published format holds full TED-Adapters only (both branches, frame adapter, kernel 3)")
    if config.own_mlm_block:
        raise UserError("export_official: this model has a masked-word block of its own, but the published format rebuilds it from CLIP")
    text_blocks = len(model.clip.transformer.resblocks)
    tensors = {published_name(n, text_blocks): v.detach().cpu().float().clone() for n, v in model.trainable_state().items()}
    write_atomically(Path(path), lambda file: torch.save({"model": tensors, "next_epoch": 0}, file))
