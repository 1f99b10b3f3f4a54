"""m2clip pretrain, train and plan."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import ExperimentName, Overrides, RunName, say
from m2clip_lib.errors import UserError


def pretrain(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed makes another CLIP.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help="File; default: in checkpoints/backbones/.")] = None,
) -> None:
    """Train another small CLIP for the demonstration, on captioned stills. The one that is shipped was made with seed 0."""
    from m2clip_lib import paths
    from m2clip_lib.models.demo_clip import stills_table
    from m2clip_lib.train.pretrain import PretrainConfig
    from m2clip_lib.train.pretrain import pretrain as train_clip

    path = out or paths.CHECKPOINTS / "backbones" / f"demo-clip-seed{seed}.safetensors"
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: give a path that ends in .safetensors")
    train_clip(PretrainConfig(seed=seed), path, say)
    say(stills_table(path).to_string(index=False, float_format="%.1f"))
    say(f"small CLIP: {path}; use it with: m2clip run demo --run NAME -o backbone.source={path}")


def train(
    experiment: ExperimentName = "",
    run: RunName = "",
    resume: Annotated[str, typer.Option("--resume", metavar="auto|never", help="auto: continue the run; never: start over.")] = "auto",
    accept_labels: Annotated[bool, typer.Option("--accept-labels", help="Train although the label check refuses the class names.")] = False,
    override: Overrides = None,
) -> None:
    """Train; writes checkpoints/NAME/{best,last}.safetensors and results/NAME/metrics.csv. The same as python train.py.

    Several processes: torchrun --nproc-per-node N -- train.py ..., or accelerate launch train.py ...
    SIGTERM and Ctrl-C finish the step, save, and end with status 75: the same command continues. A second signal ends it at once.
    """
    if resume not in ("auto", "never"):
        raise UserError(f"--resume {resume}: give auto or never")
    from m2clip_lib.config import load_experiment

    loaded = load_experiment(experiment, override or [])  # before torch is imported, which takes seconds
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.labelcheck import require_verdict
    from m2clip_lib.evaluate.processes import Processes
    from m2clip_lib.experiment import open_backbone
    from m2clip_lib.runs import Run, check_run_name, own_run
    from m2clip_lib.train.loop import is_run_finished
    from m2clip_lib.train.loop import train as train_model
    from m2clip_lib.train.resume import STATUS, Stopped

    processes = Processes()
    name = check_run_name(run or loaded.name)
    with own_run(name, "train") if processes.is_main else nullcontext():
        # Asked before anything of the run is written over; a finished training keeps its provenance.
        finished = processes.is_main and resume == "auto" and is_run_finished(loaded, name, processes.count)
        opened = Run.open(experiment, name, override or [], step="train") if processes.is_main and not finished else None
        manifest = load_manifest(loaded)
        if opened:
            warning = require_verdict(loaded, manifest, say, accept_labels)
            opened.describe_inputs(manifest, open_backbone(loaded).sha256)
        try:
            result = train_model(loaded, manifest, name, say, progress=sys.stderr.isatty(), resume=resume)
        except Stopped as stopped:
            if processes.is_main:
                print(f"m2clip: {stopped}", file=sys.stderr)
            raise SystemExit(STATUS) from None
        if opened:
            opened.describe_inputs(checkpoint=result.best)
            opened.record(**result.outcome, warning=warning, outputs=[str(result.best)])
        if processes.is_main:
            say(f"best: {result.validation} -> {result.best}")


def plan(
    experiment: ExperimentName = "",
    gpus: Annotated[str, typer.Option("--gpus", metavar="N,N", help="Numbers of devices like this one.")] = "1,8",
    clips_per_s: Annotated[float, typer.Option("--clips-per-s", min=0, help="Default: as measured by the run or by bench.")] = 0.0,
    videos: Annotated[int, typer.Option("--videos", min=0, help="Training videos; default: as in the manifest, or the official list.")] = 0,
    override: Overrides = None,
) -> None:
    """Estimate hours, memory and loader rate of a training; each figure says whether it is measured, counted or assumed."""
    if not all(part.strip().isdigit() and int(part) for part in gpus.split(",")):
        raise UserError(f"--gpus {gpus}: give positive numbers, such as 1,8")
    from m2clip_lib import paths
    from m2clip_lib.config import load_experiment
    from m2clip_lib.train.plan import clips_per_second, measured_steps, plan_lines, planned_dataset

    loaded = load_experiment(experiment, override or [])
    rate, source = clips_per_second(loaded, paths.RESULTS, clips_per_s)
    count, classes = (videos, 0) if videos else planned_dataset(loaded, say)
    measured = measured_steps(loaded, paths.RESULTS)
    for line in plan_lines(loaded, count, classes, rate, source, [int(part) for part in gpus.split(",")], measured):
        say(line)
