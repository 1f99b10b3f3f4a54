"""The locations of files and folders. Environment variables override them.

The working directory matters only to a library that was installed away from its clone (pip install .): it then says which clone is meant.
"""

import os
from pathlib import Path


def _from_environment(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().absolute()


def _clone() -> Path:
    """The folder around the library, or if that is no clone, the working directory or a folder above it that is one."""
    around, here = Path(__file__).parent.parent, Path.cwd()
    return next((place for place in (around, here, *here.parents) if (place / "configs" / "config.py").is_file()), around)


ROOT = _from_environment("M2CLIP_ROOT", _clone())
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
