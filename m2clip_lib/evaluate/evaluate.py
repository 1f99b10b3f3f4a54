"""Evaluate one checkpoint: predictions to files, then tables from those files. Used by notebook 04 and `m2clip eval`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from m2clip_lib.data.classes import class_key
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import confusion_matrix, per_class_table
from m2clip_lib.evaluate.predictions import load_predictions, predict_split, save_predictions
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.tables import accuracy_rows, backwards_table, has_opposites, model_name
from m2clip_lib.experiment import keep_freed_memory, open_backbone, set_threads
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run

SHOWN = (  # columns to print
    *("model", "readout", "top1", "top1_low", "top1_high", "interval", "top5", "direction"),
    *("videos", "failed", "listed", "missing", "unreadable", "scored"),
)


def predict_checkpoint(run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None) -> list[str]:
    """Score the evaluation split, and the same split played backwards if the experiment asks for it.

    A dataset with other classes than the checkpoint's is scored zero-shot: by similarity, with its own names and prompts.
    Returns: names of the predictions.
    """
    experiment, processes = run.experiment, processes or Processes()
    set_threads(0)
    keep_freed_memory()
    model = M2CLIP.from_checkpoint(checkpoint, open_backbone(experiment)).to(processes.device)
    protocol = Protocol.of_experiment(experiment)
    about: dict[str, object] = {"checkpoint": str(checkpoint), "split": protocol.split}
    trained, other = list(model.config.class_names), None
    if not is_own_label_set(trained, manifest.class_names, checkpoint):
        other, keys = manifest.class_names, {class_key(name) for name in trained}
        about["shared_classes"] = [name for name in other if class_key(name) in keys]  # zero-shot means that there should be none
    played = {protocol.split: protocol}
    if experiment.eval.backwards:
        played[f"{protocol.split}_backwards"] = dataclasses.replace(protocol, backwards=True)
    for name, protocol in played.items():
        predictions = predict_split(experiment, manifest, model, protocol, class_names=other, processes=processes)
        if processes.is_main:
            save_predictions(predictions, manifest, run.predictions, name, **about)
    return list(played)


def is_own_label_set(trained: Sequence[str], listed: Sequence[str], checkpoint: Path | str) -> bool:
    """Whether a dataset's classes are those of a checkpoint, ignoring spelling.

    Raises: UserError when the classes are the same in another order: label i would mean two classes.
    """
    own, other = ([class_key(name) for name in names] for names in (trained, listed))
    if own == other or sorted(own) != sorted(other):
        return own == other
    i = next(i for i, (a, b) in enumerate(zip(own, other, strict=True)) if a != b)
    raise UserError(
        f"{checkpoint}: trained on the same {len(trained)} classes in another order (label {i}: {trained[i]!r} there, {listed[i]!r} in "
        "the manifest); evaluate it with the names file it was trained with"
    )


def decoders_note(run: Run) -> str:
    """How many videos of the evaluation each decoder read, and how many could not be read."""
    found = load_predictions(run.predictions, run.experiment.eval.split)
    read = ", ".join(f"{name} {count}" for name, count in sorted(found.decoders.items()))
    failed = f"; {len(found.failed)} could not be read (see {run.predictions.name}/{run.experiment.eval.split}.json)"
    return f"videos were read by: {read}" + (failed if found.failed else "")


def zero_shot_note(run: Run) -> str:
    """How many classes of a zero-shot evaluation the checkpoint was trained on; "" for the checkpoint's own classes."""
    about = json.loads((run.predictions / f"{run.experiment.eval.split}.json").read_text())
    shared = about.get("shared_classes")
    if shared is None:
        return ""
    named = f" ({', '.join(map(repr, shared[:3]))})" if shared else ""
    return f"zero-shot: {len(shared)} of the {len(about['class_names'])} classes were also training classes{named}"


def write_tables(run: Run, manifest: Manifest) -> pd.DataFrame:
    """Make the evaluation's tables from the saved predictions. Returns: accuracy per read-out (tables/accuracy.csv)."""
    split = run.experiment.eval.split
    predictions = load_predictions(run.predictions, split)
    columns = predictions.protocol.columns(predictions.list_sha256)
    table = pd.DataFrame(accuracy_rows(predictions, model_name(predictions))).assign(**columns, seeds=1)
    run.save(table, "accuracy")
    per_class = per_class_table(predictions.best, predictions.labels, manifest.class_names, predictions.recordings, predictions.wrong)
    run.save(per_class.assign(readout=predictions.readouts[-1]), "per_class")
    counts = pd.DataFrame(confusion_matrix(predictions.best, predictions.labels), columns=manifest.class_names)
    run.save(counts.assign(true_class=manifest.class_names), "confusion")
    if run.experiment.eval.backwards and has_opposites(manifest.class_names):
        run.save(backwards_table(predictions, load_predictions(run.predictions, f"{split}_backwards")), "backwards")
    return table


def score_checkpoint(run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None) -> pd.DataFrame:
    """Predict, save and tabulate. Several processes share the videos; only the main one writes and returns a table that is not empty."""
    processes = processes or Processes()
    predict_checkpoint(run, manifest, checkpoint, processes)
    return write_tables(run, manifest).filter(SHOWN) if processes.is_main else pd.DataFrame()
