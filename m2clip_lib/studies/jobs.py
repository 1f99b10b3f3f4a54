"""The trainings of a study: every variant with every seed, in processes of this machine or as jobs of a cluster.

A training that has finished with the same inputs, code and settings is not repeated; killing the driver loses no finished one.
"""

import importlib
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context, set_forkserver_preload
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pebble import ProcessPool

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.workers import cores, own
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.cost import video_gflops
from m2clip_lib.evaluate.evaluate import checkpoint_facts, score_once
from m2clip_lib.evaluate.predictions import load_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.tables import WORDS, accuracy_rows, measure_of
from m2clip_lib.experiment import device_precision, open_backbone, pick_device
from m2clip_lib.files import code_digest, read_json, write_json
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.runs import Run
from m2clip_lib.studies.studies import Study, load_studies
from m2clip_lib.train.loop import has_trained, train
from m2clip_lib.train.record import TrainResult

FORWARDS, BACKWARDS = "predictions", "predictions_backwards"  # file names of a job's predictions
CLUSTERS = ("slurm", "local", "debug")  # of submitit: a cluster, processes of this machine, this process


@dataclass(frozen=True)
class Job:
    """One training: a variant with one seed. key: digest of everything that determines its result."""

    experiment: str
    run: str
    variant: str
    seed: int
    overrides: tuple[str, ...]
    key: str

    @property
    def name(self) -> str:
        """Name of the folder in the run's ablations/."""
        return f"{self.variant.replace(' ', '_')}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of this training's predictions, log and result."""
        return paths.RESULTS / self.output

    @property
    def output(self) -> str:
        """What it is called as a run: its folder in results/ and in checkpoints/."""
        return f"{self.run}/ablations/{self.name}"

    def is_done(self) -> bool:
        """Whether this training has finished before, with the same key."""
        file = self.folder / "result.json"
        return file.is_file() and read_json(file).get("key") == self.key


def study_key(experiment: Experiment, manifest: Manifest) -> str:
    """What decides the result of every training beside its settings: data, backbone, code."""
    return "|".join([manifest.sha256, open_backbone(experiment).sha256, code_digest(core=True)])


def plan_jobs(experiment: Experiment, run: str, overrides: Sequence[str], study: Study, seeds: Sequence[int], key: str) -> list[Job]:
    """List every variant with every seed. key: digest of inputs and code; jobs whose results have another key are run again."""
    planned, epochs = [], experiment.eval.ablation_epochs
    overrides = [*([f"train.epochs={epochs}"] if epochs else []), *overrides]  # what is asked for comes later, so that it wins
    for name, change in study.variants.items():
        own = load_experiment(experiment.name, [*overrides, *change])
        inputs = key if own.backbone == experiment.backbone else f"{key}|{open_backbone(own).sha256}"
        for seed in seeds:
            changed = (*overrides, *change, f"train.seed={seed}", "train.threads=1", "data.workers=0")
            planned.append(Job(experiment.name, run, name, int(seed), changed, "|".join([inputs, *changed])))
    return planned


def begin_studies(experiment_name: str, run: str, overrides: Sequence[str], names: Sequence[str], processes: int) -> None:
    """Run the trainings of these studies with the experiment's own seeds; whoever plans the same ones finds them done."""
    experiment = load_experiment(experiment_name, overrides)
    key, seeds = study_key(experiment, load_manifest(experiment)), experiment.eval.ablation_seeds
    studies = load_studies(experiment, names, overrides)
    run_jobs([job for study in studies for job in plan_jobs(experiment, run, overrides, study, seeds, key)], processes)


def run_jobs(jobs: Sequence[Job], processes: int = 0, report: Callable[[str], None] = print, cluster: str = "") -> None:
    """Run the unfinished jobs; those that fail are tried once more, one at a time.

    Args:
        processes: 0 = one per core, or one per GPU. cluster: one of CLUSTERS; "": processes of this machine.
    Raises: UserError naming the jobs that failed twice, and their logs; finished jobs are kept.
    """
    waiting = list(dict.fromkeys(job for job in jobs if not job.is_done()))
    if done := len(set(jobs)) - len(waiting):
        report(f"{done} of {len(set(jobs))} trainings are finished already")
    if not waiting:
        return
    at_once = min(processes or torch.cuda.device_count() or cores(), len(waiting))
    if not cluster:
        report(f"trainings to do: {len(waiting)}, {at_once} at a time; log of each: {paths.shown(waiting[0].folder.parent)}/NAME/log.txt")
    failed = _submit(waiting, cluster, report) if cluster else _run_here(waiting, at_once, report)
    for job in failed:
        report(f"{job.name} failed ({failed[job]}); once more")
    again = {job: reason for job in failed for reason in _run_here([job], 1, report).values()} if not cluster else failed
    if again:
        listed = "; ".join(f"{job.name}: {reason} (log: {job.folder / 'log.txt'})" for job, reason in again.items())
        raise UserError(f"ablation: {len(again)} of {len(waiting)} trainings failed: {listed}; the same command continues")


def _run_here(jobs: Sequence[Job], processes: int, report: Callable[[str], None]) -> dict[Job, str]:
    """Run jobs in child processes. Returns: why the failed ones failed."""
    set_forkserver_preload([__name__])  # torch is imported once
    failed = {}
    start = {"initializer": _start_process, "initargs": (dict(os.environ), torch.cuda.device_count())}
    with ProcessPool(processes, max_tasks=1, context=get_context("forkserver"), **start) as pool:
        futures = {pool.schedule(run_job, args=(job,)): job for job in jobs}
        for future in as_completed(futures):
            if error := future.exception():
                failed[futures[future]] = str(error)
            else:
                report(f"{futures[future].name}: {future.result()}")
    return failed


