"""Published checkpoints of peers, read into our model: ST-Adapter's {"model": trained tensors} and AIM's {"state_dict": everything}.

Example of their names: transformer.resblocks.0.adapter_pre_mlp.fc1.weight; backbone.transformer.resblocks.0.T_Adapter.D_fc1.weight.
"""

import logging
from pathlib import Path

from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.foreign import fill, frames_of, placement
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
    state = load_weights_only(path)
    refuse_not_finite(path, state)
    if "fc.weight" in state:
        return fill(M2CLIP(backbone, _st_adapter(path, state, backbone, num_frames)), path, state, ST_ADAPTER)
    if "cls_head.fc_cls.weight" in state:
        return fill(M2CLIP(backbone, _aim(path, state, backbone, num_frames)), path, state, AIM)
    raise UserError(f"{path}: neither of ST-Adapter nor of AIM (no tensor 'fc.weight' or 'cls_head.fc_cls.weight'); give one of these")


def _config(classes: int, **fields: object) -> M2CLIPConfig:
    names = tuple(f"class {i}" for i in range(classes))
    return M2CLIPConfig(class_names=names, vocabulary=("word",), text_side="frozen", text_adapter_layers=0, **fields)


def _st_adapter(path: Path, state: dict[str, Tensor], backbone: Backbone, num_frames: int | None) -> M2CLIPConfig:
    num_frames = frames_of(path, num_frames)
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
