"""Workspaces for tests: a separate data/, results/, checkpoints/ and configs/config.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2clip_lib import paths

CONFIG_FILE = """
import runpy

STUDIES = runpy.run_path({own!r})["STUDIES"]
DEFAULT_EXPERIMENT = "tiny"
EXPERIMENTS = {{
    "tiny": {{
        "backbone": {{"source": {clip!r}}},
        "model": {{"vision_adapter_layers": 2, "vision_adapter_width": 8, "text_adapter_layers": 3, "text_adapter_width": 8}},
        "data": {{
            "layout": "synthetic", "prepared": "tiny", "train_videos": 24, "val_videos": 12, "test_videos": 12,
            "num_frames": 4, "stride": 0, "cache_frames": True, "workers": 0,
        }},
        "train": {{"epochs": 1, "batch_size": 8, "lr": 1e-2, "threads": 1}},
        "eval": {{"ablation_seeds": (0, 1)}},
    }},
    "folder": {{
        "backbone": {{"source": {clip!r}}},
        "model": {{"vision_adapter_layers": 1, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}},
        "data": {{"layout": "folder", "root": {folder!r}, "prepared": "folder", "num_frames": 4, "stride": 0, "workers": 0}},
        "train": {{"epochs": 1, "batch_size": 4, "threads": 1}},
    }},
}}
"""


def use_workspace(root: Path, monkeypatch, clip_file: Path, video_folder: Path) -> None:
    """Point m2clip_lib.paths, and the environment of child processes, to folders in `root`."""
    config = root / "config.py"
    config.write_text(CONFIG_FILE.format(own=str(paths.ROOT / "configs" / "config.py"), clip=str(clip_file), folder=str(video_folder)))
    for name in ("DATA", "RESULTS", "CHECKPOINTS"):
        monkeypatch.setenv(f"M2CLIP_{name}", str(root / name.lower()))
        monkeypatch.setattr(paths, name, root / name.lower())
    monkeypatch.setenv("M2CLIP_CONFIG", str(config))
    monkeypatch.setattr(paths, "CONFIG", config)


def prepared_workspace(root: Path, clip_file: Path, video_folder: Path) -> Iterator[Path]:
    """Yield a workspace that holds the manifest of "tiny"; for module-scoped fixtures."""
    from m2clip_lib.config import load_experiment
    from m2clip_lib.data.prepare import prepare_data

    patch = pytest.MonkeyPatch()
    use_workspace(root, patch, clip_file, video_folder)
    prepare_data(load_experiment("tiny"), report=lambda line: None)
    yield root
    patch.undo()