def _start_process(environment: dict[str, str], gpus: int) -> None:
    """Take over the environment of the process that asked, and the folders named there: a forked process has its server's."""
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(paths)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server may have started with preparing data
    torch.set_num_threads(1)  # busy processes with several threads each starve one another
    for number in range(gpus):
        lock = FileLock(paths.RESULTS / ".locks" / f"gpu{number}")
        try:
            _HELD.append(lock.acquire(blocking=False))  # until this process ends
        except Timeout:
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_name(environment, number)
        return


def gpu_name(environment: dict[str, str], number: int) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for one GPU of those that an environment shows."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    return shown.split(",")[number] if shown else str(number)


_HELD: list[object] = []  # the lock of this process' GPU


def _submit(jobs: Sequence[Job], cluster: str, report: Callable[[str], None]) -> dict[Job, str]:
    """Run jobs through submitit, as one array, and wait for them. Returns: why the failed ones failed."""
    if cluster not in CLUSTERS:
        raise UserError(f"--cluster {cluster}: give one of {', '.join(CLUSTERS)}")
    try:
        import submitit
    except ImportError as error:
        raise UserError("--cluster needs submitit; install it: pip install submitit") from error
    executor = submitit.AutoExecutor(paths.RESULTS / jobs[0].run / "ablations" / "cluster", cluster=cluster)
    executor.update_parameters(name="m2clip", timeout_min=24 * 60, cpus_per_task=4, **({"gpus_per_node": 1} if cluster == "slurm" else {}))
    submitted = executor.map_array(run_job, jobs)
    report(f"{len(jobs)} trainings submitted ({cluster}); logs: {executor.folder}")
    failed = {}
    for job, handle in zip(jobs, submitted, strict=True):
        try:
            report(f"{job.name}: {handle.result()}")
        except Exception as error:  # whatever the job raised there
            lines = str(error).strip().splitlines()  # another process' error is a traceback, and below it the places of logs
            told = [line.partition(": ")[2] for line in lines if re.match(r"[\w.]+: ", line) and len(lines) > 1]
            failed[job] = [*lines, *told][-1]
    return failed


def run_job(job: Job) -> str:
    """Train, evaluate the experiment's checkpoint, and save its predictions. Returns: what its best read-out reaches, in words."""
    job.folder.mkdir(parents=True, exist_ok=True)
    # A driver that was killed may have left this job running, or waiting on a cluster: whoever comes second waits, and finds it done.
    with own(job.folder / ".lock", job.name, wait=True):
        return headline(read_json(job.folder / "result.json")) if job.is_done() else _train_and_score(job)


def headline(result: Mapping[str, object]) -> str:
    """What the best read-out of a finished training reaches. result: its result.json."""
    measure = measure_of(result)
    return f"ensemble {WORDS[measure]} {result[measure]:.1f} %"


def _train_and_score(job: Job) -> str:
    experiment = load_experiment(job.experiment, job.overrides)
    with (job.folder / "log.txt").open("w", encoding="utf-8") as log:
        manifest = load_manifest(experiment)
        backbone, run = open_backbone(experiment), Run(job.output, experiment, "train")
        run.describe_inputs(manifest, backbone.sha256)
        taken = take_over(job, experiment, manifest, backbone)
        result = trained(experiment, manifest, job.output, lambda line: print(line, file=log, flush=True))
        checkpoint = getattr(result, experiment.eval.checkpoint)
        model = M2CLIP.from_checkpoint(checkpoint, backbone).to(pick_device())
        precision = device_precision(experiment.eval.precision, backbone, pick_device())
        protocol = Protocol.of_experiment(experiment, precision=precision)
        names = {"forwards": FORWARDS} | ({"backwards": BACKWARDS} if experiment.eval.honesty else {})
        score_once(experiment, manifest, model, protocol, job.folder, names, checkpoint_facts(checkpoint))
    row = accuracy_rows(load_predictions(job.folder, FORWARDS), job.variant)[-1]
    measure = measure_of(row)
    metrics = read_csv(job.folder / "metrics.csv")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    about = {
        measure: row[measure],
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "epochs": experiment.train.epochs,
        "taken_over": taken,
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "gflops": protocol.num_views * video_gflops(model, protocol.frames),
        "peak_mb": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else kilobytes / 1e3,
        "clips_per_s": float(metrics.clips.sum() / metrics.seconds.sum()),
    }
    run.record(outputs=[str(checkpoint)], **{measure: row[measure]})
    write_json(job.folder / "result.json", asdict(job) | about)
    return headline(about)


def trained(experiment: Experiment, manifest: Manifest, name: str, report: Callable[[str], None]) -> TrainResult:
    """Train, unless the training of this name has ended with the same inputs, settings and code."""
    done = has_trained(name, experiment, manifest, open_backbone(experiment))
    return train(experiment, manifest, name, report=report, resume="auto" if done else "replace")


def take_over(job: Job, experiment: Experiment, manifest: Manifest, backbone: Backbone) -> bool:
    """Copy the training of the run itself if this job would repeat it to the bit. Returns: whether it was copied."""
    provenance = paths.RESULTS / job.run / "run.json"
    threads = read_json(provenance)["config"]["train"]["threads"] if provenance.is_file() else 0
    if threads != experiment.train.threads or not has_trained(job.run, experiment, manifest, backbone):
        return False
    folder = paths.CHECKPOINTS / job.output
    folder.mkdir(parents=True, exist_ok=True)
    for file in (paths.CHECKPOINTS / job.run).iterdir():
        if file.is_file() and not file.name.startswith("."):  # such as its lock
            shutil.copy(file, folder)
    shutil.copy(paths.RESULTS / job.run / "metrics.csv", job.folder)
    return True
