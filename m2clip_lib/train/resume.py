"""How a training stops, continues and starts.

The first SIGTERM or Ctrl-C lets the step finish (StopSignals). The state is saved at intervals as a sealed file, and the last two are
kept (save_state, load_state). A run's name belongs to one training, recognised by everything that decides its result (identity,
check_name, find_state). A new run may copy its first weights from any checkpoint (warm_start).
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from torch import Tensor

from m2clip_lib.config import Experiment
from m2clip_lib.errors import UserError
from m2clip_lib.files import DamagedFile, open_sealed, seal, write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.train.record import EpochMetrics

Resume = Literal["auto", "never", "replace"]
STATUS = 75  # exit status: stopped, state saved, the same command continues (EX_TEMPFAIL of sysexits.h)
KEPT = 2  # states
# Fields that may differ when a run continues: the digests of the inputs cover some, the others do not change the result.
FREE = {
    "name": True,
    "backbone": {"source", "model_name", "trust_torchscript"},
    "data": {"layout", "root", "prepared", "train_list", "val_list", "test_list", "names_file", "check_csv", "decoder"}
    | {"cache_frames", "workers", "file_timeout_s", "trust_list", "mirror_pairs"},
    "train": {"batch_size", "accumulate", "lr", "threads", "save_minutes", "compile", "activation_checkpointing"},
    "eval": {"split", "checkpoint", "batch_size", "count_unreadable_as_wrong", "ablation_epochs", "ablation_seeds"}
    | {"views", "spatial_views", "temporal_views", "views_at_once", "ensemble_weight", "honesty", "opposites", "subsets"},
}
HEADS = {"classifier.": "class_names", "mlm_head.decoder.": "vocabulary"}  # tensors with one row per entry of this field of the model


class Stopped(Exception):  # noqa: N818 (it says what happened)
    """Training ended early on request; the message is for the user."""


class StopSignals(ExitStack):
    """A context in which the first SIGTERM or SIGINT sets `requested` and the second ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = self._at_once = False

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # other threads cannot catch signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that need not be finished: a signal raises Stopped where it arrives. Raises: Stopped, also if one came before."""
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


@dataclass
class Progress:
    """How far a training has come."""

    identity: dict[str, object]  # everything that decides the result, see the function of this name
    code: str  # digest of the library
    epoch: int = 1  # the current one
    updates: int = 0  # done in the current epoch
    best: tuple[float, int] = (-1.0, 0)  # best validation top-1 in percent, and its epoch
    rows: list[EpochMetrics] = field(default_factory=list)
    tally: dict[str, float] = field(default_factory=dict)  # of the current epoch
    scaler: dict = field(default_factory=dict)
    seconds: float = 0.0  # over all sessions
    finished: bool = False


State = tuple[Progress, dict[str, Tensor]]


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], progress: Progress, kept: int = KEPT) -> None:
    """Write state-<step>.safetensors, then remove all but the last `kept`. Raises: UserError when the disk is full (the old ones stay)."""
    content = seal(tensors, {"progress": json.dumps(asdict(progress))})
    write_atomically(folder / f"state-{step:09d}.safetensors", lambda file: file.write_bytes(content))
    for old in state_files(folder)[kept:]:
        old.unlink()


def state_files(folder: Path) -> list[Path]:
    """The state files of a run, newest first."""
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def clear(folder: Path, states: bool) -> None:
    """Remove half-written files of a killed process and, with `states`, all states too."""
    for path in [*folder.glob(".*.tmp"), *(state_files(folder) if states else [])]:
        path.unlink(missing_ok=True)


def load_state(folder: Path, report: Callable[[str], None]) -> State | None:
    """Load the newest intact state; damaged ones are reported and removed. Returns: None when there is no state file.

    Raises: UserError when every state is damaged.
    """
    files = state_files(folder)
    for path in files:
        try:
            return _read(path)
        except DamagedFile as damage:
            report(f"resume: {path} is damaged ({damage}); trying the previous state")
            path.unlink()
    if files:
        raise UserError(f"resume: every state in {folder} is damaged; start over with --resume never")
    return None


def _read(path: Path) -> State:
    """Read one state file. Raises: DamagedFile."""
    tensors, metadata = open_sealed(path)
    try:
        values = json.loads(metadata["progress"])
        rows = [EpochMetrics(**row) for row in values["rows"]]
        return Progress(**values | {"rows": rows, "best": tuple(values["best"])}), tensors
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(str(error)) from error


