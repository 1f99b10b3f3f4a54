"""What the commands share: types of arguments, and how to print."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

say = partial(print, flush=True)

ExperimentName = Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="Entry of configs/config.py; default: DEFAULT_EXPERIMENT.")]
RunName = Annotated[str, typer.Option("--run", metavar="NAME", help="Folder in results/ and checkpoints/; default: the experiment's name.")]
Override = typer.Option("-o", metavar="SECTION.FIELD=VALUE", help="Set a field of the experiment; repeatable.")
Overrides = Annotated[list[str] | None, Override]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", metavar="PATH", help="Weights; default: the best of the last run.")]
