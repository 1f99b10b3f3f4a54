"""A training that is killed, stopped or meets a damaged file ends with the same result; a taken run name is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import forked
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from workspaces import prepared_workspace

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.train import loop as engine
from m2clip_lib.train.record import EpochMetrics
from m2clip_lib.train.resume import STATUS, Progress, Stopped, check_name, identity, load_state, save_state, state_files

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("train")
SETTINGS = ("train.epochs=3", "train.save_minutes=0")  # 3 updates per epoch, saved after each


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    yield from prepared_workspace(tmp_path_factory.mktemp("resume"), clip_file, video_folder)


@pytest.fixture(scope="module")
def whole(prepared):
    """The outcome of the same training without any disturbance."""
    train_tiny("whole")
    return outcome("whole")


def train_tiny(run: str, *overrides: str, resume: str = "auto", lines: list[str] | None = None):
    experiment = load_experiment("tiny", (*SETTINGS, *overrides))
    report = (lambda line: None) if lines is None else lines.append
    return engine.train(experiment, load_manifest(experiment), run, report=report, resume=resume)


def outcome(run: str) -> dict:
    """The files of a training, without times and the run's own name."""
    folder = paths.CHECKPOINTS / run
    metrics = pd.read_csv(paths.RESULTS / run / "metrics.csv").drop(columns="seconds")
    weights = {f"{file} {name}": value for file in ("last", "best") for name, value in load_file(folder / f"{file}.safetensors").items()}
    return {"weights": weights, "metrics": metrics, "files": sorted(path.name for path in folder.iterdir())}


def assert_equal(found: dict, expected: dict) -> None:
    assert found["files"] == expected["files"]
    pd.testing.assert_frame_equal(found["metrics"], expected["metrics"], check_exact=True)
    assert found["weights"].keys() == expected["weights"].keys()
    assert [name for name, value in found["weights"].items() if not torch.equal(value, expected["weights"][name])] == []


def start(folder: Path, run: str) -> ForkServerProcess:
    """Start a training in a process of its own; its output is in the folder."""
    options = [word for setting in SETTINGS for word in ("-o", setting)]
    return forked.start("-m", "m2clip_lib", "train", "tiny", "--run", run, *options, cwd=ROOT, log=folder)


def status(process: ForkServerProcess) -> int:
    """Wait for the end of a training."""
    process.join()
    return process.exitcode


def wait_until(process: ForkServerProcess, happened) -> bool:
    """Whether something happened before the process ended."""
    while not happened():
        process.join(0.002)
        if process.exitcode is not None:
            return False
    return True


def kill_often(prepared, run: str, kills: int, rng: random.Random) -> int:
    """Kill and start again until `kills` have hit; every third in the middle of a save. Returns how many left a half-written file."""
    folder, in_save = paths.CHECKPOINTS / run, 0
    while kills:
        process = start(prepared, run)
        if kills % 3 == 0:
            hit = wait_until(process, lambda: any(folder.glob(".*.tmp")))
        else:
            until = time.monotonic() + rng.uniform(0.1, 1.5)
            hit = wait_until(process, lambda until=until: time.monotonic() > until)
        if not hit:  # the training ended before the kill: start over
            assert status(process) == 0
            for path in folder.iterdir():
                path.unlink()
            continue
        process.kill()
        assert status(process) == -signal.SIGKILL
        kills -= 1
        in_save += any(folder.glob(".*.tmp"))
    return in_save


def test_three_kills_one_in_a_save_change_no_bit(prepared, whole):
    """Four trainings of 9 updates."""
    kill_often(prepared, "killed", 3, random.Random(0))
    assert status(start(prepared, "killed")) == 0
    assert_equal(outcome("killed"), whole)


@pytest.mark.slow_kills
def test_twenty_kills_at_random_times_change_no_bit(prepared, whole):
    """`make test-kills`: a minute or two."""
    assert kill_often(prepared, "twenty", 20, random.Random(1)) >= 1
    assert status(start(prepared, "twenty")) == 0
    assert_equal(outcome("twenty"), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_with_a_status_of_its_own(prepared, whole, number):
    run = f"signal{int(number)}"
    process = start(prepared, run)
    assert wait_until(process, lambda: state_files(paths.CHECKPOINTS / run))
    os.kill(process.pid, number)
    assert status(process) == STATUS
    assert status(start(prepared, run)) == 0
    assert_equal(outcome(run), whole)


def test_a_stop_in_the_middle_of_an_epoch_continues_with_the_next_batch(prepared, whole, monkeypatch):
    lines = []
    stop_after(monkeypatch, 5)
    with pytest.raises(Stopped, match="stopped at epoch 2, update 2; state saved: the same command continues"):
        train_tiny("stopped")
    monkeypatch.undo()
    train_tiny("stopped", lines=lines)
    assert "resume: continuing run 'stopped' at epoch 2, update 2 of 3" in lines
    assert_equal(outcome("stopped"), whole)


def stop_after(monkeypatch, updates: int) -> None:
    """Send a signal during this update."""
    update = engine.TrainingSteps.update

    def update_and_stop(self, parts, epoch, step, tally=None):
        if step == updates - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, parts, epoch, step, tally)

    monkeypatch.setattr(engine.TrainingSteps, "update", update_and_stop)