def identity(experiment: Experiment, inputs: dict[str, str], processes: int) -> dict[str, object]:
    """Everything that must stay the same for a run to continue, by name. inputs: digests of manifest, labels and backbone."""
    train, fields = experiment.train, _fields(experiment)
    if train.precision == "auto":
        del fields["train.precision"]  # what it means here is known once the backbone is
    fields["clips an update"] = train.batch_size * train.accumulate * processes  # stored in states: these names cannot change
    fields["peak lr of an update"] = train.lr * train.accumulate * processes
    if not train.gather_negatives:
        fields["train.batch_size (the contrastive negatives)"] = train.batch_size
    return fields | inputs


def _fields(experiment: Experiment) -> dict[str, object]:
    sections = experiment.model_dump(mode="json", exclude=FREE)
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def check_name(folder: Path, run: str, wanted: dict[str, object]) -> Progress | None:
    """The progress of the run of this name; None when it has not begun.

    Raises: UserError naming the differing fields when the name is taken by another training.
    """
    for path in state_files(folder):
        try:
            progress, _ = _read(path)
        except DamagedFile:
            continue  # a damaged state is not another training; load_state reports and removes it
        known = _fields(Experiment()) | progress.identity  # an older version's state lacks newer fields, whose defaults it was trained with
        differing = ", ".join(f"{name} = {value} (there: {known.get(name)})" for name, value in wanted.items() if known.get(name) != value)
        if differing:
            raise UserError(f"--run {run}: taken by a training with other settings: {differing}; choose another --run, or --resume never")
        return progress
    return None


def find_state(folder: Path, run: str, wanted: Progress, resume: Resume, report: Callable[[str], None]) -> State | None:
    """The state from which a run continues; None when it starts over. wanted: the training at its beginning; resume: see train.

    Raises: UserError for a name taken by another training, and for missing or damaged files.
    """
    clear(folder, states=resume == "never")
    try:
        found = check_name(folder, run, wanted.identity)
    except UserError:
        if resume != "replace":
            raise
        found = None
    if resume == "replace":
        if found is None or found.finished or found.code != wanted.code:
            clear(folder, states=True)
    elif found is not None and found.finished:
        for file in (folder / "best.safetensors", folder / "last.safetensors"):
            if not file.is_file():
                raise UserError(f"run {run!r} is finished, but {file} is gone; train it again with --resume never")
        done = f"run {run!r} is finished ({len(found.rows)} epochs)"
        report(f"{done}: nothing to do; train it again with --resume never, or choose another --run")
    elif found is not None and found.code != wanted.code:
        report("resume: the library's code has changed since this run began: its result mixes both versions")
    return load_state(folder, report)


def warm_start(model: M2CLIP, path: Path, report: Callable[[str], None]) -> None:
    """Copy every tensor that fits from a checkpoint (ours, the official .pth, the replicate's .pt); report what keeps its initial values.

    A head fits only when its classes, or words, are the same in the same order. Foreign files do not name theirs: with the right number
    of rows they are assumed to match, and the report says so.
    Raises: UserError when the file is not a checkpoint, or was trained on another backbone.
    """
    other = M2CLIP.from_checkpoint(path, model.backbone)
    given, own = other.trainable_state(), model.trainable_state()
    foreign = Path(path).suffix != ".safetensors"
    changed = tuple(head for head, lists in HEADS.items() if not foreign and getattr(other.config, lists) != getattr(model.config, lists))
    fits = {n: value for n, value in given.items() if n in own and own[n].shape == value.shape and not n.startswith(changed)}
    model.load_state_dict(fits, strict=False)
    if other.config.own_mlm_block:
        model.mlm_block.load_state_dict(other.mlm_block.state_dict())
        model.config = replace(model.config, own_mlm_block=True)
    fresh, unused = [name for name in own if name not in fits], [name for name in given if name not in own]
    report(f"warm start: {len(fits)} of {len(own)} tensors from {path}")
    if fresh:
        report(f"warm start: reinitialised (shape or classes differ): {', '.join(fresh)}")
    if unused:
        report(f"warm start: not used (this model has no such tensor): {', '.join(unused)}")
    if foreign and any(name.startswith(tuple(HEADS)) for name in fits):
        report("warm start: the file does not name its classes and words; they are assumed to be this experiment's, in the same order")
