"""The command line: m2clip run | prepare | check | pretrain | train | eval | ablate | features | probe | predict | search |
bench | plan | export | card | push | pull.

Imports are lazy, so that --help answers at once. Bad input ends with one line on stderr and exit status 2; --debug shows the traceback.
"""

import io
import logging
import os
import sys
from typing import Annotated

import typer

from m2clip_lib.cli.curate import check
from m2clip_lib.cli.evaluation import evaluate
from m2clip_lib.cli.moments import predict, search
from m2clip_lib.cli.shipping import card, export, pull, push
from m2clip_lib.cli.studies import ablate, features, probe
from m2clip_lib.cli.training import plan, pretrain, train
from m2clip_lib.cli.workbook import bench, prepare, run
from m2clip_lib.errors import UserError
from m2clip_lib.files import storage_error

app = typer.Typer(
    help="M2CLIP workbook: adapt a frozen CLIP to video action recognition.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS = {  # name -> what it runs, and an example
    "run": (run, "m2clip run demo --run longer --from 03 -o train.epochs=12"),
    "prepare": (prepare, "m2clip prepare --folder ~/videos"),
    "check": (check, "m2clip check own_folder --top 50"),
    "pretrain": (pretrain, "m2clip pretrain --seed 1 --out other_clip.safetensors"),
    "train": (train, "m2clip train own_folder -o train.epochs=20"),
    "eval": (evaluate, "m2clip eval own_folder --mix 0,0.5,1"),
    "ablate": (ablate, "m2clip ablate demo --study components,heads --seeds 3"),
    "features": (features, "m2clip features own_folder"),
    "probe": (probe, "m2clip probe own_folder --seeds 3"),
    "predict": (predict, "m2clip predict holiday.mp4 --labels 'surfing,swimming,sailing' --top 2"),
    "search": (search, "m2clip search 'a red square' --folder ~/videos --top 5"),
    "bench": (bench, "m2clip bench train --json speed.json"),
    "plan": (plan, "m2clip plan k400_b16_16gb --videos 240000"),
    "export": (export, "m2clip export checkpoints/demo/best.safetensors --onnx exported"),
    "card": (card, "m2clip card demo"),
    "push": (push, "m2clip push checkpoints/demo/best.safetensors OWNER/NAME"),
    "pull": (pull, "m2clip pull OWNER/NAME --to pulled"),
}
for name, (command, example) in COMMANDS.items():
    app.command(name, short_help=command.__doc__.splitlines()[0], epilog=f"Example: {example}")(command)  # else it is cut


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options before the command."""


def main(arguments: list[str] | None = None) -> None:
    """Entry of the command line; arguments default to sys.argv[1:]."""
    _speak_utf_8()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # it may come anywhere
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    os.environ["MPLBACKEND"] = "agg"  # figures go into files: a backend for windows would need a display
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status = app(args=arguments, prog_name="m2clip", standalone_mode=False)
    except Exception as error:
        explained = error if isinstance(error, UserError) else storage_error(error)
        # Usage errors are recognised by their method: newer typers carry their own copy of click, so they share no public base class.
        message = str(explained) if explained else error.format_message() if hasattr(error, "format_message") else None
        if debug or message is None:
            raise
        print(f"m2clip: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # newer typers return 130 instead
        status = 130
    if status == 130:
        print("m2clip: interrupted", file=sys.stderr)
    raise SystemExit(status if isinstance(status, int) else 0)


def _speak_utf_8() -> None:
    """Read and write file names and texts as UTF-8, here and in children, whatever the locale; what a terminal cannot show is escaped.

    The encoding of file names is fixed when Python starts, so under another locale the same command starts once more.
    """
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or sys.stdout.encoding
    mode = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:backslashreplace"}
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | mode)
    os.environ["PYTHONIOENCODING"] = mode["PYTHONIOENCODING"]  # for children
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
