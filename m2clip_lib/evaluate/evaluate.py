"""Evaluate one checkpoint: predictions to files, then tables from those files. What notebook 04 and `m2clip eval` do."""

import dataclasses
import json
from pathlib import Path

import pandas as pd

from m2clip_lib.data.classes import class_key
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import confusion_matrix, per_class_table
from m2clip_lib.evaluate.predictions import load_predictions, predict, save_predictions
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.tables import accuracy_rows, backwards_table, has_opposites, model_name, protocol_columns
from m2clip_lib.experiment import keep_freed_memory, open_backbone, set_threads
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run


def predict_checkpoint(run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None) -> list[str]:
    """Score the evaluation split, and the same played backwards where the experiment asks.

    A dataset of other classes is scored zero-shot: by similarity with its own names and prompts.
    Returns: names of the predictions.
    """
    experiment = run.experiment
    set_threads(0)
    keep_freed_memory()
    processes = processes or Processes()
    backbone, device = open_backbone(experiment), processes.device
    model = M2CLIP.from_checkpoint(checkpoint, backbone).to(device)
    protocol = Protocol.of_experiment(experiment)
    about: dict[str, object] = {"checkpoint": str(checkpoint), "split": protocol.split}
    trained, other = list(model.config.class_names), None
    if not is_own_label_set(trained, manifest.class_names, checkpoint):
        other = manifest.class_names
        about["shared_classes"] = shared_classes(trained, other)
    played = {protocol.split: protocol}
    if experiment.eval.backwards:
        played[f"{protocol.split}_backwards"] = dataclasses.replace(protocol, backwards=True)
    for name, protocol in played.items():
        dataset = evaluation_views(experiment, manifest, backbone, protocol)
        predictions = predict(model, dataset, experiment.eval.batch_size, experiment.data.workers, device, other, processes)
        if processes.is_main:
            save_predictions(predictions, manifest, run.predictions, name, **about)
    return list(played)


def is_own_label_set(trained: list[str], listed: list[str], checkpoint: Path) -> bool:
    """Whether a dataset's classes are a checkpoint's, spelling aside; others are scored zero-shot.

    Raises: UserError when they are the same in another order: then label i means two classes, and one of the lists is wrong.
    """
    own, other = ([class_key(name) for name in names] for names in (trained, listed))
    if own == other or sorted(own) != sorted(other):
        return own == other
    i = next(i for i, (a, b) in enumerate(zip(own, other, strict=True)) if a != b)
    raise UserError(
        f"{checkpoint}: trained on the same {len(trained)} classes in another order (label {i}: {trained[i]!r} there, {listed[i]!r} in "
        "the manifest); evaluate it with the names file it was trained with"
    )


def shared_classes(trained: list[str], listed: list[str]) -> list[str]:
    """Classes of a dataset that are classes of the training too: zero-shot means there should be none."""
    keys = {class_key(name) for name in trained}
    return [name for name in listed if class_key(name) in keys]


def decoders_note(run: Run) -> str:
    """How many videos of the evaluation were read by which decoder, and how many by none."""
    about = json.loads((run.predictions / f"{run.experiment.eval.split}.json").read_text())
    read = ", ".join(f"{name} {count}" for name, count in sorted(about["decoders"].items()))
    failed = f"; {len(about['failed'])} could not be read (see {run.predictions.name}/{run.experiment.eval.split}.json)"
    return f"videos were read by: {read}" + (failed if about["failed"] else "")


def zero_shot_note(run: Run) -> str:
    """What to say of the saved predictions of a dataset of other classes; "" where they are the checkpoint's own."""
    about = json.loads((run.predictions / f"{run.experiment.eval.split}.json").read_text())
    shared = about.get("shared_classes")
    if shared is None:
        return ""
    named = f" ({', '.join(map(repr, shared[:3]))})" if shared else ""
    return f"zero-shot: {len(shared)} of the {len(about['class_names'])} classes were classes of the training too{named}"


def write_tables(run: Run, manifest: Manifest) -> pd.DataFrame:
    """Make the evaluation's tables from the saved predictions. Returns: accuracy of the three read-outs (tables/accuracy.csv)."""
    split = run.experiment.eval.split
    predictions = load_predictions(run.predictions, split)
    best = predictions.readout(predictions.readouts[-1])  # the ensemble; zero-shot the similarity
    table = pd.DataFrame(accuracy_rows(predictions, model_name(predictions))).assign(**protocol_columns(predictions), seeds=1)
    run.save(table, "accuracy")
    run.save(per_class_table(best, predictions.labels, manifest.class_names), "per_class")
    counts = pd.DataFrame(confusion_matrix(best, predictions.labels), columns=manifest.class_names)
    run.save(counts.assign(true_class=manifest.class_names), "confusion")
    if run.experiment.eval.backwards and has_opposites(manifest.class_names):
        run.save(backwards_table(predictions, load_predictions(run.predictions, f"{split}_backwards")), "backwards")
    return table


def score_checkpoint(run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None) -> pd.DataFrame:
    """Predict, save, and tabulate; see the two functions above. Several processes share the videos; the first one writes."""
    processes = processes or Processes()
    predict_checkpoint(run, manifest, checkpoint, processes)
    if not processes.is_main:
        return pd.DataFrame()
    table = write_tables(run, manifest)
    return table[
        ["model", "readout", "top1", "top1_low", "top1_high", "top5", *(["direction"] if "direction" in table else []), "videos", "failed"]
    ]
