"""Training: the same seeds give the same bits; the optimizer's parameters; the schedule; the files written."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from workspaces import use_workspace

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import READOUTS
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import build_model, open_backbone
from m2clip_lib.train import loop
from m2clip_lib.train.loop import train
from m2clip_lib.train.optim import lr_factor, parameter_groups
from m2clip_lib.train.record import TERMS, Tally
from m2clip_lib.train.step import TrainingSteps

pytestmark = pytest.mark.xdist_group("train")  # one worker: the videos are written once


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    """A workspace of this module with the synthetic videos of "tiny" prepared once; trainings go to runs of their own."""
    root = tmp_path_factory.mktemp("train")
    patch = pytest.MonkeyPatch()
    use_workspace(root, patch, clip_file, video_folder)
    prepare_data(load_experiment("tiny"), report=quiet)
    yield root
    patch.undo()


def quiet(line: str) -> None:
    """A report that discards its lines."""


def whole_epoch(steps: TrainingSteps) -> None:
    """Run the first epoch."""
    assert list(steps.epoch(1, 0, Tally(torch.zeros(len(TERMS))))) == [1, 2, 3]


def train_tiny(run: str, *overrides: str, manifest: Manifest | None = None):
    """Train "tiny" with changes; returns the result and the bytes of both checkpoints."""
    experiment = load_experiment("tiny", overrides)
    result = train(experiment, manifest or load_manifest(experiment), run, report=quiet)
    return result, result.best.read_bytes(), result.last.read_bytes()


def test_the_same_training_twice_writes_the_same_bytes(prepared):
    _, best, last = train_tiny("twice", "train.epochs=2")
    torch.manual_seed(99)  # the state of global generators must not matter
    torch.rand(7)
    np.random.default_rng().uniform()
    _, best_again, last_again = train_tiny("twice", "train.epochs=2")
    assert best == best_again
    assert last == last_again
    _, _, other_seed = train_tiny("twice", "train.epochs=2", "train.seed=1")
    assert last != other_seed


def test_a_step_does_not_depend_on_what_drew_random_numbers_before_it(prepared):
    experiment = load_experiment("tiny")
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)
    states = []
    for seed in (1, 2):
        model = build_model(experiment, backbone, manifest.class_names)
        steps = TrainingSteps(experiment, manifest, backbone, model, Processes())
        torch.manual_seed(seed)
        whole_epoch(steps)
        states.append(model.trainable_state())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


def test_loader_workers_change_no_bit_of_the_weights(prepared):
    """Slow: starts two loader processes for training and two for validation, and each imports torch."""
    _, best, last = train_tiny("workers", "data.cache_frames=false", "data.workers=0")
    _, best_two, last_two = train_tiny("workers", "data.cache_frames=false", "data.workers=2")
    assert best == best_two
    assert last == last_two


def test_frozen_and_dead_parameters_stay_and_all_others_move(prepared):
    experiment = load_experiment("tiny")
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)
    model = build_model(experiment, backbone, manifest.class_names)
    before = {name: value.clone() for name, value in model.named_parameters()}
    whole_epoch(TrainingSteps(experiment, manifest, backbone, model, Processes()))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    dead = {f"visual_adapters.3.pre_mlp.difference.{part}.{kind}" for part in ("fc1", "conv", "fc2") for kind in ("weight", "bias")}
    expected = {name for name in before if not name.startswith(("clip.", "mlm_block."))} - dead
    assert moved == expected


def test_parameter_groups_hold_exactly_the_live_parameters(workspace, backbone):
    experiment = load_experiment("tiny", ["model.vision_adapter_layers=1", "model.text_adapter_layers=1"])
    model = build_model(experiment, backbone, ["moving left", "growing"])
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {(group["lr"], group["weight_decay"]): {names[id(p)] for p in group["params"]} for group in groups}
    visual, frame, text = "visual_adapters.3.pre_mlp.enhancement.", "frame_adapter.enhancement.", "text_adapters.2.pre_mlp."
    layers = [f"{adapter}{layer}." for adapter in (visual, frame) for layer in ("fc1", "conv", "fc2")]
    layers += ["classifier.", "mlm_head.dense.", "mlm_head.decoder."]
    assert len(groups) == 4
    assert found == {
        (1e-3, 0.01): {f"{layer}weight" for layer in layers},
        (1e-3, 0.0): {f"{layer}bias" for layer in layers} | {"mlm_head.norm.weight", "mlm_head.norm.bias"},
        (5e-4, 0.01): {f"{text}fc1.weight", f"{text}fc2.weight"},
        (5e-4, 0.0): {f"{text}fc1.bias", f"{text}fc2.bias"},
    }


def test_loss_weights_of_an_override_reach_the_loss(prepared):
    experiment = load_experiment("tiny", ['train.loss_weights={"mlm": 0, "classification": 2}'])
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)
    tally = Tally(torch.zeros(len(TERMS)))
    model = build_model(experiment, backbone, manifest.class_names)
    list(TrainingSteps(experiment, manifest, backbone, model, Processes()).epoch(1, 0, tally))
    means = tally.means()
    assert means["mlm"] > 0
    total = (means["contrastive"] + means["cross_modal"]) / 2 + 2 * means["classification"]
    assert means["total"] == pytest.approx(total, rel=1e-5)


def test_speed_counts_training_time_alone(prepared, monkeypatch):
    """Before, clips/s was training clips over training and validation time: a slow validation halved it."""
    clock = [0.0]

    def one_second_later() -> float:
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr(loop.time, "perf_counter", one_second_later)

    def validate(self, signals):
        clock[0] += 1000.0
        return {f"val_top1_{name}": 50.0 for name in READOUTS}

    monkeypatch.setattr(loop.Training, "_validate", validate)
    lines, experiment = [], load_experiment("tiny")
    result = train(experiment, load_manifest(experiment), "speed", report=lines.append)
    (line,) = [line for line in lines if line.startswith("epoch 1/1")]
    assert "+ 1001.0 s for validation" in line
    seconds = pd.read_csv(result.metrics).seconds[0]
    assert 0 < seconds < 500
    assert f"{24 / seconds:.0f} clips/s" in line


def test_learning_rate_warms_up_linearly_then_falls_as_a_cosine():
    # 20 steps, 10 % warm-up = 2 steps: 1/3, 2/3, peak; half way through the other 18 it is 1/2.
    assert lr_factor(0, 20, 0.1) == pytest.approx(1 / 3)
    assert lr_factor(1, 20, 0.1) == pytest.approx(2 / 3)
    assert lr_factor(2, 20, 0.1) == 1.0
    assert lr_factor(11, 20, 0.1) == pytest.approx(0.5)
    assert lr_factor(8, 20, 0.1) == pytest.approx((1 + math.cos(math.pi / 3)) / 2) == pytest.approx(0.75)
    assert lr_factor(20, 20, 0.1) == pytest.approx(0.0)
    assert lr_factor(0, 20, 0.0) == 1.0


def test_metrics_file_has_one_row_per_epoch_and_adds_up(prepared):
    result, _, _ = train_tiny("metrics", "train.epochs=2")
    table = pd.read_csv(result.metrics)
    assert result.metrics == paths.RESULTS / "metrics" / "metrics.csv"
    columns = "epoch step lr total contrastive cross_modal classification mlm val_top1_similarity val_top1_classifier val_top1_ensemble"
    assert list(table) == [*columns.split(), "clips", "skipped", "seconds"]
    assert table.epoch.tolist() == [1, 2]
    assert table.step.tolist() == [3, 6]  # 24 videos in batches of 8
    assert table.clips.tolist() == [24, 24]
    assert table.skipped.tolist() == [0, 0]
    # 6 steps, 10 % warm-up = 0.6 steps; the last step of an epoch is number 2, then 5.
    assert table.lr.tolist() == pytest.approx([1e-2 * (1 + math.cos(math.pi * (step - 0.6) / 5.4)) / 2 for step in (2, 5)])
    total = (table.contrastive + table.cross_modal) / 2 + table.classification + table.mlm / 10
    assert table.total.tolist() == pytest.approx(total.tolist(), rel=1e-5)
    best = max(zip(table.val_top1_ensemble, table.epoch, strict=True))  # of equal epochs the later one
    assert (result.best_val, result.best_epoch) == best
    side = json.loads(result.best.with_suffix(".json").read_text())["extra"]
    assert (side["epoch"], side["experiment"], side["run"], side["stride"]) == (result.best_epoch, "tiny", "metrics", 0)


def test_best_epoch_is_the_ensembles_on_validation_and_of_equal_ones_the_later(prepared):
    result, _, _ = train_tiny("choice", "train.epochs=6")
    table = pd.read_csv(result.metrics)
    assert (result.best_val, result.best_epoch) == max(zip(table.val_top1_ensemble, table.epoch, strict=True))
    assert json.loads(result.best.with_suffix(".json").read_text())["extra"]["epoch"] == result.best_epoch


def test_last_checkpoint_is_the_last_epochs_and_holds_trainable_tensors_only(prepared):
    result, _, _ = train_tiny("last", "train.epochs=2")
    assert json.loads(result.last.with_suffix(".json").read_text())["extra"]["epoch"] == 2
    assert not [name for name in load_file(result.last) if name.startswith(("clip.", "mlm_block."))]


def test_a_video_that_broke_since_prepare_is_skipped_and_counted(prepared):
    manifest = load_manifest(load_experiment("tiny"))
    table = manifest.table.copy()
    table.loc[table.index[table.split == "train"][0], "path"] = str(prepared / "gone.mp4")
    broken = Manifest(table, manifest.class_names, manifest.folder, manifest.sha256)
    experiment, lines = load_experiment("tiny", ["data.cache_frames=false", "train.epochs=2"]), []
    result = train(experiment, broken, "broken", report=lines.append)
    metrics = pd.read_csv(result.metrics)
    assert metrics.clips.tolist() == [23, 23]
    assert metrics.skipped.tolist() == [1, 1]
    skipped = pd.read_csv(result.metrics.parent / "tables" / "skipped.csv")
    assert [Path(path).name for path in skipped.path] == ["gone.mp4"]
    reported = [line for line in lines if line.startswith("skipped: ")]  # once, not every epoch
    assert reported[0] == f"skipped: {skipped.path[0]}: {skipped.reason[0]}"
    assert len(reported) == 2
    train(experiment, manifest, "broken", report=quiet)  # a run that starts over forgets it
    assert not (result.metrics.parent / "tables" / "skipped.csv").exists()


def test_training_reads_no_test_video(prepared):
    manifest = load_manifest(load_experiment("tiny"))
    without = Manifest(manifest.table[manifest.table.split != "test"], manifest.class_names, manifest.folder, manifest.sha256)
    _, best, _ = train_tiny("unseen")
    _, best_without, _ = train_tiny("unseen", manifest=without)
    assert best == best_without


def test_a_loss_that_is_not_finite_ends_the_run_with_its_name(prepared):
    with pytest.raises(UserError, match=r"loss .*classification.* is not finite at epoch 1, step \d+; lower train.lr"):
        train_tiny("diverged", "train.lr=1e30", "train.clip_grad_norm=0")


def test_a_crop_larger_than_the_resized_frame_is_refused(prepared):
    with pytest.raises(UserError, match=r"data.short_side \[32, 40\]: below the backbone's input of 64 px"):
        train_tiny("crop", "data.cache_frames=false", "data.short_side=[32, 40]")


def test_missing_manifest_names_the_command_that_makes_it(workspace):
    with pytest.raises(UserError, match=r"manifest: none at .*; make it with: m2clip prepare tiny"):
        load_manifest(load_experiment("tiny"))


def without_validation() -> Manifest:
    manifest = load_manifest(load_experiment("tiny"))
    return Manifest(manifest.table[manifest.table.split != "val"], manifest.class_names, manifest.folder, manifest.sha256)


def test_without_validation_the_last_epoch_is_the_best_and_the_log_says_so(prepared):
    lines: list[str] = []
    result = train(load_experiment("tiny", ["train.epochs=2"]), without_validation(), "no_validation", report=lines.append)
    assert result.best_epoch == 2
    assert math.isnan(result.best_val)
    assert "no validation: the last epoch is the best" in lines[0]
    assert load_file(result.best).keys() == load_file(result.last).keys()
    assert all(torch.equal(value, load_file(result.last)[name]) for name, value in load_file(result.best).items())
    assert pd.read_csv(result.metrics).val_top1_ensemble.isna().all()


def test_only_validated_epochs_can_be_the_best(prepared):
    """Of three epochs the second and, as the last, the third are validated."""
    lines: list[str] = []
    experiment = load_experiment("tiny", ["train.epochs=3", "train.validate_every=2"])
    result = train(experiment, load_manifest(experiment), "every_second", report=lines.append)
    measured = pd.read_csv(result.metrics).val_top1_ensemble
    assert measured.isna().tolist() == [True, False, False]
    assert result.best_epoch == int(measured[::-1].idxmax()) + 1  # of equals, the latest
    assert [("not validated" in line, "val top-1" in line) for line in lines if line.startswith("epoch")] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_mirror_of_left_and_right_is_refused_when_training_starts(prepared):
    with pytest.raises(UserError, match="'moving left' and 'moving right'"):
        train_tiny("mirror", "data.mirror=true")
    train_tiny("mirror", "data.mirror=force")


def test_several_prompts_train_and_one_as_a_list_changes_no_bit(prepared):
    manifest = load_manifest(load_experiment("tiny"))
    single = train_tiny("one_prompt", manifest=manifest)[0]
    listed = train_tiny("one_listed", 'data.prompt=["A video of {}"]', manifest=manifest)[0]
    several = train_tiny("several", 'data.prompt=["A video of {}", "{} on film"]', manifest=manifest)[0]
    again = train_tiny("again", 'data.prompt=["A video of {}", "{} on film"]', manifest=manifest)[0]
    one, same, other, repeated = (load_file(result.last) for result in (single, listed, several, again))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert all(torch.equal(value, repeated[name]) for name, value in other.items())
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
