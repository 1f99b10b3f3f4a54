"""Published checkpoints of peers, read into our model: ST-Adapter's {"model": trained tensors} and AIM's {"state_dict": everything}.

Example of their names: transformer.resblocks.0.adapter_pre_mlp.fc1.weight; backbone.transformer.resblocks.0.T_Adapter.D_fc1.weight.
"""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.foreign import DEFAULT_FRAMES, RIGHT_ONE, placement
from m2clip_lib.models.m2clip import M2CLIP
from m2clip_lib.models.sources import load_weights_only, refuse_not_finite

log = logging.getLogger(__name__)

ST_ADAPTER = (  # (ours, published): the first match is applied
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


def load_peer(path: str | Path, backbone: Backbone, num_frames: int | None = None) -> M2CLIP:
    """Build the model that an ST-Adapter or AIM file describes; its classifier answers (fc_logits), its text side is CLIP's.

    Class names are placeholders ("class 0"), as such files do not contain them.

    Args:
        num_frames: clip length; ST-Adapter's files do not record theirs (default 8), AIM's do.
    Raises: UserError when the file is neither, or for the first tensor that does not fit, is missing, or is not finite.
    """
    path = Path(path)
    state = load_weights_only(path, "state_dict", "model")
    refuse_not_finite(path, state)
    kind = next((kind for kind, name in ((ST_ADAPTER, "fc.weight"), (AIM, "cls_head.fc_cls.weight")) if name in state), None)
    if kind is None:
        raise UserError(f"{path}: neither of ST-Adapter nor of AIM (no tensor 'fc.weight' or 'cls_head.fc_cls.weight'); give one of these")
    model = M2CLIP(backbone, (_st_adapter if kind is ST_ADAPTER else _aim)(path, state, backbone, num_frames))
    found = {}
    for name, value in model.state_dict().items():
        published = next((re.sub(ours, theirs, name) for ours, theirs in kind if re.match(ours, name)), None)
        if published in state:
            given = state.pop(published).float()
            given = given.flatten(2) if name.endswith("conv.weight") else given  # 3 x 1 x 1
            if given.shape != value.shape:
                shapes = f"is {tuple(given.shape)} in the file and {tuple(value.shape)} on backbone {backbone.source!r}"
                raise UserError(f"{path}: tensor {published} {shapes}; {RIGHT_ONE}")
            if not name.startswith("clip."):
                found[name] = given
            elif not torch.allclose(given, value.cpu().float(), rtol=2e-3, atol=1e-5):  # up to the rounding of fp16 storage
                raise UserError(f"{path}: tensor {published} differs in its values from backbone {backbone.source!r}; {RIGHT_ONE}")
        elif published and not name.startswith("clip."):
            raise UserError(f"{path}: tensor {published} {tuple(value.shape)} is missing; the file is incomplete; copy it again")
    if state:
        raise UserError(f"{path}: tensor {next(iter(state))} does not exist on backbone {backbone.source!r}; {RIGHT_ONE}")
    model.load_state_dict(found, strict=False)
    model.source = str(path)
    return model.eval()


def _config(classes: int, **fields: object) -> M2CLIPConfig:
    names = tuple(f"class {i}" for i in range(classes))
    return M2CLIPConfig(class_names=names, vocabulary=("word",), text_side="frozen", text_adapter_layers=0, **fields)


def _st_adapter(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    if num_frames is None:
        num_frames = DEFAULT_FRAMES
        log.warning("%s: does not record its clip length: taking %d frames; give num_frames to change it", path, num_frames)
    blocks = len(backbone.clip.visual.transformer.resblocks)
    placed = placement(path, state, "vision", "transformer.resblocks", "fc1.weight", blocks)
    return _config(len(state["fc.weight"]), visual_adapter="st_adapter", num_frames=num_frames, **placed)


def _aim(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    block = "backbone.transformer.resblocks.0"
    frames, inner = state["backbone.temporal_embedding"].shape[1], f"{block}.T_Adapter_in.D_fc1.weight" in state
    if num_frames not in (None, frames):
        raise UserError(f"{path}: made for clips of {frames} frames, not of {num_frames}; leave num_frames out")
    scale = 1.0 if inner else 0.5
    log.warning("%s: does not record the scale of its MLP adapter: taking %g, as published with this number of adapters", path, scale)
    width, blocks = state[f"{block}.S_Adapter.D_fc1.weight"].shape[0], len(backbone.clip.visual.transformer.resblocks)
    fields = {"vision_adapter_layers": blocks, "vision_adapter_width": width, "aim_inner": inner, "aim_scale": scale}
    return _config(len(state["cls_head.fc_cls.weight"]), visual_adapter="aim", num_frames=frames, **fields)
