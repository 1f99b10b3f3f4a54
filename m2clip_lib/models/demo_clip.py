"""The demonstration's small CLIP: its architecture, the recipe that trains it (train/pretrain.py), and where its file is kept."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from m2clip_lib import paths

PACKAGE = Path(__file__).parents[1]
MODEL_CONFIG = PACKAGE / "models" / "demo_clip.json"
RECIPE_FILES = ("models/demo_clip.json", "train/pretrain.py", "data/demo/scenes.py")  # other contents make another CLIP


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
    """Where the small CLIP of this recipe is kept: the name carries a hash of the recipe and of the code that makes it."""
    config = config or PretrainConfig()
    digest = hashlib.sha256(json.dumps(asdict(config)).encode())
    for file in RECIPE_FILES:
        digest.update((PACKAGE / file).read_bytes())
    return paths.CHECKPOINTS / "backbones" / f"demo-clip-{digest.hexdigest()[:12]}.safetensors"


def find_demo_clip(sha256: str) -> Path | None:
    """The file of a small CLIP with these weights, also one of an earlier recipe."""
    for side in sorted((paths.CHECKPOINTS / "backbones").glob("demo-clip-*.json")):
        if json.loads(side.read_text())["sha256"] == sha256 and side.with_suffix(".safetensors").is_file():
            return side.with_suffix(".safetensors")
    return None
