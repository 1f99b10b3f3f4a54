"""Evaluate one checkpoint: predictions to files, then tables from those files. What notebook 04 and `m2clip eval` do."""

from pathlib import Path

import pandas as pd

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.engine.build import open_backbone, pick_device, set_threads, test_views
from m2clip_lib.engine.evaluate import load_predictions, predict, save_predictions
from m2clip_lib.engine.headline import MODEL_NAME, accuracy_rows, backwards_table, describe_protocol, has_opposites
from m2clip_lib.engine.protocols import confusion_matrix, per_class_table
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run


def predict_checkpoint(run: Run, manifest: Manifest, checkpoint: Path) -> list[str]:
    """Score the evaluation split, and the same played backwards where the experiment asks. Returns: names of the predictions."""
    experiment = run.experiment
    set_threads(0)
    backbone, device = open_backbone(experiment), pick_device()
    model = M2CLIP.from_checkpoint(checkpoint, backbone).to(device)
    if list(model.config.class_names) != manifest.class_names:
        raise UserError(
            f"{checkpoint}: trained on {len(model.config.class_names)} classes ({model.config.class_names[0]!r}, ...), "
            f"the manifest has {len(manifest.class_names)} ({manifest.class_names[0]!r}, ...); evaluate it on its own dataset"
        )
    split, protocol = experiment.eval.split, experiment.eval
    names = [split] + ([f"{split}_backwards"] if protocol.backwards else [])
    for name in names:
        dataset = test_views(experiment, manifest, split, backbone, backwards=name != split)
        predictions = predict(model, dataset, protocol.batch_size, experiment.data.workers, device)
        save_predictions(predictions, manifest.split(split), run.predictions, name, checkpoint=str(checkpoint), split=split)
    return names


def write_tables(run: Run, manifest: Manifest) -> pd.DataFrame:
    """Make the evaluation's tables from the saved predictions. Returns: accuracy of the three read-outs (tables/accuracy.csv)."""
    split = run.experiment.eval.split
    predictions = load_predictions(run.predictions, split)
    ensemble = predictions.readout("ensemble")
    table = pd.DataFrame(accuracy_rows(predictions, MODEL_NAME)).assign(**describe_protocol(run.experiment, manifest), seeds=1)
    run.save(table, "accuracy")
    run.save(per_class_table(ensemble, predictions.labels, manifest.class_names), "per_class")
    counts = pd.DataFrame(confusion_matrix(ensemble, predictions.labels), columns=manifest.class_names)
    run.save(counts.assign(true_class=manifest.class_names), "confusion")
    if run.experiment.eval.backwards and has_opposites(manifest.class_names):
        run.save(backwards_table(predictions, load_predictions(run.predictions, f"{split}_backwards")), "backwards")
    return table


def score_checkpoint(run: Run, manifest: Manifest, checkpoint: Path) -> pd.DataFrame:
    """Predict, save, and tabulate; see the two functions above."""
    predict_checkpoint(run, manifest, checkpoint)
    table = write_tables(run, manifest)
    return table[
        ["model", "readout", "top1", "top1_low", "top1_high", "top5", *(["direction"] if "direction" in table else []), "videos", "failed"]
    ]
