"""Training on videos with several labels, and on classes of uneven size."""

from collections import Counter

import numpy as np
import pytest
import torch
from workspaces import use_workspace

from m2clip_lib.config import load_experiment
from m2clip_lib.data.dataset import Batch, EpochSampler, clip_weights
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.evaluate.metrics import READOUTS
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import build_model, open_backbone
from m2clip_lib.train.loop import train
from m2clip_lib.train.step import TrainingSteps

TWO = ("data.two_shapes=true", "data.prepared=two")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    """A workspace of this module: "tiny", and the same with two shapes in every video."""
    patch = pytest.MonkeyPatch()
    use_workspace(tmp_path_factory.mktemp("several"), patch, clip_file, video_folder)
    prepare_data(load_experiment("tiny", TWO), report=lambda line: None)
    yield
    patch.undo()


def train_two(run: str, *overrides: str):
    """Returns: the result, the lines reported, and the last checkpoint's bytes."""
    experiment, lines = load_experiment("tiny", [*TWO, *overrides]), []
    result = train(experiment, load_manifest(experiment), run, report=lines.append)
    return result, lines, result.last.read_bytes()


def steps_of(*overrides: str) -> TrainingSteps:
    experiment = load_experiment("tiny", [*TWO, *overrides])
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)
    model = build_model(experiment, backbone, manifest.class_names, manifest.several_labels)
    return TrainingSteps(experiment, manifest, backbone, model, Processes())


def test_weights_of_clips_by_hand():
    one_each = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], bool)  # 4 clips / (2 classes x 3 or 1 clips)
    assert clip_weights(one_each) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    several = np.array([[1, 1, 0], [1, 0, 0]], bool)  # 1/2 and 1: means 3/4 and 1/2, of mean 5/8; nobody has the last class
    assert clip_weights(several) == pytest.approx([6 / 5, 4 / 5])


def test_an_epoch_of_chances_draws_rare_rows_more_often_and_is_the_same_wherever_it_starts():
    sampler = EpochSampler(100, seed=3, batch_size=10)
    sampler.rows, sampler.chances = np.arange(100, 200), np.where(np.arange(100) < 10, 0.05, 0.5 / 90)
    epochs = []
    for epoch in range(1, 21):
        sampler.epoch = epoch
        epochs.append([row for batch in sampler for _, row in batch])
    drawn = Counter(np.concatenate(epochs).tolist())
    assert set(map(len, epochs)) == {100}
    assert min(drawn) >= 100
    assert 0.45 < sum(drawn[row] for row in range(100, 110)) / 2000 < 0.55  # ten rows in a hundred, half of the draws
    assert epochs[0] != epochs[1]
    sampler.epoch, sampler.start = 20, 4
    assert [row for batch in sampler for _, row in batch] == epochs[-1][40:]


def test_a_caption_names_one_of_the_labels_drawn_by_seed_epoch_and_row(prepared):
    steps, rows = steps_of(), list(range(24))
    batch = Batch(torch.zeros(24, 4, 3, 64, 64, dtype=torch.uint8), torch.zeros(24, dtype=torch.int64), rows, [], Counter())
    drawn = {(epoch, again): steps.prepare(batch, epoch, 0).batch.labels for epoch in (1, 2) for again in (0, 1)}
    assert all(steps.targets[rows, labels].all() for labels in drawn.values())
    assert drawn[1, 0].equal(drawn[1, 1])
    assert not drawn[1, 0].equal(drawn[2, 0])
    assert set(torch.cat([drawn[1, 0], drawn[2, 0]]).tolist()) == set(range(6))
    assert steps_of("train.seed=1").prepare(batch, 1, 0).batch.labels.tolist() != drawn[1, 0].tolist()


def test_a_training_with_two_labels_validates_by_map_and_repeats_to_the_bit(prepared):
    result, lines, last = train_two("two")
    assert result.measure == "mean_ap"
    assert list(result.outcome) == ["best_epoch", "best_val_mean_ap", "seconds"]
    header = result.metrics.read_text().splitlines()[0].split(",")
    assert [name for name in header if name.startswith("val_")] == [f"val_mean_ap_{name}" for name in READOUTS]
    assert any("val mAP" in line for line in lines)
    assert train_two("two")[2] == last


def test_accumulated_steps_with_gathered_negatives_give_the_large_batch_with_two_labels(prepared):
    common = ("train.gather_negatives=true", "train.clip_grad_norm=0.0", "train.balance=weights", "model.dropout=0.0")
    whole = train_two("whole", *common, "train.batch_size=8", "train.lr=1e-3")[0]
    parts = train_two("parts", *common, "train.batch_size=4", "train.accumulate=2", "train.lr=5e-4")[0]
    one, other = (np.loadtxt(result.metrics, delimiter=",", skiprows=1)[3:8] for result in (whole, parts))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balance_changes_the_training_and_repeats_to_the_bit(prepared, balance):
    plain, first, again = (train_two("balanced", *changes)[2] for changes in ([], *[[f"train.balance={balance}"]] * 2))
    assert first == again
    assert first != plain
