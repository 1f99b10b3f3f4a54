"""The training loop: seeded, one line of report per epoch, and able to continue where it was stopped."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext

import pandas as pd
import torch
from tqdm.auto import tqdm

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.csvfiles import write_csv
from m2clip_lib.data.classes import labels_sha256
from m2clip_lib.data.dataset import in_order, make_loader, worker_deaths_explained
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import READOUTS, topk_accuracy
from m2clip_lib.evaluate.multilabel import mean_average_precision
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.evaluate.tables import WORDS
from m2clip_lib.experiment import (
    TRAINING_ADVICE,
    build_model,
    device_precision,
    keep_freed_memory,
    open_backbone,
    out_of_memory_explained,
    pick_device,
    set_threads,
    with_precision,
)
from m2clip_lib.files import code_digest
from m2clip_lib.models import Backbone
from m2clip_lib.runs import own_run
from m2clip_lib.train import record
from m2clip_lib.train.optim import lr_factor
from m2clip_lib.train.record import EpochMetrics, Tally, TrainResult
from m2clip_lib.train.resume import Progress, Resume, Stopped, StopSignals, check_name, find_state, identity, save_state, warm_start
from m2clip_lib.train.step import TrainingSteps


def train(
    experiment: Experiment,
    manifest: Manifest,
    run: str,
    report: Callable[[str], None] = print,
    progress: bool = False,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    resume: Resume = "replace",
) -> TrainResult:
    """Train one model. Writes checkpoints/<run>/{best,last}.safetensors and results/<run>/metrics.csv.

    "Best" is the highest top-1 of the ensemble on the validation split, or mAP where videos have several labels; the test split is never
    read.
    Started by torchrun or `accelerate launch`, all processes train together and the first one writes.

    Args:
        progress: also show a bar within the epoch. on_epoch: called after each epoch with the table of metrics so far.
        resume: "auto" continues the run of this name, leaves a finished one alone, and refuses a name taken by other settings; "never"
            starts over; "replace" continues an unfinished training of the same settings and code, and starts over otherwise.
    Raises: UserError for missing videos or weights, settings that do not fit them, a full disk, and a loss that is not finite
        (naming the term and the videos), and when another process trains this run; Stopped after a first SIGTERM or Ctrl-C, once the state
        is saved.
    """
    processes = Processes()
    set_threads(experiment.train.threads)
    keep_freed_memory()
    if not processes.is_main:
        report, progress, on_epoch = (lambda line: None), False, None
    with own_run(run, "train") if processes.is_main else nullcontext():
        training = Training(experiment, manifest, run, processes, report)
        explained = out_of_memory_explained(TRAINING_ADVICE.format(experiment.train.batch_size))
        with StopSignals() as signals, worker_deaths_explained(), explained:
            training.begin(resume)
            while not training.at.finished:
                training.run_epoch(signals, progress)
                if on_epoch:
                    on_epoch(record.metrics_table(training.at.rows))
    folder, at = training.folder, training.at
    files = folder / "best.safetensors", folder / "last.safetensors", training.metrics_file
    return TrainResult(*files, at.best[1], at.best[0], at.seconds, training.measure)


class Training:
    """A run in progress: its model, its optimizer, and how far it has come (`at`)."""

    def __init__(self, experiment: Experiment, manifest: Manifest, run: str, processes: Processes, report: Callable[[str], None]):
        backbone = open_backbone(experiment)
        experiment = with_precision(experiment, backbone, processes.device)
        self.experiment, self.manifest, self.run, self.processes, self.report = experiment, manifest, run, processes, report
        self.settings = experiment.train
        self.model = build_model(experiment, backbone, manifest.class_names, manifest.several_labels).to(processes.device)
        self.model.activation_checkpointing = self.settings.activation_checkpointing
        if self.settings.compile:
            self.model.compile_blocks()
        self.steps = TrainingSteps(experiment, manifest, backbone, self.model, processes, report)
        self.measure = "mean_ap" if manifest.several_labels else "top1"  # of validation
        self.validation = self.views = None
        if manifest.has("val"):
            precision = device_precision(experiment.eval.precision, backbone, processes.device)
            protocol = Protocol.of_experiment(experiment, split="val", precision=precision).one_view()
            self.validation = evaluation_views(experiment, manifest, backbone, protocol)
            mine = in_order(len(self.validation), experiment.eval.batch_size, processes.rank, processes.count)
            self.views = make_loader(self.validation, mine, experiment.data.workers)  # kept: its processes take seconds to start
        self.folder, self.metrics_file = paths.CHECKPOINTS / run, paths.RESULTS / run / "metrics.csv"
        self.at = first_progress(experiment, manifest, backbone, processes.count)
        self.tally = Tally(torch.zeros(len(record.TERMS), device=processes.device))
        self._decoders_reported: dict[str, int] = {}
        self.began = self.saved = time.monotonic()

    def begin(self, resume: Resume) -> None:
        """Load the run's saved state, or start from new weights."""
        steps, settings, processes = self.steps, self.settings, self.processes
        found = processes.from_main(find_state(self.folder, self.run, self.at, resume, self.report) if processes.is_main else None)
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.report(
            f"training {self.experiment.name!r} on {steps.device} in {settings.precision}: {len(steps.dataset)} videos, "
            f"{len(self.manifest.class_names)} classes, "
            f"{trainable:,} trainable parameters, {steps.total} steps"
            + ("; no validation: the last epoch is the best" if self.validation is None else "")
        )
        if settings.accumulate * processes.count > 1:
            self.report(
                f"an update takes {settings.batch_size} clips x {settings.accumulate} steps x {processes.count} processes; "
                f"effective lr {settings.lr:g} x {settings.accumulate} x {processes.count} = {steps.lr:g}"
            )
        if found is None:
            if processes.is_main:
                (self.metrics_file.parent / "tables" / record.FILE).unlink(missing_ok=True)  # nothing is skipped yet
            if settings.warm_start:
                warm_start(self.model, paths.resolve(settings.warm_start), self.report)
            return
        self.at, state = found
        if not self.at.finished:
            steps.load_state(state, self.at.scaler)
            self.tally = Tally(state["tally"].to(steps.device), **self.at.tally)
            self.report(f"resume: continuing run {self.run!r} at epoch {self.at.epoch}, update {self.at.updates} of {steps.updates}")

    def run_epoch(self, signals: StopSignals, progress: bool) -> None:
        """Finish the current epoch, validate, and write the files of the epoch."""
        at, steps = self.at, self.steps
        with tqdm(total=steps.updates, initial=at.updates, desc=f"epoch {at.epoch}", leave=False, disable=not progress) as bar:
            try:
                for done in steps.epoch(at.epoch, at.updates, self.tally, bar if progress else None):
                    at.updates = done
                    self._save_if_due(signals)
            except RuntimeError as error:  # a signal to the process group ends the loader's processes before this step is finished
                if not (signals.requested and "DataLoader worker" in str(error) and steps.between_updates and self.processes.count == 1):
                    raise
                self._save()
                raise self._stopped() from None
        self._save()
        began = time.perf_counter()
        accuracies = self._validate(signals)
        validation_s = time.perf_counter() - began
        tally, step = self.tally, at.epoch * steps.updates
        lr = steps.lr * lr_factor(step - 1, steps.total, self.settings.warmup)
        counts = {"clips": tally.clips, "skipped": tally.skipped, "seconds": tally.seconds}
        row = EpochMetrics(at.epoch, step, lr, **tally.means(), **accuracies, **counts)
        at.rows.append(row)
        is_best = self.validation is None or row.score >= at.best[0]
        if is_best:
            at.best = (row.score, at.epoch)
        self._report_epoch(row, validation_s)
        failed = self.processes.gather(self.steps.failed)
        if self.processes.is_main:
            self._write(row, is_best)
            skipped = {path: reason for of_one in failed for path, reason in of_one.items()}
            for line in record.note_skipped(self.metrics_file.parent / "tables", skipped):
                self.report(line)
        self._next_epoch()

    def _validate(self, signals: StopSignals) -> dict[str, float]:
        """The measure of every read-out on the validation split; nothing without such a split, and after epochs that are not validated."""
        left_out = self.at.epoch % self.settings.validate_every and self.at.epoch < self.settings.epochs
        if self.validation is None or left_out:
            return {}
        batch_size, workers = self.experiment.eval.batch_size, self.experiment.data.workers
        try:
            with signals.at_once():
                scores = predict(self.model, self.validation, batch_size, workers, processes=self.processes, loader=self.views)
        except Stopped:
            raise self._stopped() from None
        if self.measure == "mean_ap":
            targets = self.manifest.targets("val")[scores.rows]
            return {f"val_mean_ap_{name}": mean_average_precision(scores.readout(name), targets) for name in READOUTS}
        return {f"val_top1_{name}": topk_accuracy(scores.readout(name), scores.labels, 1) for name in READOUTS}

    def _save_if_due(self, signals: StopSignals) -> None:
        """Save when it is time or a stop was requested; all processes decide together, so that none waits for one that has stopped."""
        due = time.monotonic() - self.saved >= 60 * self.settings.save_minutes
        flags = self.processes.exchange([signals.requested, due])
        stop = bool(flags[:, 0].any())
        if stop or flags[0, 1]:
            self._save()
        if stop:
            raise self._stopped()

    def _save(self) -> None:
        """Save the state, after checking in all processes that it is finite."""
        self.steps.finite.check()
        if self.processes.is_main:
            now = time.monotonic()
            self.at.seconds, self.began = self.at.seconds + now - self.began, now
            self.at.scaler = self.steps.scaler.state_dict() if self.steps.fp16 else {}
            self.at.tally = {name: value for name, value in vars(self.tally).items() if name != "sums"}
            save_state(self.folder, self._step, self.steps.state() | {"tally": self.tally.sums}, self.at)
        self.saved = time.monotonic()

    @property
    def _step(self) -> int:
        """Number of updates since the start of the run."""
        return (self.at.epoch - 1) * self.steps.updates + self.at.updates

    def _stopped(self) -> Stopped:
        return Stopped(f"stopped at epoch {self.at.epoch}, update {self.at.updates}; state saved: the same command continues the run")

    def _report_epoch(self, row: EpochMetrics, validation_s: float) -> None:
        tally, epochs = self.tally, self.settings.epochs
        readouts = ", ".join(f"{name} {getattr(row, f'val_{self.measure}_{name}'):.1f}" for name in READOUTS[:-1])
        found = "not validated" if math.isnan(row.score) else f"val {WORDS[self.measure]} {row.score:.1f} % ({readouts})"
        self.report(
            f"epoch {row.epoch}/{epochs}  loss {row.total:.3f}  {found}  lr {row.lr:.1e}  "
            f"{row.clips / row.seconds:.0f} clips/s  {row.seconds:.1f} s + {validation_s:.1f} s for validation"
            + (f"  {row.skipped} videos skipped" if row.skipped else "")
        )
        if tally.decoders != self._decoders_reported:  # usually once
            self._decoders_reported = tally.decoders
            self.report("clips were read by: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.decoders.items())))
        idle = record.idle_warning(self.steps.names, self.steps.has_gradient.tolist())
        starved = record.starved_warning(tally.waited, tally.seconds, self.experiment.data.workers)
        for line in filter(None, (starved, idle)):
            self.report(line)

    def _write(self, row: EpochMetrics, is_best: bool) -> None:
        data, clip_s = self.experiment.data, float(self.manifest.split("train").duration_s.median())
        extra = {"stride": data.stride, "resize": data.resize} | ({} if data.stride else {"clip_s": round(clip_s, 3)})
        extra |= {
            "run": self.run,
            "experiment": self.experiment.name,
            "precision": self.settings.precision,
            "balance": self.settings.balance,
        }
        extra |= {"epoch": row.epoch, f"val_{self.measure}_ensemble": row.score, "epoch_chosen_on": "last epoch"}
        write_csv(self.metrics_file, record.metrics_table(self.at.rows))
        self.model.save(self.folder / "last.safetensors", **extra)
        if is_best:
            chosen = {} if self.validation is None else {"epoch_chosen_on": "val"}
            self.model.save(self.folder / "best.safetensors", **extra | chosen)

    def _next_epoch(self) -> None:
        at = self.at
        if at.epoch < self.settings.epochs:
            at.epoch, at.updates = at.epoch + 1, 0
            self.tally = Tally(torch.zeros_like(self.tally.sums))
            self.steps.has_gradient.zero_()
            self._save()
            return
        at.finished, at.tally, at.scaler = True, {}, {}
        at.seconds += time.monotonic() - self.began
        if self.processes.is_main:
            save_state(self.folder, self._step, {}, at, kept=1)  # a note; the weights are in last.safetensors


def first_progress(experiment: Experiment, manifest: Manifest, backbone: Backbone, processes: int) -> Progress:
    """A training at its beginning: everything that decides its result, and the code."""
    inputs = {"videos (manifest)": manifest.sha256, "class names": labels_sha256(manifest.class_names)}
    inputs |= {"backbone weights": backbone.sha256}
    return Progress(identity(experiment, inputs, processes), code_digest(core=True))


def has_trained(run: str, experiment: Experiment, manifest: Manifest, backbone: Backbone) -> bool:
    """Whether the run of this name ended with the weights that this training would end with, to the bit if the threads are the same."""
    wanted = first_progress(with_precision(experiment, backbone, pick_device()), manifest, backbone, 1)
    try:
        found = check_name(paths.CHECKPOINTS / run, run, wanted.identity)
    except UserError:  # taken by another training
        return False
    return found is not None and found.finished and found.code == wanted.code


def is_run_finished(experiment: Experiment, run: str, processes: int) -> bool:
    """Whether the training of this name has ended. Raises: UserError naming the differing fields when it has other settings."""
    found = check_name(paths.CHECKPOINTS / run, run, identity(experiment, {}, processes))  # the inputs are compared once they are read
    return found is not None and found.finished
