"""The model: a frozen CLIP (backbone), the trainable modules added to it (adapters, m2clip), and their losses."""

from pathlib import Path

from m2clip_lib.models.backbone import Backbone, M2CLIPConfig, load_backbone
from m2clip_lib.models.losses import LossWeights, MultiTaskLoss, multi_task_loss
from m2clip_lib.models.m2clip import M2CLIP, is_trainable


def load_peer(path: str | Path, backbone: Backbone, num_frames: int | None = None) -> M2CLIP:
    """The model of a published ST-Adapter or AIM file: encode_video(video).fc_logits answers as theirs does. See M2CLIP.from_checkpoint."""
    return M2CLIP.from_checkpoint(path, backbone, num_frames)