def test_a_signal_during_validation_is_heard_at_once_and_loses_nothing(prepared, whole, monkeypatch):
    predict, calls = engine.predict, []

    def signalled(*arguments, **more):
        calls.append("here")
        os.kill(os.getpid(), signal.SIGTERM)
        calls.append("never reached")
        return predict(*arguments, **more)

    monkeypatch.setattr(engine, "predict", signalled)
    with pytest.raises(Stopped, match="epoch 1, update 3"):
        train_tiny("validating")
    assert calls == ["here"]
    monkeypatch.undo()
    train_tiny("validating")
    assert_equal(outcome("validating"), whole)


def stop_in_the_second_epoch(monkeypatch, run: str) -> None:
    """Leaves the states of updates 4 and 5."""
    stop_after(monkeypatch, 5)
    with pytest.raises(Stopped):
        train_tiny(run)
    monkeypatch.undo()


def test_a_damaged_newest_state_is_reported_and_the_previous_one_is_used(prepared, whole, monkeypatch):
    stop_in_the_second_epoch(monkeypatch, "damaged")
    newest, before = state_files(paths.CHECKPOINTS / "damaged")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    lines = []
    train_tiny("damaged", lines=lines)
    reported = [line for line in lines if "is damaged" in line]
    assert len(reported) == 1
    assert newest.name in reported[0]
    assert before.name == "state-000000004.safetensors"
    assert_equal(outcome("damaged"), whole)


def test_a_flipped_byte_in_the_header_is_damage_and_not_another_training(prepared, whole, monkeypatch):
    """The name of a setting changes: only the seal shows that this is not another training's state."""
    stop_in_the_second_epoch(monkeypatch, "header")
    newest, _ = state_files(paths.CHECKPOINTS / "header")
    newest.write_bytes(newest.read_bytes().replace(b"train.epochs", b"train.epodhs", 1))
    lines = []
    train_tiny("header", lines=lines)
    assert sum("is damaged" in line for line in lines) == 1
    assert_equal(outcome("header"), whole)


def test_loader_processes_that_a_signal_to_the_group_has_ended_lose_nothing(prepared, whole, monkeypatch):
    """As `timeout` and many schedulers send it: the loader's processes die while this one waits for them."""
    make = engine.TrainingSteps.__init__

    def with_dying_loader(self, *arguments):
        make(self, *arguments)
        loader = self.loader

        class Dying:
            def __iter__(inner):  # noqa: N805
                for number, batch in enumerate(loader):
                    if self.sampler.epoch == 2 and number == 1:
                        os.kill(os.getpid(), signal.SIGTERM)
                        raise RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly")
                    yield batch

        self.loader = Dying()

    monkeypatch.setattr(engine.TrainingSteps, "__init__", with_dying_loader)
    with pytest.raises(Stopped, match="stopped at epoch 2, update 1; state saved"):
        train_tiny("group", "train.save_minutes=10")
    monkeypatch.undo()
    train_tiny("group", "train.save_minutes=10")
    assert_equal(outcome("group"), whole)


def test_a_finished_run_whose_weights_are_gone_is_not_called_done(prepared):
    first = train_tiny("gone", "train.epochs=1")
    first.best.unlink()
    with pytest.raises(UserError, match=r"'gone' is finished, but .*best.safetensors is gone; train it again with --resume never"):
        train_tiny("gone", "train.epochs=1")


def test_states_that_are_all_damaged_are_an_error_that_says_what_to_do(prepared, tmp_path):
    for step in (1, 2):
        save_state(tmp_path, step, {"a": torch.ones(2)}, Progress({}, ""))
    for path in state_files(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"every state in .* is damaged; start over with --resume never"):
        load_state(tmp_path, lambda line: None)


def test_the_last_two_states_are_kept_and_load_unchanged(tmp_path):
    row = EpochMetrics(1, 6, 0.1, *[1 / 3] * 5, 24, 0, 1.5, *[1 / 3] * 6)
    for step in (1, 2, 30):
        progress = Progress({"train.epochs": 3}, "code", epoch=2, updates=step, best=(50.0, 1), rows=[row], tally={"clips": 4})
        save_state(tmp_path, step, {"a": torch.full((2,), float(step))}, progress)
    assert [path.name for path in state_files(tmp_path)] == ["state-000000030.safetensors", "state-000000002.safetensors"]
    found, tensors = load_state(tmp_path, lambda line: None)
    assert found == progress
    assert tensors["a"].tolist() == [30.0, 30.0]
    assert load_state(tmp_path / "none", lambda line: None) is None


