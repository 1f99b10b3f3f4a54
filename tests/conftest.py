"""Shared fixtures: a separate workspace for each test that writes, a small random CLIP, a few real videos, a tiny experiment.

What takes long to import is imported by the fixtures: pytest's main process reads this file, too, before it starts the workers.
"""

import json
import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores, two test processes: see pytest -n

from jaxtyping import install_import_hook

install_import_hook("m2clip_lib.models", "beartype.beartype")  # tests check every shape in the signatures of the model

import pytest
from hypothesis import settings
from workspaces import use_workspace

from m2clip_lib import paths

# The same examples every time and no time limit: a test should fail because of the code, not because of the machine.
settings.register_profile("workbook", deadline=None, derandomize=True)
settings.load_profile("workbook")

MODEL_CONFIG = json.loads((Path(paths.__file__).parent / "models" / "demo_clip.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def fork_server():
    """Start the fork server with all that any test's processes import, before code under test starts it with less."""
    from m2clip_lib.kernels import PRELOADED

    multiprocessing.set_forkserver_preload([*PRELOADED])
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def one_thread():
    """Reset torch to one thread before each test, because code under test may have set it to all cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def shipped(monkeypatch):
    """configs/config.py as it is shipped, whatever workspace other tests of this process are in."""
    monkeypatch.setattr(paths, "CONFIG", paths.ROOT / "configs" / "config.py")


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory) -> Path:
    """Write a small CLIP with random weights in the workbook's own file format."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("clip") / "random_clip.safetensors"
    state = {name: value.contiguous() for name, value in CLIP(**MODEL_CONFIG).state_dict().items()}
    save_file(state, file, metadata={"open_clip_config": json.dumps(MODEL_CONFIG)})
    return file


@pytest.fixture(scope="session")
def backbone(clip_file):
    """The CLIP of clip_file, loaded and frozen."""
    from m2clip_lib.models.backbone import load_backbone

    return load_backbone(clip_file)


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """Write two classes of six short videos each: mp4, webm, avi and mkv of different sizes."""
    import numpy as np

    from m2clip_lib.data.demo.videos import CLASS_NAMES, draw_video, write_video

    root = tmp_path_factory.mktemp("videos")
    kinds = [(".mp4", "libx264", 80), (".webm", "libvpx-vp9", 96), (".avi", "mpeg4", 64), (".mkv", "libx264", 112)]
    for label in (0, 1):
        for number in range(6):
            suffix, codec, side = kinds[number % len(kinds)]
            frames = draw_video(label, np.random.default_rng([label, number]), 12, side)
            write_video(root / CLASS_NAMES[label].replace(" ", "_") / f"clip {number}{suffix}", frames, codec=codec, options={})
    return root


@pytest.fixture
def workspace(tmp_path, monkeypatch, clip_file, video_folder) -> Path:
    """A separate data/, results/, checkpoints/ and configs/config.py for one test, in this process and in those it starts.

    Experiments there: "tiny" (synthetic videos) and "folder" (video_folder), both on the random CLIP.
    """
    use_workspace(tmp_path, monkeypatch, clip_file, video_folder)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, clip_file, video_folder):
    """A workspace in which the workbook has run on "tiny": (root, results folder, lines reported). Read only. Takes about 40 s."""
    from m2clip_lib.workbook import run_workbook

    root = tmp_path_factory.mktemp("trained")
    patch = pytest.MonkeyPatch()
    use_workspace(root, patch, clip_file, video_folder)
    lines: list[str] = []
    run_workbook("tiny", report=lines.append)
    yield root, root / "results" / "tiny", lines
    patch.undo()
