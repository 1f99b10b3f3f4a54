"""Ablations: variants of one experiment that differ in one named change, each trained with the same seeds, in single-threaded processes."""

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import load_predictions, predict_split, save_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.tables import accuracy_rows, backwards_table, has_opposites
from m2clip_lib.experiment import open_backbone, pick_device
from m2clip_lib.files import write_json
from m2clip_lib.models import M2CLIP
from m2clip_lib.train.loop import train

FORWARDS, BACKWARDS = "predictions", "predictions_backwards"  # file names of a job's predictions
VARIANTS: dict[str, tuple[str, ...]] = {  # name -> what it changes in the base experiment
    "static adapter": ("model.temporal_kernel=1", "model.difference=false"),
    "enhancement only": ("model.difference=false",),
    "difference only": ("model.enhancement=false", "model.frame_adapter=false"),
    "full": (),
}
# Busy processes with several threads each starve one another: one thread per process, and no spinning while it waits.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


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
        return paths.RESULTS / self.run / "ablations" / self.name

    def is_done(self) -> bool:
        """Whether this training has finished before, with the same key."""
        file = self.folder / "result.json"
        return file.is_file() and json.loads(file.read_text()).get("key") == self.key


def plan_jobs(
    experiment: Experiment, run: str, overrides: Sequence[str], variants: Sequence[str], seeds: Sequence[int], key: str
) -> list[Job]:
    """List every variant with every seed. key: digest of inputs and code; jobs whose results have another key are run again."""
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise UserError(f"ablation: no variant {unknown[0]!r}; choose from: {', '.join(VARIANTS)}")
    same = ("train.threads=1", "data.workers=0")
    planned = [(name, int(seed), (*overrides, *VARIANTS[name], f"train.seed={seed}", *same)) for name in variants for seed in seeds]
    return [Job(experiment.name, run, name, seed, changed, "|".join([key, *changed])) for name, seed, changed in planned]


def variant_table(variants: Sequence[str]) -> pd.DataFrame:
    """What each variant changes in the experiment."""
    return pd.DataFrame([{"variant": name, "change": ", ".join(VARIANTS.get(name, ())) or "none"} for name in variants])


def run_jobs(jobs: Sequence[Job], processes: int, report: Callable[[str], None] = print) -> None:
    """Run the unfinished jobs. processes: 0 = one per core, or a single one on a GPU.

    Raises: UserError naming the first job that failed, and its log; finished jobs are kept.
    """
    waiting = [job for job in jobs if not job.is_done()]
    if len(waiting) < len(jobs):
        report(f"{len(jobs) - len(waiting)} of {len(jobs)} trainings are finished already")
    processes = processes or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    before = {name: os.environ[name] for name in ONE_THREAD if name in os.environ}
    os.environ.update(ONE_THREAD)  # read when a child loads its OpenMP
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(run_job, job): job for job in waiting}
            for future in as_completed(futures):
                job, error = futures[future], future.exception()
                if error is not None:
                    pool.shutdown(cancel_futures=True)
                    raise UserError(f"ablation: {job.name} failed: {error}; its log: {job.folder / 'log.txt'}") from error
                report(f"{job.name}: ensemble top-1 {future.result():.1f} %")
    finally:
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ.update(before)


def run_job(job: Job) -> float:
    """Train, evaluate the best checkpoint, and save its predictions. Returns: top-1 of the ensemble, percent."""
    job.folder.mkdir(parents=True, exist_ok=True)
    experiment = load_experiment(job.experiment, job.overrides)
    with (job.folder / "log.txt").open("w") as log:
        manifest = load_manifest(experiment)
        result = train(experiment, manifest, f"{job.run}/ablations/{job.name}", report=lambda line: print(line, file=log, flush=True))
        model = M2CLIP.from_checkpoint(result.best, open_backbone(experiment)).to(pick_device())
        for name in (FORWARDS, BACKWARDS) if experiment.eval.backwards else (FORWARDS,):
            protocol = Protocol.of_experiment(experiment, backwards=name == BACKWARDS)
            save_predictions(predict_split(experiment, manifest, model, protocol), manifest, job.folder, name, key=job.key)
    top1 = accuracy_rows(load_predictions(job.folder, FORWARDS), job.variant)[-1]["top1"]
    found = {"top1": top1, "best_epoch": result.best_epoch, "seconds": result.seconds}
    found["trainable"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    write_json(job.folder / "result.json", asdict(job) | found)
    return top1


def study_protocol(jobs: Sequence[Job]) -> dict[str, object]:
    """The protocol's columns; all jobs of a study share one protocol."""
    predictions = load_predictions(jobs[0].folder, FORWARDS)
    columns = predictions.protocol.columns(predictions.list_sha256)
    return columns | {"count_unreadable_as_wrong": predictions.count_unreadable_as_wrong}


def job_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per job and read-out, from the saved predictions."""
    tables = []
    for job in jobs:
        result, forwards = json.loads((job.folder / "result.json").read_text()), load_predictions(job.folder, FORWARDS)
        about = {"variant": job.variant, "seed": job.seed, "trainable": result["trainable"], "seconds": result["seconds"]}
        table = pd.DataFrame([about | row for row in accuracy_rows(forwards, job.variant)]).drop(columns="model")
        if (job.folder / f"{BACKWARDS}.json").is_file() and has_opposites(forwards.class_names):
            played = backwards_table(forwards, load_predictions(job.folder, BACKWARDS)).query("played == 'backwards'")
            played = played.rename(columns={"true_class": "backwards_true", "opposite_class": "backwards_opposite"})
            table = table.merge(played[["readout", "backwards_true", "backwards_opposite"]], on="readout")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant and read-out: mean, minimum and maximum over seeds of each measure that the table has."""
    measures = [name for name in ("top1", "top5", "direction", "backwards_true", "backwards_opposite") if name in table]
    groups = table.groupby(["variant", "readout"], sort=False)
    summary = groups[measures].agg(["mean", "min", "max"])
    summary.columns = [name if statistic == "mean" else f"{name}_{statistic}" for name, statistic in summary.columns]
    return groups.agg(seeds=("seed", "nunique"), trainable=("trainable", "first"), videos=("videos", "first")).join(summary).reset_index()
