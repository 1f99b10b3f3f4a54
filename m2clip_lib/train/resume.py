"""The state a training continues from: written now and then, sealed, the last two kept; and whether a run's name is free."""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from m2clip_lib.config import Experiment
from m2clip_lib.errors import UserError
from m2clip_lib.files import DamagedFile, check_seal, open_sealed, seal, write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.train.record import EpochMetrics

Resume = Literal["auto", "never", "replace"]
KEPT = 2
# Fields that may differ when a run goes on: what they say of the inputs stands in their digests, the others change no result.
FREE = {
    "backbone": {"source", "model_name", "trust_torchscript"},
    "data": {"layout", "root", "prepared", "train_list", "val_list", "test_list", "names_file", "decoder", "cache_frames", "workers"},
    "train": {"batch_size", "accumulate", "lr", "threads", "save_minutes", "compile", "activation_checkpointing"},
    "eval": {"split", "batch_size", "backwards", "ablation_seeds"},
}


@dataclass
class Progress:
    """How far a training is. epoch: the one under way, from 1; updates: of it, done. best: validation top-1 (percent) and its epoch.

    identity: what decides the result (see `identity`); code: digest of the library; tally, scaler: of the epoch under way.
    seconds: spent so far, all sessions together.
    """

    identity: dict[str, object]
    code: str
    epoch: int = 1
    updates: int = 0
    best: tuple[float, int] = (-1.0, 0)
    rows: list[EpochMetrics] = field(default_factory=list)
    tally: dict[str, float] = field(default_factory=dict)
    scaler: dict = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False


