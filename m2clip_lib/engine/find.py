"""Which run was trained last, and which backbone a checkpoint needs."""

import dataclasses
import json
from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.engine.pretrain import find_demo_clip
from m2clip_lib.errors import UserError
from m2clip_lib.models import Backbone, load_backbone
from m2clip_lib.models.checkpoint import CheckpointInfo


def last_run(experiment: str) -> str:
    """Name of the run whose best checkpoint of this experiment is the newest. Raises: UserError when there is none."""
    found = []
    for side in sorted(paths.CHECKPOINTS.glob("*/best.json")):
        if side.with_suffix(".safetensors").is_file() and json.loads(side.read_text())["extra"].get("experiment") == experiment:
            found.append((side.stat().st_mtime_ns, side.parent.name))
    if not found:
        raise UserError(
            f"checkpoint: experiment {experiment!r} has none in {paths.shown(paths.CHECKPOINTS)}/; "
            f"train it with: m2clip train {experiment}, or give --checkpoint"
        )
    return max(found)[1]


def last_run_checkpoint(experiment: str) -> Path:
    """The best checkpoint of the experiment's last run."""
    return paths.CHECKPOINTS / last_run(experiment) / "best.safetensors"


def backbone_of(info: CheckpointInfo) -> Backbone:
    """The backbone that a checkpoint was trained on. Raises: UserError when it is not on this machine."""
    if info.backbone_source != "demo":
        local = paths.resolve(info.backbone_source)
        return load_backbone(local if local.is_file() else info.backbone_source)
    path = find_demo_clip(info.backbone_sha256)
    if path is None:
        raise UserError(
            f"backbone: the small CLIP this checkpoint was trained on (sha256 {info.backbone_sha256[:12]}) is not in "
            f"{paths.shown(paths.CHECKPOINTS)}/backbones; make one with: m2clip prepare, and train again"
        )
    return dataclasses.replace(load_backbone(path), source="demo")
