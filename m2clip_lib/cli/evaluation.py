"""m2clip eval."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import Overrides, RunName, say
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
    from m2clip_lib.evaluate.tables import measure_of, mix_table
    from m2clip_lib.experiment import last_run
    from m2clip_lib.models.checkpoint import existing
    from m2clip_lib.runs import Run, check_run_name, own_run

    checkpoint = None if checkpoint is None else existing(checkpoint)  # of a folder, its file
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
            measure = measure_of(mixed)
            shown = mixed[["mix", "split", "readout", measure, f"{measure}_low", f"{measure}_high", "chosen"]]
            _print_table(shown.assign(mix=shown.mix.map("{:g}".format)))
        say(decoders_note(opened))
        if note := zero_shot_note(opened):
            say(note)
        opened.record(outputs=[])
        say(f"checkpoint: {checkpoint}\ntables: {opened.tables}")


def _print_table(table) -> None:
    say(table.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.1f}"))
