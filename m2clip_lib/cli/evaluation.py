"""m2clip eval and predict."""

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import Checkpoint, Overrides, RunName, say
from m2clip_lib.errors import UserError

Experiments = Annotated[list[str] | None, typer.Argument(metavar="[EXPERIMENT...]", help="Entries of configs/config.py to evaluate on.")]
Checkpoints = Annotated[
    list[Path] | None, typer.Option("--checkpoint", metavar="PATH", help="Weights; repeatable; default: the last run's.")
]
Mixes = Annotated[str, typer.Option("--mix", metavar="A,B,...", help="Also with the trained adapters' share, from 0 (frozen CLIP) to 1.")]


def evaluate(
    experiments: Experiments = None, run: RunName = "", checkpoint: Checkpoints = None, mix: Mixes = "", override: Overrides = None
) -> None:
    """Evaluate checkpoints on data sets with all read-outs; writes predictions and tables. The same as python eval.py.

    A checkpoint that is not the run's own is evaluated into a run of its own, named after the file's digest. What was scored before,
    with the same file, list, protocol and code, is not scored again.
    """
    pairs = [(name, file) for name in experiments or [""] for file in checkpoint or [None]]
    if run and len(pairs) > 1:
        raise UserError(f"--run {run}: names one run, but {len(pairs)} evaluations are asked for; leave it out")
    for name, file in pairs:
        _evaluate(name, run, file, _shares(mix), override or [])


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(f"--mix {text}: expected numbers from 0 (frozen CLIP) to 1 (as trained), such as 0,0.25,0.5,0.75,1")
    return shares


def _evaluate(experiment: str, run: str, checkpoint: Path | None, mixes: list[float], overrides: list[str]) -> None:
    from m2clip_lib.config import load_experiment

    loaded = load_experiment(experiment, overrides)  # before torch is imported, which takes seconds
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.evaluate import decoders_note, run_for_checkpoint, score_checkpoint, zero_shot_note
    from m2clip_lib.evaluate.processes import Processes
    from m2clip_lib.evaluate.tables import mix_table
    from m2clip_lib.experiment import last_run
    from m2clip_lib.runs import Run, check_run_name, own_run

    processes = Processes()
    report = say if processes.is_main else lambda line: None
    run = check_run_name(run_for_checkpoint(loaded, run, checkpoint, report) if checkpoint is not None else run or last_run(loaded.name))
    with own_run(run, "eval") if processes.is_main else nullcontext():
        opened = Run.open(loaded.name, run, overrides, step="eval") if processes.is_main else Run(run, loaded, "eval")
        checkpoint = checkpoint or opened.checkpoint
        table = score_checkpoint(opened, load_manifest(loaded), checkpoint, processes, mixes)
        if not processes.is_main:
            return
        _print_table(table)
        if mixes:
            mixed = mix_table(opened.predictions, loaded.eval.split, mixes)
            opened.save(mixed, "mix")
            shown = mixed[["mix", "split", "readout", "top1", "top1_low", "top1_high", "chosen"]]
            _print_table(shown.assign(mix=shown.mix.map("{:g}".format)))
        say(decoders_note(opened))
        if note := zero_shot_note(opened):
            say(note)
        opened.record(outputs=[])
        say(f"checkpoint: {checkpoint}\ntables: {opened.tables}")


def _print_table(table) -> None:
    say(table.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.1f}"))


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
    from m2clip_lib import paths
    from m2clip_lib.config import load_experiment
    from m2clip_lib.evaluate.predict import parse_labels, predict_videos
    from m2clip_lib.experiment import last_run

    if not timeline and (window or every or picture):
        raise UserError("--window, --every and --picture belong to --timeline: add it")
    names = parse_labels(labels)
    if checkpoint is None:
        checkpoint = paths.CHECKPOINTS / last_run(load_experiment().name) / "best.safetensors"
        print(f"checkpoint: {checkpoint}", file=sys.stderr)
    if timeline:
        _timeline(videos, checkpoint, names, top, as_json, window, every, picture)
        return
    found = predict_videos(videos, checkpoint, names, top)
    if as_json:
        print(json.dumps([video.as_dict() for video in found], indent=2, ensure_ascii=False))
    for video in found:
        if not (as_json or video.error):
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
