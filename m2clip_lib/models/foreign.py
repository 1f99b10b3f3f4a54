"""Third-party files, read into our model: M2-CLIP's adapter-only .pth, the replicate's full .pt, ST-Adapter's and AIM's files.

Examples of their names: visual.transformer.resblocks.0.adapter_pre_mlp.offset_adapter.fc1.weight (M2-CLIP; the masked-word block is
numbered after CLIP's last text block), transformer.resblocks.0.adapter_pre_mlp.fc1.weight (ST-Adapter),
backbone.transformer.resblocks.0.T_Adapter.D_fc1.weight (AIM). Kind, placement, widths and counts are inferred from the tensors.
"""

import logging
import re
from collections.abc import Sequence
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
NO_TEXT = {"vocabulary": ("word",), "text_side": "frozen", "text_adapter_layers": 0}  # of the peers
M2_CLIP = (  # (ours, published): the first match is applied; {last} is the number of CLIP's text blocks
    (r"^visual_adapters\.(\d+)\.(\w+)\.difference\.", r"visual.transformer.resblocks.\1.adapter_\2.offset_adapter."),
    (r"^visual_adapters\.(\d+)\.(\w+)\.enhancement\.", r"visual.transformer.resblocks.\1.adapter_\2."),
    (r"^text_adapters\.(\d+)\.(\w+)\.", r"transformer.resblocks.\1.adapter_\2.textad_"),
    (r"^frame_adapter\.enhancement\.", "visual.t_adapter."),
    (r"^classifier\.", "visual.adapter_fc."),
    (r"^mlm_head\.dense\.", "mlm_adapter.transform.dense."),
    (r"^mlm_head\.norm\.", "mlm_adapter.transform.LayerNorm."),
    (r"^mlm_head\.decoder\.bias$", "mlm_adapter.bias"),
    (r"^mlm_head\.decoder\.weight$", "mlm_adapter.decoder.weight"),
    (r"^mlm_block\.", "transformer.resblocks.{last}."),
    (r"^clip\.", ""),
    (r"^mlm_project\.", "mlm_project."),  # their code has no such layer: it is missing in every file
)
ST_ADAPTER = (
    (r"^visual_adapters\.(\d+)\.(\w+)\.", r"transformer.resblocks.\1.adapter_\2."),
    (r"^classifier\.", "fc."),
    (r"^clip\.visual\.", ""),
)
AIM = (
    (r"^visual_adapters\.(\d+)\.time\.outer\.", r"backbone.transformer.resblocks.\1.T_Adapter.D_"),
    (r"^visual_adapters\.(\d+)\.time\.inner\.", r"backbone.transformer.resblocks.\1.T_Adapter_in.D_"),
    (r"^visual_adapters\.(\d+)\.post_attn\.", r"backbone.transformer.resblocks.\1.S_Adapter.D_"),
    (r"^visual_adapters\.(\d+)\.beside_mlp\.", r"backbone.transformer.resblocks.\1.MLP_Adapter.D_"),
    (r"^time_embedding$", "backbone.temporal_embedding"),
    (r"^video_norm\.", "backbone.ln_post."),
    (r"^classifier\.", "cls_head.fc_cls."),
    (r"^clip\.visual\.(?!ln_post)", "backbone."),  # AIM trains its ln_post
)
AIM_BLOCK = "backbone.transformer.resblocks.0"
AIM_SIZES = {"cls_head.fc_cls.weight", "backbone.temporal_embedding", f"{AIM_BLOCK}.S_Adapter.D_fc1.weight"}  # tensors that tell the sizes
Renames = Sequence[tuple[str, str]]


def published_name(name: str, text_blocks: int, renames: Renames = M2_CLIP) -> str | None:
    """Our parameter name -> the name in published files, None where they have no such parameter.

    text_blocks: blocks of CLIP's text tower, without the masked-word block.
    """
    found = (re.sub(ours, published, name) for ours, published in renames if re.match(ours, name))
    return next(found, "").replace("{last}", str(text_blocks)) or None


