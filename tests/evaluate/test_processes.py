"""Several processes: the same update, the same predictions, every video once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from workspaces import prepared_workspace

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.dataset import EpochSampler, in_order
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.train.loop import train

pytestmark = pytest.mark.xdist_group("train")
# 4 updates per epoch, 20 in all. At the demonstration's rate of 1e-2 AdamW amplifies the rounding of its smallest gradients to 1e-4.
ONE = ("train.epochs=5", "train.batch_size=6", "train.lr=1e-3", "train.gather_negatives=true", "model.dropout=0.0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    yield from prepared_workspace(tmp_path_factory.mktemp("processes"), clip_file, video_folder)


@pytest.fixture(scope="module")
def alone(prepared):
    """The training in one process."""
    return train_tiny("alone", *ONE)


def train_tiny(run: str, *overrides: str) -> dict:
    experiment = load_experiment("tiny", overrides)
    train(experiment, load_manifest(experiment), run, report=lambda line: None)
    return outcome(run)


def outcome(run: str) -> dict:
    metrics = pd.read_csv(paths.RESULTS / run / "metrics.csv")
    return {"weights": load_file(paths.CHECKPOINTS / run / "last.safetensors"), "metrics": metrics}


def assert_close(found: dict, expected: dict) -> None:
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, atol=1e-5, rtol=0, msg=name)
    measured = ["epoch", "step", "lr", "total", "contrastive", "cross_modal", "classification", "mlm", "clips", "skipped"]
    np.testing.assert_allclose(found["metrics"][measured], expected["metrics"][measured], rtol=1e-4)


def launch(*arguments: str) -> str:
    """Run a launcher's command line; returns what it printed."""
    module, *rest = arguments
    done = subprocess.run([sys.executable, "-m", module, *rest], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork(processes: int, port: str, log: Path, *arguments: str) -> None:
    """Start one training in several processes as torchrun would, without its imports."""
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = [forked.start("train.py", *arguments, cwd=paths.ROOT, log=log, environment=own) for own in ranks]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * processes, (log / "err.txt").read_text()


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def options(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("-o", override)]


@pytest.mark.parametrize("way", ["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_give_the_weights_of_one_after_twenty_updates(alone, tmp_path, way):
    """The same clips per update, negatives gathered, masked words counted over both, dropout 0."""
    training = ["tiny", "--run", "two", *options(*ONE, "train.batch_size=3", "train.lr=5e-4")]
    if way == "torchrun":
        printed = launch("torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), "--", "train.py", *training)
    else:
        fork(2, free_port(), tmp_path, *training)
        printed = (tmp_path / "out.txt").read_text()
    assert "3 clips x 1 steps x 2 processes; effective lr 0.0005 x 1 x 2 = 0.001" in printed
    assert printed.count("epoch 5/5") == 1  # one process reports
    assert alone["metrics"].step.iloc[-1] == 20
    assert_close(outcome("two"), alone)


@pytest.mark.slow
def test_three_processes_share_uneven_batches(prepared, tmp_path):
    """Of 24 videos in updates of 3 x 3 the last takes 6: two clips per process; 12 validation videos, each once."""
    settings = [*ONE, "train.epochs=1", "eval.batch_size=2"]
    fork(3, free_port(), tmp_path, "tiny", "--run", "three", *options(*settings, "train.batch_size=3"))
    assert_close(outcome("three"), train_tiny("one_of_three", *settings, "train.batch_size=9", "train.lr=3e-3"))


@pytest.mark.slow
def test_accelerate_launches_it_too(prepared):
    """One process: without a GPU accelerate starts several through MPI only."""
    command = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch("accelerate.commands.launch", *command, "train.py", "tiny", "--run", "launched", *options("train.threads=1"))
    found, expected = outcome("launched")["weights"], train_tiny("by_hand")["weights"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_accumulated_steps_with_gathered_negatives_give_the_large_batch(alone):
    assert_close(train_tiny("accumulated", *ONE, "train.batch_size=2", "train.accumulate=3", f"train.lr={1e-3 / 3}"), alone)


def test_accumulated_steps_without_gathering_differ_in_the_contrastive_term_alone(prepared):
    common = ("train.epochs=1", "model.dropout=0.0", "train.lr=1e-12")  # the weights stand still: the terms can be compared
    whole = train_tiny("large", *common, "train.batch_size=8")["metrics"].iloc[0]
    parts = train_tiny("parts", *common, "train.batch_size=4", "train.accumulate=2")["metrics"].iloc[0]
    for term in ("cross_modal", "classification", "mlm"):
        assert parts[term] == pytest.approx(whole[term], rel=1e-5), term
    assert parts.contrastive < 0.9 * whole.contrastive  # fewer negatives to tell apart


def test_a_lone_process_with_a_larger_world_size_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but this process runs alone"):
        Processes()


# --- the rows of each process ---

counts = st.integers(1, 5)


@given(rows=st.integers(0, 60), batch_size=st.integers(1, 7), processes=counts)
def test_every_row_of_an_evaluation_falls_to_one_process_once(rows, batch_size, processes):
    dealt = [in_order(rows, batch_size, rank, processes) for rank in range(processes)]
    assert sorted(row for batches in dealt for batch in batches for row in batch) == list(range(rows))
    alone = in_order(rows, batch_size)
    assert sorted(batch for batches in dealt for batch in batches) == alone  # the very batches of one process: the same bits


@given(rows=st.integers(1, 60), batch_size=counts, accumulate=counts, processes=counts, start=st.integers(0, 3))
def test_an_update_is_the_same_clips_however_it_is_divided(rows, batch_size, accumulate, processes, start):
    size = batch_size * accumulate * processes

    def updates(*division: int) -> list[set[tuple[int, int]]]:
        samplers = [EpochSampler(rows, 7, *division[:2], rank, division[2]) for rank in range(division[2])]
        for sampler in samplers:
            sampler.epoch, sampler.start = 3, min(start, sampler.updates)
        batches = [list(sampler) for sampler in samplers]
        assert {len(of_one) for of_one in batches} == {len(samplers[0])}
        assert all(len(batch) <= division[0] for of_one in batches for batch in of_one)
        of_update = [
            [key for of_one in batches for batch in of_one[i : i + division[1]] for key in batch]
            for i in range(0, len(samplers[0]), division[1])
        ]
        assert all(len(keys) == len(set(keys)) for keys in of_update)
        return [set(keys) for keys in of_update]

    assert updates(batch_size, accumulate, processes) == updates(size, 1, 1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("videos", [1, 4, 7, 12])
def test_predictions_do_not_depend_on_the_number_of_processes(prepared, count, videos):
    """The processes take turns here; what they exchange is collected in a list."""
    from m2clip_lib.data.manifest import Manifest
    from m2clip_lib.evaluate.scoring import predict
    from m2clip_lib.experiment import build_model, open_backbone

    experiment = load_experiment("tiny", ["data.cache_frames=false"])
    manifest = load_manifest(experiment)
    table = manifest.table[manifest.table.split == "val"].head(videos)
    few = Manifest(table, manifest.class_names, manifest.folder, manifest.sha256)
    backbone = open_backbone(experiment)
    model = build_model(experiment, backbone, manifest.class_names)
    views = evaluation_views(experiment, few, backbone, Protocol.of_experiment(experiment, split="val"))
    expected = predict(model, views, 2, 0)
    shared: list = []

    class Turn:
        """One of `count` processes; gather returns what those before it have given."""

        def __init__(self, rank: int):
            self.rank, self.count = rank, count

        def gather(self, value):
            shared.append(value)
            return shared

    for rank in range(count):
        try:
            found = predict(model, views, 2, 0, processes=Turn(rank))
        except UserError:  # the first of them may have had no video
            continue
    assert found.rows == expected.rows == list(range(videos))
    assert np.array_equal(found.similarity, expected.similarity)
    assert np.array_equal(found.classifier, expected.classifier)
    assert np.array_equal(found.labels, expected.labels)
    assert os.environ.get("WORLD_SIZE") is None


def test_two_processes_share_the_parts_of_features(prepared, tmp_path, monkeypatch):
    """The command line of m2clip features, started twice as torchrun does; each encodes its parts, the main one reads all."""
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = ("-m", "m2clip_lib", "features", "tiny", "--split", "train,val")
    ranks = [world | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    started = [forked.start(*command, cwd=paths.ROOT, log=tmp_path, environment=own) for own in ranks]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0], (tmp_path / "err.txt").read_text()
    out = (tmp_path / "out.txt").read_text()
    assert out.count("features: split train: 24 videos, 0 could not be read") == 1
    assert out.count("features: split val: 12 videos, 0 could not be read") == 1
