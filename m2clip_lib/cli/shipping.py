"""m2clip export, card, push and pull."""

from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import say

Weights = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or its folder.")]
Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the Hugging Face Hub.")]


def export(
    checkpoint: Weights,
    onnx: Annotated[Path | None, typer.Option("--onnx", metavar="DIR", help="Folder for ONNX files.")] = None,
    torch_export: Annotated[Path | None, typer.Option("--torch-export", metavar="DIR", help="Folder for torch.export's .pt2.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Export the text encoder, too.")] = False,
) -> None:
    """Write the model as a graph that runs without this library, with weights, card and protocol; each is compared with torch first."""
    from m2clip_lib.ship.folder import export as export_checkpoint

    for file, differences in export_checkpoint(checkpoint, onnx, torch_export, text).items():
        say(f"{file}: largest difference from torch " + ", ".join(f"{value:.1e} ({name})" for name, value in differences.items()))
    for folder in dict.fromkeys(folder for folder in (onnx, torch_export) if folder is not None):
        say(f"weights, card, class names and protocol: {folder}")


def card(checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT|RUN", help="A checkpoint, its folder, or a run's name.")]) -> None:
    """Print the model card of a checkpoint, made from its header and the evaluations in results/."""
    from m2clip_lib import paths
    from m2clip_lib.ship.card import model_card

    given = Path(checkpoint)
    say(model_card(given if given.exists() or len(given.parts) > 1 else paths.CHECKPOINTS / given).rstrip())


def push(checkpoint: Weights, repository: Repository) -> None:
    """Send a checkpoint with its card to the Hugging Face Hub; a new repository is private."""
    from m2clip_lib.ship.hub import push as send

    say(f"sent: {send(checkpoint, repository)}")


def pull(
    repository: Repository,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="A new folder; default: NAME in checkpoints/.")] = None,
) -> None:
    """Fetch a checkpoint from the Hugging Face Hub; of its files, only those that cannot hold code."""
    from m2clip_lib.ship.hub import pull as fetch

    folder = fetch(repository, to)
    say(f"checkpoint: {folder}; use it with: m2clip predict VIDEO --checkpoint {folder}")
