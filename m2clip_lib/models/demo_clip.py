"""The demonstration's small CLIP: its architecture, its training recipe (used by train/pretrain.py), and the location of its file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from m2clip_lib import paths

PACKAGE = Path(__file__).parents[1]
MODEL_CONFIG = PACKAGE / "models" / "demo_clip.json"
RECIPE_FILES = ("models/demo_clip.json", "train/pretrain.py", "data/demo/scenes.py")  # a change in any of them makes a different CLIP


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe of the small CLIP."""

    steps: int = 400
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    seed: int = 0


def demo_clip_path(config: PretrainConfig | None = None) -> Path:
    """The file of this recipe's small CLIP (default: the standard recipe); its name contains a hash of the recipe and its code."""
    digest = hashlib.sha256(json.dumps(asdict(config or PretrainConfig())).encode())
    for file in RECIPE_FILES:
        digest.update((PACKAGE / file).read_bytes())
    return paths.CHECKPOINTS / "backbones" / f"demo-clip-{digest.hexdigest()[:12]}.safetensors"


def find_demo_clip(sha256: str) -> Path | None:
    """The file of a small CLIP with these weights, whatever its recipe."""
    sides = sorted((paths.CHECKPOINTS / "backbones").glob("demo-clip-*.json"))
    files = (side.with_suffix(".safetensors") for side in sides if json.loads(side.read_text())["sha256"] == sha256)
    return next(filter(Path.is_file, files), None)
