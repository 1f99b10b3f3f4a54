"""Ablations: variants of one experiment that differ in one named change, each trained with the same seeds, in single-threaded processes."""

import importlib
import multiprocessing
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.workers import cores
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.evaluate import checkpoint_facts
from m2clip_lib.evaluate.honesty import honesty_table
from m2clip_lib.evaluate.metrics import direction_hits, is_hit
from m2clip_lib.evaluate.paired import comparison_table
from m2clip_lib.evaluate.predictions import load_predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import predict_orders
from m2clip_lib.evaluate.tables import accuracy_rows
from m2clip_lib.experiment import evaluation_precision, open_backbone, pick_device
from m2clip_lib.files import read_json, write_json
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.train.loop import has_trained, train

FORWARDS, BACKWARDS = "predictions", "predictions_backwards"  # file names of a job's predictions
REVERSED = {"top1": "backwards_true", "opposite": "backwards_opposite"}  # of the videos played backwards: columns of two tables
VARIANTS: dict[str, tuple[str, ...]] = {  # name -> the one thing it changes in the base experiment
    "none": ("model.vision_adapter_layers=0", "model.frame_adapter=false"),  # the visual side is frozen CLIP, frames averaged
    "static adapter": ("model.static=true",),
    "enhancement only": ("model.difference=false",),
    "difference only": ("model.enhancement=false",),
    "full": (),
}


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
        return file.is_file() and read_json(file).get("key") == self.key


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
    processes = processes or (1 if torch.cuda.is_available() else cores())
    multiprocessing.set_forkserver_preload([__name__])
    context = multiprocessing.get_context("forkserver")  # torch is imported once
    with ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(dict(os.environ),)) as pool:
        futures = {pool.submit(run_job, job): job for job in waiting}
        for future in as_completed(futures):
            job, error = futures[future], future.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
                raise UserError(f"ablation: {job.name} failed: {error}; its log: {job.folder / 'log.txt'}") from error
            report(f"{job.name}: ensemble top-1 {future.result():.1f} %")


def _start_process(environment: dict[str, str]) -> None:
    """Take over the environment of the process that asked, and the folders named there: a forked process has its server's."""
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(paths)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server may have started with preparing data
    torch.set_num_threads(1)  # busy processes with several threads each starve one another