def test_a_finished_run_is_left_alone_and_never_starts_over(prepared):
    first = train_tiny("finished", "train.epochs=1")
    changed = first.last.stat().st_mtime_ns
    lines = []
    again = train_tiny("finished", "train.epochs=1", "data.decoder=pyav", "train.threads=2", lines=lines)
    assert any("'finished' is finished (1 epochs): nothing to do" in line for line in lines)
    assert again == first
    assert first.last.stat().st_mtime_ns == changed
    train_tiny("finished", "train.epochs=1", resume="never")
    assert first.last.stat().st_mtime_ns > changed


def test_a_name_taken_by_other_settings_is_refused_with_the_fields(prepared):
    train_tiny("taken", "train.epochs=1")
    with pytest.raises(UserError, match=r"--run taken: .*train.epochs = 2 \(there: 1\), train.seed = 5 \(there: 0\); choose another"):
        train_tiny("taken", "train.epochs=2", "train.seed=5")
    with pytest.raises(UserError, match=r"clips an update = 16 \(there: 8\)"):
        train_tiny("taken", "train.epochs=1", "train.accumulate=2")
    free = ("data.file_timeout_s=5", "eval.checkpoint=last", "data.workers=1")  # change no result; the first was refused before
    train_tiny("taken", "train.epochs=1", *free)
    train_tiny("taken", "train.epochs=2", resume="replace")  # the notebook's way: re-run with changed parameters
    assert len(pd.read_csv(paths.RESULTS / "taken" / "metrics.csv")) == 2


def test_a_state_of_a_version_without_a_field_counts_as_trained_with_its_default(prepared, tmp_path):
    wanted = identity(load_experiment("tiny"), {}, 1)
    older = {name: value for name, value in wanted.items() if name != "train.loss_weights"}
    save_state(tmp_path, 1, {}, Progress(older, ""))
    assert check_name(tmp_path, "older", wanted).identity == older
    changed = identity(load_experiment("tiny", ['train.loss_weights={"mlm": 0}']), {}, 1)
    with pytest.raises(UserError, match=r"train\.loss_weights = .*'mlm': 0\.0} \(there: .*'mlm': 0\.1}\)"):
        check_name(tmp_path, "older", changed)


def test_replacing_continues_what_was_interrupted_unless_the_code_has_changed(prepared, whole, monkeypatch):
    for code, continued in (("", True), ("other", False)):
        stop_after(monkeypatch, 5)
        with pytest.raises(Stopped):
            train_tiny("replaced", resume="replace")
        monkeypatch.undo()
        if code:
            monkeypatch.setattr(engine, "code_digest", lambda core: "other")
        lines = []
        train_tiny("replaced", resume="replace", lines=lines)
        monkeypatch.undo()
        assert any("continuing run" in line for line in lines) == continued
        assert_equal(outcome("replaced"), whole)


def test_what_a_killed_process_left_half_written_is_removed(prepared, whole):
    folder = paths.CHECKPOINTS / "litter"
    folder.mkdir(parents=True)
    (folder / ".state-000000001.safetensors.77.tmp").write_bytes(b"half")
    train_tiny("litter")
    assert_equal(outcome("litter"), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_is_reported_and_the_previous_state_stays_intact(tmp_path):
    """A real file system of 256 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        save_state(disk, 1, {"a": torch.ones(1000)}, Progress({}, "first"))
        with pytest.raises(UserError, match=r"state-000000002.safetensors: the disk is full; .*M2CLIP_CHECKPOINTS"):
            save_state(disk, 2, {"a": torch.ones(100_000)}, Progress({}, "second"))
        assert [path.name for path in disk.iterdir()] == ["state-000000001.safetensors"]
        assert load_state(disk, lambda line: None)[0].code == "first"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_on_a_full_disk_ends_with_one_line_and_continues_later(prepared, whole, monkeypatch):
    write, writes = Path.write_bytes, []

    def full(self, content):
        writes.append(self)
        if len(writes) > 4:
            write(self, content[:100])
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="the disk is full"):
        train_tiny("full")
    monkeypatch.undo()
    assert not list((paths.CHECKPOINTS / "full").glob(".*"))
    train_tiny("full")
    assert_equal(outcome("full"), whole)


def test_nan_in_a_batch_names_term_and_videos_and_leaves_the_state_before_it(prepared, monkeypatch):
    convert, calls = engine.__dict__["TrainingSteps"]._video, []

    def poisoned(self, part):
        calls.append(part)
        video = convert(self, part)
        return video * float("nan") if len(calls) == 5 else video

    monkeypatch.setattr(engine.TrainingSteps, "_video", poisoned)
    with pytest.raises(UserError, match=r"loss .*contrastive.* is not finite at epoch 2, step 4; .*videos of this update: .*\.mp4"):
        train_tiny("nan")
    folder = paths.CHECKPOINTS / "nan"
    assert [path.name for path in state_files(folder)] == ["state-000000004.safetensors", "state-000000003.safetensors"]
    for path in folder.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values() if value.is_floating_point())
    assert json.loads((folder / "last.json").read_text())["extra"]["epoch"] == 1
