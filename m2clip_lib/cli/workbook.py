"""m2clip run, prepare and bench: the notebooks in order, the data they need, the speed of this machine."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import ExperimentName, Overrides, RunName, say
from m2clip_lib.errors import UserError


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
        run_workbook(experiment, run, override or [], parameter or [], first, only, report=say)
    except NotebookFailed as failure:
        if "--debug" in sys.argv:
            raise
        print(f"m2clip: {failure}", file=sys.stderr)
        raise SystemExit(2 if failure.user_error else 1) from None


def prepare(
    experiment: ExperimentName = "",
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="Videos as DIR/<class>/<video>.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the manifest goes; default: as configured.")] = None,
    transcode: Annotated[bool, typer.Option("--transcode", help="Also encode copies that load fast (256 px, close keyframes).")] = False,
    override: Overrides = None,
) -> None:
    """Make what training needs: the manifest of the videos, the table of unreadable ones, the label check.

    It can be stopped (Ctrl-C) and continued with the same command.
    """
    from m2clip_lib.config import load_experiment
    from m2clip_lib.data.prepare import prepare_data

    overrides = list(override or [])
    if folder is not None:
        experiment = experiment or "own_folder"
        overrides += ["data.layout=folder", f"data.root={folder.expanduser().absolute()}"]
    if out is not None:
        overrides.append(f"data.prepared={out.expanduser().absolute()}")
    if transcode:
        overrides.append("data.transcode=true")
    loaded = load_experiment(experiment, overrides)
    manifest = prepare_data(loaded, say)
    from m2clip_lib.evaluate.labelcheck import decide_labels  # imports torch: after what needs no torch

    say(manifest.summary().to_string())
    try:
        decide_labels(loaded, manifest, say)
    except UserError as error:  # most often the weights are not here yet
        say(f"labels: not compared with frozen CLIP ({error}); training will ask again")
    needed = [f"-o {json.dumps(o) if ' ' in o else o}" for o in overrides if o.startswith(("data.prepared=", "data.transcode="))]
    say("next: " + " ".join(["m2clip train", loaded.name, *needed]))


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
    runpy.run_path(str(script))["main"](what, json_path, videos, say)