def run_job(job: Job) -> float:
    """Train, evaluate the best checkpoint, and save its predictions. Returns: top-1 of the ensemble, percent."""
    job.folder.mkdir(parents=True, exist_ok=True)
    experiment = load_experiment(job.experiment, job.overrides)
    with (job.folder / "log.txt").open("w", encoding="utf-8") as log:
        manifest = load_manifest(experiment)
        backbone = open_backbone(experiment)
        taken = take_over(job, experiment, manifest, backbone)
        name, resume = f"{job.run}/ablations/{job.name}", "auto" if taken else "replace"
        result = train(experiment, manifest, name, report=lambda line: print(line, file=log, flush=True), resume=resume)
        checkpoint = getattr(result, experiment.eval.checkpoint)
        model = M2CLIP.from_checkpoint(checkpoint, backbone).to(pick_device())
        precision = evaluation_precision(experiment.eval.precision, backbone, pick_device())
        protocol, orders = Protocol.of_experiment(experiment, precision=precision), ("forwards", *["backwards"] * experiment.eval.honesty)
        found = predict_orders(experiment, manifest, model, protocol, orders=orders)
        for order, name in zip(orders, (FORWARDS, BACKWARDS), strict=False):
            save_predictions(found[order], manifest, job.folder, name, key=job.key, **checkpoint_facts(checkpoint))
    top1 = accuracy_rows(load_predictions(job.folder, FORWARDS), job.variant)[-1]["top1"]
    found = {"top1": top1, "best_epoch": result.best_epoch, "seconds": result.seconds, "epochs": experiment.train.epochs}
    found["taken_over"] = taken
    found["trainable"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    write_json(job.folder / "result.json", asdict(job) | found)
    return top1


def take_over(job: Job, experiment: Experiment, manifest: Manifest, backbone: Backbone) -> bool:
    """Copy the training of the run itself if this job would repeat it to the bit. Returns: whether it was copied."""
    provenance = paths.RESULTS / job.run / "run.json"
    threads = read_json(provenance)["config"]["train"]["threads"] if provenance.is_file() else 0
    if threads != experiment.train.threads or not has_trained(job.run, experiment, manifest, backbone):
        return False
    folder = paths.CHECKPOINTS / job.run / "ablations" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in (paths.CHECKPOINTS / job.run).iterdir():
        if file.is_file() and not file.name.startswith("."):  # such as its lock
            shutil.copy(file, folder)
    shutil.copy(paths.RESULTS / job.run / "metrics.csv", job.folder)
    return True


def study_protocol(jobs: Sequence[Job]) -> dict[str, object]:
    """The protocol's columns; all jobs of a study share one protocol."""
    return load_predictions(jobs[0].folder, FORWARDS).columns()


def job_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per job and read-out, from the saved predictions."""
    tables = []
    for job in jobs:
        result, forwards = read_json(job.folder / "result.json"), load_predictions(job.folder, FORWARDS)
        about = {"variant": job.variant, "seed": job.seed} | {name: result[name] for name in ("trainable", "epochs", "seconds")}
        table = pd.DataFrame([about | row for row in accuracy_rows(forwards, job.variant)]).drop(columns="model")
        if (job.folder / f"{BACKWARDS}.json").is_file():
            played = honesty_table(job.folder, FORWARDS, ["backwards"]).query("played == 'backwards'")
            table = table.merge(played.rename(columns=REVERSED).filter(["readout", *REVERSED.values()]), on="readout")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant and read-out: mean, minimum and maximum over seeds of each measure that the table has."""
    measures = [name for name in ("top1", "top5", "direction", *REVERSED.values()) if name in table]
    groups = table.groupby(["variant", "readout"], sort=False)
    summary = groups[measures].agg(["mean", "min", "max"])
    summary.columns = [name if statistic == "mean" else f"{name}_{statistic}" for name, statistic in summary.columns]
    firsts = {name: (name, "first") for name in ("trainable", "epochs", "videos") if name in table}
    return groups.agg(seeds=("seed", "nunique"), **firsts).join(summary).reset_index()


def study_comparisons(jobs: Sequence[Job], measure: str = "top1") -> pd.DataFrame:
    """The comparison_table of the variants by the best read-out. measure: "top1", or "direction" where the classes are pairs."""
    hits = defaultdict(dict)
    for job in jobs:
        found = load_predictions(job.folder, FORWARDS)
        rows, own = np.array(found.rows), is_hit(found.best, found.labels, 1)
        if measure == "direction":
            rows = rows[found.opposites[found.labels] >= 0]
            own = direction_hits(found.best, found.labels, found.opposites)
        hits[job.variant][job.seed] = dict(zip(rows.tolist(), own, strict=True))
    common = sorted(set.intersection(*(set(rows) for seeds in hits.values() for rows in seeds.values())))
    place = {row: i for i, row in enumerate(found.rows)}  # of the last job; all of them read the same list
    recordings = found.recordings[[place[row] for row in common]]
    matrices = {name: np.array([[seeds[seed][row] for row in common] for seed in sorted(seeds)]) for name, seeds in hits.items()}
    return comparison_table(matrices, recordings)


def study_findings(comparisons: pd.DataFrame, what: str = "top-1") -> list[str]:
    """One sentence per pair: the difference, and whether an order may be claimed. what: the measure, in words."""
    sentences = []
    for row in comparisons.itertuples():
        numbers = f"{row.difference:.1f} points of {what} (95 % interval {row.low:.1f} to {row.high:.1f}, p = {row.p_value:.2g})"
        if row.ahead:
            sentences.append(f"“{row.better}” is ahead of “{row.other}” by {numbers}.")
        else:
            sentences.append(f"“{row.better}” and “{row.other}” cannot be told apart: {numbers}.")
    return sentences