def load_published(model_class: type, path: Path, backbone: Backbone, num_frames: int | None):
    """Build the model that a published file describes, on a backbone.

    M2-CLIP's masked-word block comes from the file if it is a full one, otherwise it is a copy of the backbone's last text block.
    Of a peer only the classifier answers (fc_logits); its text side is CLIP's.
    Class names and vocabulary words are placeholders ("class 0", "word 0"), as such files do not contain them.
    Raises: UserError for another file, and naming the first tensor that is not finite, or does not fit.
    """
    state = load_weights_only(path)
    if "visual.adapter_fc.weight" in state and "mlm_adapter.decoder.weight" in state:
        renames, read_config = M2_CLIP, _m2_clip
    elif "fc.weight" in state and any(".adapter_pre_" in name for name in state):
        renames, read_config = ST_ADAPTER, _st_adapter
    elif state.keys() >= AIM_SIZES:
        renames, read_config = AIM, _aim
    else:
        raise UserError(
            f"{path}: neither a checkpoint of this workbook nor of M2-CLIP, the replicate, ST-Adapter or AIM; give one of these"
        )
    refuse_not_finite(path, state)
    log.warning("%s: contains no class names and no vocabulary: using 'class 0', ..., 'word 0', ...", path)
    return fill(model_class(backbone, read_config(path, state, backbone, num_frames)), path, state, renames)


def frames_of(path: Path, num_frames: int | None) -> int:
    """The clip length that was asked for, else the default, with a warning."""
    if num_frames is None:
        log.warning("%s: does not record its clip length: taking %d frames; give num_frames to change it", path, DEFAULT_FRAMES)
    return DEFAULT_FRAMES if num_frames is None else num_frames


def fill(model, path: Path, state: dict[str, Tensor], renames: Renames):
    """Give a new model the tensors of a file, which names them as `renames` says. CLIP's own are compared with the backbone's.

    Raises: UserError naming the first tensor that is missing, unknown, of another shape, or not the backbone's.
    """
    found, where = {}, f"backbone {model.backbone.source!r}"
    for name, value in model.state_dict().items():
        published, shape = published_name(name, len(model.text.blocks), renames), tuple(value.shape)
        if published in state:
            given = state.pop(published).float()
            given = given.flatten(2) if given.dim() > value.dim() == 3 else given  # ST-Adapter's convolutions are 3 x 1 x 1
            if given.shape != value.shape:
                raise UserError(f"{path}: tensor {published} is {tuple(given.shape)} in the file and {shape} on {where}; {RIGHT_ONE}")
            if not name.startswith("clip."):
                found[name] = given
            elif not torch.allclose(given, value.cpu().float(), rtol=2e-3, atol=1e-5):  # up to the rounding of fp16 storage
                raise UserError(f"{path}: tensor {published} {shape} differs in its values from {where}; {RIGHT_ONE}")
        elif published and not name.startswith(("clip.", "mlm_block.")):
            raise UserError(f"{path}: tensor {published} {shape} is missing; the file is incomplete or of another kind; copy it again")
    if state:
        raise UserError(f"{path}: tensor {next(iter(state))} does not exist on {where}; {RIGHT_ONE}")
    model.load_state_dict(found, strict=False)
    model.source = str(path)
    return model.eval()


