"""The locations of files and folders. Environment variables override them; the working directory never matters."""

import os
from pathlib import Path


def _from_environment(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().absolute()


ROOT = _from_environment("M2CLIP_ROOT", Path(__file__).parent.parent)
CONFIG = _from_environment("M2CLIP_CONFIG", ROOT / "configs" / "config.py")
NOTEBOOKS = ROOT / "notebooks"
DATA = _from_environment("M2CLIP_DATA", ROOT / "data")
RESULTS = _from_environment("M2CLIP_RESULTS", ROOT / "results")
CHECKPOINTS = _from_environment("M2CLIP_CHECKPOINTS", ROOT / "checkpoints")


def resolve(path: str | Path) -> Path:
    """Resolve a path from configs/config.py: absolute, ~, or relative to the root of the repository."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def shown(path: Path) -> str:
    """Format a path for a message: relative to the root if it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
