"""Which run was trained last, and which backbone a checkpoint needs."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import (
    TRAINING_ADVICE,
    backbone_of,
    build_model,
    device_precision,
    last_run,
    out_of_memory_explained,
    set_threads,
    with_precision,
)
from m2clip_lib.models.checkpoint import read_checkpoint_info
from m2clip_lib.train.resume import identity


@pytest.fixture
def save(workspace, backbone):
    """Save an untrained checkpoint as the best of a run, recorded as written in a certain second, and copied in the opposite order."""
    model = build_model(load_experiment("folder"), backbone, ["moving left", "growing"])

    def save_best(run: str, experiment: str, seconds: int) -> None:
        file = paths.CHECKPOINTS / run / "best.safetensors"
        model.save(file, experiment=experiment, stride=0)
        side = json.loads(file.with_suffix(".json").read_text()) | {"saved": f"2024-05-01T10:00:00.{seconds}+00:00"}
        file.with_suffix(".json").write_text(json.dumps(side))
        for copied in (file, file.with_suffix(".json")):
            os.utime(copied, (1000 - seconds, 1000 - seconds))

    return save_best


def test_last_run_is_the_newest_of_the_experiment(save):
    save("b_first", "folder", 100)
    save("a_second", "folder", 200)
    save("other", "tiny", 300)
    save("a_second/ablations/full-seed0", "folder", 400)  # part of a run, not a run itself
    assert last_run("folder") == "a_second"
    assert last_run("tiny") == "other"


def test_a_run_of_an_older_version_was_trained_when_its_run_json_says(save):
    save("b_first", "folder", 100)
    for run, end in (("a_old", "2024-05-01T09:00:00+00:00"), ("z_older", "2024-05-01T08:00:00+00:00")):
        save(run, "folder", 900)
        side = paths.CHECKPOINTS / run / "best.json"
        side.write_text(json.dumps({"extra": {"experiment": "folder"}}))
        steps = {"train": {"start": "2024-05-01T07:00:00+00:00", "end": end}, "eval": {"start": "2025-01-01T00:00:00+00:00", "end": ""}}
        (paths.RESULTS / run).mkdir(parents=True)
        (paths.RESULTS / run / "run.json").write_text(json.dumps({"steps": steps}))
    assert last_run("folder") == "b_first"
    shutil.rmtree(paths.CHECKPOINTS / "b_first")
    assert last_run("folder") == "a_old"


@pytest.mark.parametrize(
    "content",
    [b"", b'{"extra": {"exper', b"[]", b"null", b'{"extra": null}', b"{}", '{"extra": {"experiment": "plongée"}}'.encode("latin-1"), None],
)
def test_a_damaged_run_is_named_once_and_stops_no_other(save, caplog, content):
    save("intact", "folder", 100)
    save("damaged", "folder", 200)
    if content is None:  # half of the weights
        file = paths.CHECKPOINTS / "damaged" / "best.safetensors"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        (paths.CHECKPOINTS / "damaged" / "best.json").write_bytes(content)
    assert last_run("folder") == "intact"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["run 'damaged' is damaged and passed over"]


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
    assert backbone_of(read_checkpoint_info(paths.CHECKPOINTS / last_run("folder") / "best.safetensors")).sha256 == backbone.sha256


def test_a_small_clip_that_is_gone_is_named_by_its_digest(save):
    save("mine", "folder", 100)
    info = read_checkpoint_info(paths.CHECKPOINTS / last_run("folder") / "best.safetensors")
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


class Gpu:
    type = "cuda"


@pytest.mark.parametrize(
    ("device", "has_bf16", "cpuinfo", "width", "expected"),
    [
        (Gpu(), True, "", 768, "bf16"),
        (Gpu(), False, "", 768, "fp32"),
        (torch.device("cpu"), False, "flags : fpu amx_bf16 amx_tile", 768, "bf16"),
        (torch.device("cpu"), False, "flags : fpu amx_bf16 amx_tile", 96, "fp32"),  # too small to gain
        (torch.device("cpu"), False, "flags : fpu avx512_bf16", 768, "fp32"),
    ],
)
def test_auto_is_bf16_where_it_is_faster(monkeypatch, device, has_bf16, cpuinfo, width, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: cpuinfo)
    backbone = SimpleNamespace(visual=SimpleNamespace(width=width))
    assert device_precision("auto", backbone, device) == expected
    assert device_precision("fp16", backbone, device) == "fp16"
    asked = Experiment(name="any", train={"precision": "auto"})
    assert with_precision(asked, backbone, device).train.precision == expected
    assert identity(asked, {}, 1).keys() < identity(with_precision(asked, backbone, device), {}, 1).keys()