def _m2_clip(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    vision_blocks, text_blocks = len(backbone.visual.blocks), len(backbone.text.blocks)
    copied = backbone.text.blocks[-1].state_dict()
    block = [(state.get(f"transformer.resblocks.{text_blocks}.{name}"), value) for name, value in copied.items()]
    is_full = all(own is not None and own.shape == value.shape for own, value in block)
    return M2CLIPConfig(
        class_names=_numbered("class", state["visual.adapter_fc.weight"]),
        vocabulary=_numbered("word", state["mlm_adapter.decoder.weight"]),
        **placement(path, state, "vision", "visual.transformer.resblocks", "fc1.weight", vision_blocks),
        **placement(path, state, "text", "transformer.resblocks", "textad_fc1.weight", text_blocks + 1),
        num_frames=frames_of(path, num_frames),
        own_mlm_block=is_full and any(not torch.equal(own.float(), value.cpu().float()) for own, value in block),
    )


def _st_adapter(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    blocks = len(backbone.visual.blocks)
    fields = placement(path, state, "vision", "transformer.resblocks", "fc1.weight", blocks) | {"visual_adapter": "st_adapter"}
    return M2CLIPConfig(_numbered("class", state["fc.weight"]), **fields, num_frames=frames_of(path, num_frames), **NO_TEXT)


def _aim(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    frames, inner = state["backbone.temporal_embedding"].shape[1], f"{AIM_BLOCK}.T_Adapter_in.D_fc1.weight" in state
    if num_frames not in (None, frames):
        raise UserError(f"{path}: made for clips of {frames} frames, not of {num_frames}; set num_frames to {frames}")
    scale = 1.0 if inner else 0.5
    log.warning("%s: does not record the scale of its MLP adapter: taking %g, as published with this number of adapters", path, scale)
    width, blocks = state[f"{AIM_BLOCK}.S_Adapter.D_fc1.weight"].shape[0], len(backbone.visual.blocks)
    fields = {"vision_adapter_layers": blocks, "vision_adapter_width": width, "aim_inner": inner, "aim_scale": scale}
    names = _numbered("class", state["cls_head.fc_cls.weight"])
    return M2CLIPConfig(names, visual_adapter="aim", num_frames=frames, **fields, **NO_TEXT)


def _numbered(word: str, head: Tensor) -> tuple[str, ...]:
    """A placeholder for every row of a head."""
    return tuple(f"{word} {i}" for i in range(len(head)))


def placement(path: Path, state: dict[str, Tensor], kind: str, tower: str, probe: str, blocks: int) -> dict[str, int | bool]:
    """Infer the config's <kind>_adapter_* fields: places, bottleneck width, and the number of adapted blocks (always the last ones)."""
    names = {place: [f"{tower}.{i}.adapter_{place}.{probe}" for i in range(blocks)] for place in PLACES}
    found = {place: [name for name in of_place if name in state] for place, of_place in names.items()}
    layers = max(map(len, found.values()))
    for place, adapted in found.items():
        if adapted and adapted != names[place][blocks - layers :]:
            where = f"{place} adapters are in {len(adapted)} blocks of {tower}, not in the last {layers}"
            raise UserError(f"{path}: {where}; {RIGHT_ONE}, or give another file")
    widths = [state[adapted[0]].shape[0] for adapted in found.values() if adapted]
    places = {f"{kind}_adapter_{place}": bool(adapted) for place, adapted in found.items()}
    return {f"{kind}_adapter_layers": layers, f"{kind}_adapter_width": widths[-1] if widths else 1} | places


def export_published(model, path: str | Path) -> None:
    """Write the trainable tensors in the authors' format: {'model': ..., 'next_epoch': 0}, fp32, their names.

    Raises: UserError for a model that their format cannot represent.
    """
    config = model.config
    full = config.enhancement and config.difference and config.frame_adapter and config.temporal_kernel == 3 and not config.static
    if config.visual_adapter != "ted" or config.unfreeze != "nothing" or not full:
        kept = "full TED-Adapters only (both branches, frame adapter, kernel 3), on a frozen CLIP"
        raise UserError(f"export_official: the published format holds {kept}")
    if config.own_mlm_block:
        raise UserError("export_official: this model has a masked-word block of its own, but the published format rebuilds it from CLIP")
    text_blocks = len(model.text.blocks)
    tensors = {published_name(n, text_blocks): v.detach().cpu().float().clone() for n, v in model.trainable_state().items()}
    write_atomically(Path(path), lambda file: torch.save({"model": tensors, "next_epoch": 0}, file))
