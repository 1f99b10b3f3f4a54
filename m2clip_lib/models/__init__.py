"""The model: a frozen CLIP (backbone), the trainable modules added to it (adapters, m2clip), and their losses."""

from m2clip_lib.models.backbone import Backbone, M2CLIPConfig, load_backbone
from m2clip_lib.models.losses import LossWeights, MultiTaskLoss, multi_task_loss
from m2clip_lib.models.m2clip import M2CLIP, is_trainable