def identity(experiment: Experiment, inputs: dict[str, str], processes: int) -> dict[str, object]:
    """What must be the same for a run to go on, by name. inputs: digests of manifest, labels, backbone."""
    train = experiment.train
    free = FREE | {"name": True}
    sections = experiment.model_dump(mode="json", exclude=free)
    fields = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    fields["clips an update"] = train.batch_size * train.accumulate * processes
    fields["peak lr of an update"] = train.lr * train.accumulate * processes
    if not train.gather_negatives:
        fields["train.batch_size (the contrastive negatives)"] = train.batch_size
    return fields | inputs


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Write state-<step>.safetensors, then drop all but the last KEPT. Raises: UserError when the disk is full (the old ones stay)."""
    content = seal(tensors, {"progress": json.dumps(asdict(progress))})
    path = folder / f"state-{step:09d}.safetensors"
    write_atomically(path, lambda file: file.write_bytes(content))
    for old in state_files(folder)[KEPT:]:
        old.unlink()


def finish(folder: Path, step: int, progress: Progress) -> None:
    """Leave a note that the training is complete in place of its states: last.safetensors has the weights."""
    for old in state_files(folder):
        if old.name != f"state-{step:09d}.safetensors":
            old.unlink()
    save_state(folder, step, {}, progress)


def state_files(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def clear(folder: Path, states: bool) -> None:
    """Remove what a killed process left half written, and with `states` all states too."""
    for path in [*folder.glob(".*.tmp"), *(state_files(folder) if states else [])]:
        path.unlink(missing_ok=True)


def load_state(folder: Path, report: Callable[[str], None]) -> tuple[Progress, dict[str, Tensor]] | None:
    """The newest whole state; a damaged one is told, removed, and the one before taken. None where there is no file at all.

    Raises: UserError when there are files and all are damaged.
    """
    files = state_files(folder)
    for path in files:
        try:
            tensors, _ = open_sealed(path)
            return _progress(path), tensors
        except DamagedFile as damage:
            report(f"resume: {path} is damaged ({damage}); taking the state before it")
            path.unlink()
    if files:
        raise UserError(f"resume: every state in {folder} is damaged; start over with --resume never")
    return None


def check_name(folder: Path, run: str, wanted: dict[str, object]) -> Progress | None:
    """Where a run of this name stands, without reading its tensors; None where it has not begun.

    Raises: UserError naming the differing fields when the name is taken by another training.
    """
    for path in state_files(folder):
        try:
            check_seal(path.read_bytes())  # a damaged header is not another training
            progress = _progress(path)
        except DamagedFile:
            continue  # load_state tells
        differing = [name for name, value in wanted.items() if name not in progress.identity or progress.identity[name] != value]
        if differing:
            told = ", ".join(f"{name} = {wanted.get(name)} (there: {progress.identity.get(name)})" for name in differing)
            raise UserError(
                f"--run {run}: the name is taken by a training with other settings: {told}; choose another --run, or --resume never"
            )
        return progress
    return None


def find_state(
    folder: Path, run: str, wanted: Progress, resume: Resume, report: Callable[[str], None]
) -> tuple[Progress, dict[str, Tensor]] | None:
    """The state that a run goes on from; None where it begins anew. resume: see train.

    wanted: what is to be trained, not begun. Raises: UserError for a name taken by another training, or files that are gone or damaged.
    """
    clear(folder, states=resume == "never")
    if resume == "replace":
        try:
            found = check_name(folder, run, wanted.identity)
            usable = found is not None and not found.finished and found.code == wanted.code
        except UserError:
            usable = False
        if not usable:
            clear(folder, states=True)
        return load_state(folder, report)
    found = check_name(folder, run, wanted.identity)
    if found is not None and found.finished:
        for file in (folder / "best.safetensors", folder / "last.safetensors"):
            if not file.is_file():
                raise UserError(f"run {run!r} is finished, but {file} is gone; train it again with --resume never")
        report(
            f"run {run!r} is finished ({len(found.rows)} epochs): nothing to do; train it again with --resume never, or "
            "choose another --run"
        )
    elif found is not None and found.code != wanted.code:
        report("resume: the library's code has changed since this run began: its result will be a mixture")
    return load_state(folder, report)


def _progress(path: Path) -> Progress:
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["progress"])
        values["rows"] = [EpochMetrics(**row) for row in values["rows"]]
        values["best"] = tuple(values["best"])
        return Progress(**values)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(str(error)) from error


HEADS = {"classifier.": "class_names", "mlm_head.decoder.": "vocabulary"}  # tensors whose rows mean what this field of the model lists


def warm_start(model: M2CLIP, path: Path, report: Callable[[str], None]) -> None:
    """Copy what fits from any checkpoint (ours, the official .pth, the replicate's .pt); name what stays new.

    A head fits only where the same classes, or words, stand in the same order. Files of others do not name theirs: with the right number
    of rows they are taken to be the same, and the report says so.
    Raises: UserError when the file is no checkpoint, or was trained on another backbone.
    """
    other = M2CLIP.from_checkpoint(path, model.backbone)
    given, own = other.trainable_state(), model.trainable_state()
    foreign = Path(path).suffix != ".safetensors"
    fits = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    for prefix, listed in HEADS.items():
        if not foreign and getattr(other.config, listed) != getattr(model.config, listed):
            fits = {name: value for name, value in fits.items() if not name.startswith(prefix)}
    model.load_state_dict(fits, strict=False)
    if other.config.own_mlm_block:
        model.mlm_block.load_state_dict(other.mlm_block.state_dict())
        model.config = dataclasses.replace(model.config, own_mlm_block=True)
    made, unused = [name for name in own if name not in fits], [name for name in given if name not in own]
    report(f"warm start: {len(fits)} of {len(own)} tensors from {path}")
    if made:
        report(f"warm start: made anew, for they do not fit: {', '.join(made)}")
    if unused:
        report(f"warm start: without a place here: {', '.join(unused)}")
    if foreign and any(name.startswith(tuple(HEADS)) for name in fits):
        report("warm start: the file does not name its classes and words; they are taken to be this experiment's, in the same order")


STATUS = 75  # of the command: stopped, state saved, the same command continues (EX_TEMPFAIL of sysexits.h)


class Stopped(Exception):  # noqa: N818 (it says what happened)
    """Training ended early because it was asked to; what it says is for the user."""


class StopSignals:
    """A context within which the first signal sets `requested`, and the second ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be caught
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this nothing needs finishing: a signal raises Stopped where it arrives. Raises: Stopped, also if one came before."""
        self._at_once = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        if self._at_once:
            raise Stopped
