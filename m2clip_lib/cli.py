"""The command line: m2clip run | prepare | train | eval | predict | bench | plan.

Imports are lazy, so that --help answers at once. Bad input ends with one line on stderr and exit status 2; --debug shows the traceback.
"""

import json
import logging
import math
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.errors import UserError

_say = partial(print, flush=True)
ABOUT = "M2CLIP workbook: adapt a frozen CLIP to video action recognition."
app = typer.Typer(help=ABOUT, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

ExperimentName = Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="Entry of configs/config.py; default: DEFAULT_EXPERIMENT.")]
RunName = Annotated[str, typer.Option("--run", metavar="NAME", help="Folder in results/ and checkpoints/; default: the experiment's name.")]
Override = typer.Option("-o", metavar="SECTION.FIELD=VALUE", help="Set a field of the experiment; repeatable.")
Overrides = Annotated[list[str] | None, Override]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", metavar="PATH", help="Weights; default: the best of the last run.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options before the command."""


@app.command()
def run(
    experiment: ExperimentName = "",
    run: RunName = "",
    first: Annotated[str, typer.Option("--from", metavar="NN", help="Start at this step (03), whatever has changed.")] = "",
    only: Annotated[str, typer.Option("--only", metavar="NN", help="Run this step alone.")] = "",
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Parameter of a notebook; repeatable.")] = None,
    override: Overrides = None,
) -> None:
    """Run the notebooks in order; finished steps are skipped. Writes results/NAME/ and its report.html."""
    if first and only:
        raise UserError("--from and --only exclude each other: give one of them")
    from m2clip_lib.workbook import NotebookFailed, run_workbook

    try:
        run_workbook(experiment, run, override or [], parameter or [], first, only, report=_say)
    except NotebookFailed as failure:
        if "--debug" in sys.argv:
            raise
        print(f"m2clip: {failure}", file=sys.stderr)
        raise SystemExit(2 if failure.user_error else 1) from None


@app.command()
def prepare(
    experiment: ExperimentName = "",
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="Videos as DIR/<class>/<video>.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the manifest goes; default: as configured.")] = None,
    transcode: Annotated[bool, typer.Option("--transcode", help="Also encode copies that load fast (256 px, close keyframes).")] = False,
    override: Overrides = None,
) -> None:
    """Make what training needs: the manifest of the videos, the table of unreadable ones, the label check, the small CLIP if it is used.

    It can be stopped (Ctrl-C) and continued with the same command.
    """
    from m2clip_lib.config import load_experiment
    from m2clip_lib.data.prepare import prepare_data
    from m2clip_lib.evaluate.labelcheck import decide_labels
    from m2clip_lib.train.pretrain import train_demo_clip

    overrides = list(override or [])
    if folder is not None:
        experiment = experiment or "own_folder"
        overrides += ["data.layout=folder", f"data.root={folder.expanduser().absolute()}"]
    if out is not None:
        overrides.append(f"data.prepared={out.expanduser().absolute()}")
    if transcode:
        overrides.append("data.transcode=true")
    loaded = load_experiment(experiment, overrides)
    manifest = prepare_data(loaded, _say)
    _say(manifest.summary().to_string())
    if loaded.backbone.source == "demo":
        path, trained = train_demo_clip(report=_say)
        _say(f"backbone: small CLIP {'trained, saved as' if trained else 'is there:'} {path}")
    try:
        decide_labels(loaded, manifest, _say)
    except UserError as error:  # most often the weights are not here yet
        _say(f"labels: not compared with frozen CLIP ({error}); training will ask again")
    needed = [f"-o {json.dumps(o) if ' ' in o else o}" for o in overrides if o.startswith(("data.prepared=", "data.transcode="))]
    _say("next: " + " ".join(["m2clip train", loaded.name, *needed]))


@app.command()
def train(
    experiment: ExperimentName = "",
    run: RunName = "",
    resume: Annotated[str, typer.Option("--resume", metavar="auto|never", help="auto: continue the run; never: start over.")] = "auto",
    accept_labels: Annotated[bool, typer.Option("--accept-labels", help="Train although the label check refuses the class names.")] = False,
    override: Overrides = None,
) -> None:
    """Train; writes checkpoints/NAME/{best,last}.safetensors and results/NAME/metrics.csv. The same as python train.py.

    Several processes: torchrun --nproc-per-node N train.py ..., or accelerate launch train.py ...
    SIGTERM and Ctrl-C finish the step, save, and end with status 75: the same command continues. A second signal ends it at once.
    """
    if resume not in ("auto", "never"):
        raise UserError(f"--resume {resume}: give auto or never")
    from m2clip_lib.config import load_experiment
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.labelcheck import require_verdict
    from m2clip_lib.evaluate.processes import Processes
    from m2clip_lib.experiment import open_backbone
    from m2clip_lib.runs import Run, check_run_name
    from m2clip_lib.train.loop import check_run
    from m2clip_lib.train.loop import train as train_model
    from m2clip_lib.train.resume import STATUS, Stopped

    loaded, processes = load_experiment(experiment, override or []), Processes()
    name = check_run_name(run or loaded.name)
    opened = None
    if processes.is_main and resume == "auto":
        check_run(loaded, name, processes.count)  # before anything of the run is written over
    if processes.is_main:
        opened = Run.open(experiment, name, override or [], step="train")
    manifest = load_manifest(loaded)
    if opened:
        warning = require_verdict(loaded, manifest, _say, accept_labels)
        opened.describe_inputs(manifest, open_backbone(loaded).sha256)
    try:
        result = train_model(loaded, manifest, name, _say, progress=sys.stderr.isatty(), resume=resume)
    except Stopped as stopped:
        if processes.is_main:
            print(f"m2clip: {stopped}", file=sys.stderr)
        raise SystemExit(STATUS) from None
    if opened:
        outcome = {"best_epoch": result.best_epoch, "best_val_top1": result.best_val_top1, "seconds": result.seconds}
        opened.record(**outcome, warning=warning, outputs=[str(result.best)])
        _say(f"best: epoch {result.best_epoch}, validation top-1 {result.best_val_top1:.1f} % (nan: no validation) -> {result.best}")


@app.command(name="eval")
def evaluate(experiment: ExperimentName = "", run: RunName = "", checkpoint: Checkpoint = None, override: Overrides = None) -> None:
    """Evaluate a checkpoint with all read-outs; writes predictions and tables. The same as python eval.py."""
    from m2clip_lib.config import load_experiment
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.evaluate import decoders_note, score_checkpoint, zero_shot_note
    from m2clip_lib.evaluate.processes import Processes
    from m2clip_lib.experiment import last_run
    from m2clip_lib.runs import Run, check_run_name

    processes = Processes()
    loaded = load_experiment(experiment, override or [])
    if not run:
        run = loaded.name if checkpoint is not None else last_run(loaded.name)
    opened = Run.open(loaded.name, run, override or [], step="eval") if processes.is_main else Run(check_run_name(run), loaded, "eval")
    table = score_checkpoint(opened, load_manifest(loaded), checkpoint or opened.checkpoint, processes)
    if not processes.is_main:
        return
    _say(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    _say(decoders_note(opened))
    if note := zero_shot_note(opened):
        _say(note)
    opened.record(outputs=[])
    _say(f"tables: {opened.tables}")


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    checkpoint: Checkpoint = None,
    labels: Annotated[str, typer.Option("--labels", metavar="A,B,C|FILE", help="Other class names: a list, or a file, one per line.")] = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Predict window by window, for one long video.")] = False,
    window: Annotated[float, typer.Option("--window", min=0, metavar="S", help="Seconds per window; 0: a training clip, or 2.")] = 0.0,
    every: Annotated[float, typer.Option("--every", min=0, metavar="S", help="Seconds between window starts; 0: half a window.")] = 0.0,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="PNG", help="Also draw the timeline.")] = None,
) -> None:
    """Predict what is happening in videos, or when it happens in a long one."""
    from m2clip_lib.config import load_experiment
    from m2clip_lib.evaluate.predict import parse_labels, predict_videos
    from m2clip_lib.experiment import last_run_checkpoint

    if not timeline and (window or every or picture):
        raise UserError("--window, --every and --picture belong to --timeline: add it")
    checkpoint, names = checkpoint or last_run_checkpoint(load_experiment().name), parse_labels(labels)
    if timeline:
        _timeline(videos, checkpoint, names, top, as_json, window, every, picture)
        return
    found = predict_videos(videos, checkpoint, names, top)
    readable = [video for video in found if not video.error]
    if as_json:
        print(json.dumps([video.as_dict() for video in found], indent=2, ensure_ascii=False))
    for video in [] if as_json else readable:
        print(f"{video.path}  ({video.readout})")
        for name, score in video.top:
            print(f"  {100 * score:5.1f} %  {name}")
    _end_with_failures([f"{video.path}: {video.error}" for video in found if video.error])


def _end_with_failures(failures: list[str]) -> None:
    for failure in failures:
        print(f"m2clip: {failure}; not predicted", file=sys.stderr)
    if failures:
        raise SystemExit(2)


def _timeline(
    videos: list[Path], checkpoint: Path, labels: list[str], top: int, as_json: bool, window: float, every: float, picture: Path | None
) -> None:
    from m2clip_lib.evaluate.predict import open_checkpoint, video_timeline

    if not math.isfinite(window + every):
        raise UserError("--window and --every: give seconds as finite numbers")
    if len(videos) > 1:
        raise UserError(f"--timeline: one video at a time, {len(videos)} were given")
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--picture {picture}: give a path that ends in .png")
    found = video_timeline(videos[0], *open_checkpoint(checkpoint), labels, window, every)
    if as_json:
        content = {"path": found.path, "readout": found.readout, "windows": found.as_list(top)}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(f"{found.path}  ({found.readout})")
        for start, end, best in zip(found.starts, found.ends, found.top(top), strict=True):
            print(f"  {start:7.1f} to {end:7.1f} s  " + ", ".join(f"{100 * score:.1f} % {name}" for name, score in best))
    if picture is not None:
        from m2clip_lib.viz.plots.attention import save_timeline

        save_timeline(found, picture)
        print(f"picture: {picture}", file=sys.stderr)
    _end_with_failures([f"{found.path}: {found.starts[place]:.1f} s: {reason}" for place, reason in found.failed])


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="[data|train|eval|all]", help="Which benchmark.")] = "all",
    json_path: Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Also write the figures as JSON.")] = None,
    videos: Annotated[Path | None, typer.Option("--videos", metavar="DIR", help="With data: compare decoders on these files.")] = None,
) -> None:
    """Measure this machine: loading videos, training steps, evaluation."""
    import runpy

    from m2clip_lib import paths

    script = paths.ROOT / "benchmarks" / "run.py"
    if not script.is_file():
        raise UserError(f"bench: {script} is missing; run it from a clone of the repository")
    runpy.run_path(str(script))["main"](what, json_path, videos, _say)


@app.command()
def plan(
    experiment: ExperimentName = "",
    gpus: Annotated[str, typer.Option("--gpus", metavar="N,N", help="Numbers of devices like this one.")] = "1,8",
    clips_per_s: Annotated[float, typer.Option("--clips-per-s", min=0, help="Measured here; default: from the run's metrics.csv.")] = 0.0,
    videos: Annotated[int, typer.Option("--videos", min=0, help="Training videos; default: as in the manifest, or the official list.")] = 0,
    override: Overrides = None,
) -> None:
    """Estimate hours, memory and loader rate of a training; each figure says whether it is measured, counted or assumed."""
    if not all(part.strip().isdigit() and int(part) for part in gpus.split(",")):
        raise UserError(f"--gpus {gpus}: give positive numbers, such as 1,8")
    from m2clip_lib import paths
    from m2clip_lib.config import load_experiment
    from m2clip_lib.train.plan import clips_per_second, plan_lines, planned_dataset

    loaded = load_experiment(experiment, override or [])
    rate, source = clips_per_second(loaded, paths.RESULTS, clips_per_s)
    count, classes = (videos, 0) if videos else planned_dataset(loaded, _say)
    for line in plan_lines(loaded, count, classes, rate, source, [int(part) for part in gpus.split(",")]):
        _say(line)


def main(arguments: list[str] | None = None) -> None:
    """Entry of the command line; arguments default to sys.argv[1:]."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # it may come anywhere
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status = app(args=arguments, prog_name="m2clip", standalone_mode=False)
    except Exception as error:
        # Usage errors are recognised by their method: newer typers carry their own copy of click, so they share no public base class.
        message = str(error) if isinstance(error, UserError) else error.format_message() if hasattr(error, "format_message") else None
        if debug or message is None:
            raise
        print(f"m2clip: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # newer typers return 130 instead
        status = 130
    if status == 130:
        print("m2clip: interrupted", file=sys.stderr)
    raise SystemExit(status if isinstance(status, int) else 0)
