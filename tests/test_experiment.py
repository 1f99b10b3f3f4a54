"""Which run was trained last, and which backbone a checkpoint needs."""

import os

import pytest
import torch

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import (
    TRAINING_ADVICE,
    backbone_of,
    build_model,
    last_run,
    last_run_checkpoint,
    out_of_memory_explained,
    set_threads,
)
from m2clip_lib.models.checkpoint import read_checkpoint_info


@pytest.fixture
def save(workspace, backbone):
    """Save an untrained checkpoint as the best of a run, with a modification time given in seconds."""
    model = build_model(load_experiment("folder"), backbone, ["moving left", "growing"])

    def save_best(run: str, experiment: str, seconds: int) -> None:
        file = paths.CHECKPOINTS / run / "best.safetensors"
        model.save(file, experiment=experiment, stride=0)
        os.utime(file.with_suffix(".json"), (seconds, seconds))

    return save_best


def test_last_run_is_the_newest_of_the_experiment(save):
    save("b_first", "folder", 100)
    save("a_second", "folder", 200)
    save("other", "tiny", 300)
    save("a_second/ablations/full-seed0", "folder", 400)  # part of a run, not a run itself
    assert last_run("folder") == "a_second"
    assert last_run("tiny") == "other"
    assert last_run_checkpoint("folder") == paths.CHECKPOINTS / "a_second" / "best.safetensors"


def test_a_side_file_without_weights_is_not_a_checkpoint(save):
    save("kept", "folder", 100)
    save("deleted", "folder", 200)
    (paths.CHECKPOINTS / "deleted" / "best.safetensors").unlink()
    assert last_run("folder") == "kept"


def test_without_a_run_the_error_names_the_command_that_trains_one(save):
    save("other", "tiny", 100)
    with pytest.raises(UserError, match=r"experiment 'folder' has none in .*; train it with: m2clip train folder, or give --checkpoint"):
        last_run("folder")


def test_a_checkpoint_finds_the_backbone_it_was_trained_on(save, backbone):
    save("mine", "folder", 100)
    assert backbone_of(read_checkpoint_info(last_run_checkpoint("folder"))).sha256 == backbone.sha256


def test_a_small_clip_that_is_gone_is_named_by_its_digest(save):
    save("mine", "folder", 100)
    info = read_checkpoint_info(last_run_checkpoint("folder"))
    object.__setattr__(info, "backbone_source", "demo")
    with pytest.raises(UserError, match=rf"sha256 {info.backbone_sha256[:12]}\) is not in .*; make one with: m2clip prepare"):
        backbone_of(info)


def test_running_out_of_memory_names_the_settings_to_change():
    with pytest.raises(UserError) as error, out_of_memory_explained(TRAINING_ADVICE.format(32)):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    for part in ("train.batch_size (now 32)", "train.accumulate", "train.activation_checkpointing=true", "train.precision=bf16"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("asked", "variables", "expected"),
    [
        (0, {}, 8),
        (0, {"LOCAL_WORLD_SIZE": "4"}, 2),
        (0, {"LOCAL_WORLD_SIZE": "16"}, 1),
        (0, {"OMP_NUM_THREADS": "3"}, 3),
        (0, {"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "4"}, 3),
        (0, {"OMP_NUM_THREADS": "2,1"}, 2),
        (0, {"OMP_NUM_THREADS": "many"}, 8),  # OpenMP ignores it as well
        (1, {"OMP_NUM_THREADS": "3"}, 1),  # train.threads
    ],
)
def test_threads_are_those_asked_for_or_the_jobs_cores(monkeypatch, asked, variables, expected):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("m2clip_lib.experiment.cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        set_threads(asked)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
