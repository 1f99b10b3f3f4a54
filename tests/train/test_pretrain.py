"""The demonstration's own CLIP: its recipe, its file, and how the file is found again."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from filelock import FileLock

from m2clip_lib import paths
from m2clip_lib.models import load_backbone
from m2clip_lib.models.demo_clip import PretrainConfig, demo_clip_path, find_demo_clip
from m2clip_lib.train.pretrain import train_demo_clip

SHORT = PretrainConfig(steps=3, batch_size=8, warmup_steps=1)


@pytest.fixture
def trained_clip(workspace):
    """Three steps of a small batch on one thread: bits agree only at the same number of threads."""
    torch.set_num_threads(1)
    path, trained = train_demo_clip(SHORT, report=lambda line: None)
    assert trained
    return path


def test_a_finished_recipe_is_not_trained_again(trained_clip):
    before = trained_clip.stat().st_mtime_ns
    assert train_demo_clip(SHORT) == (trained_clip, False)
    assert trained_clip.stat().st_mtime_ns == before
    visible = {file.suffix for file in trained_clip.parent.iterdir() if not file.name.startswith(".")}  # the lock file is hidden
    assert visible == {".safetensors", ".json"}


def test_a_process_waits_for_another_that_trains_the_same_clip(workspace):
    path, lines = demo_clip_path(SHORT), []
    path.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(path.with_name(f".{path.stem}.lock")):
            waiting = pool.submit(train_demo_clip, SHORT, lines.append)
            while not lines and not waiting.done():
                time.sleep(0.01)
            path.write_bytes(b"the other process's file")
        assert waiting.result() == (path, False)
    assert len(lines) == 1
    assert "another process is training it; waiting for" in lines[0]
    assert find_demo_clip("0" * 64) is None  # the lock file is not mistaken for a backbone


def test_the_file_loads_as_a_backbone_and_is_found_by_its_digest(trained_clip):
    backbone = load_backbone(trained_clip)
    assert (backbone.image_size, backbone.context_length) == (64, 16)
    side = json.loads(trained_clip.with_suffix(".json").read_text())
    assert side["sha256"] == backbone.sha256
    assert side["recipe"]["steps"] == 3
    assert find_demo_clip(backbone.sha256) == trained_clip
    assert find_demo_clip("0" * 64) is None
    trained_clip.unlink()
    assert find_demo_clip(backbone.sha256) is None  # a side file alone is not a backbone


def test_the_report_on_stills_covers_every_attribute_with_its_chance(trained_clip):
    accuracy = json.loads(trained_clip.with_suffix(".json").read_text())["held_out_stills"]
    chance = {name: round(100 / value["chance"]) for name, value in accuracy.items()}
    assert chance == {"colour": 8, "place": 9, "size": 3, "shape": 4, "opacity": 2}
    assert all(0 <= value["top1"] <= 100 for value in accuracy.values())


def test_two_trainings_of_one_recipe_are_the_same_to_the_bit(trained_clip):
    before = trained_clip.read_bytes()
    trained_clip.unlink()
    assert train_demo_clip(SHORT, report=lambda line: None) == (trained_clip, True)
    assert trained_clip.read_bytes() == before


def test_another_recipe_has_another_name(workspace):
    names = {demo_clip_path(config).name for config in (PretrainConfig(), SHORT, PretrainConfig(seed=1))}
    assert len(names) == 3
    assert demo_clip_path().parent == paths.CHECKPOINTS / "backbones"
