"""Tables made from saved predictions: each row names its model and protocol, and each accuracy comes with its interval."""

from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.evaluate.metrics import (
    abstention_table,
    best_temperature,
    calibration_error,
    direction_hits,
    is_hit,
    mean_class_accuracy,
    per_class_table,
    percent,
    reliability_table,
    tempered,
    top1_columns,
)
from m2clip_lib.evaluate.multilabel import best_thresholds, label_table, map_columns, one_sided
from m2clip_lib.evaluate.predictions import Predictions, load_predictions

MODEL_NAME = "M2-CLIP"
WORDS = {"top1": "top-1", "mean_ap": "mAP", "direction": "direction"}  # columns of measures
MEASURES = {"top1": "Top-1", "mean_ap": "mAP", "direction": "Direction"}  # and where a sentence begins


def accuracy_rows(predictions: Predictions, model: str, validation: Predictions | None = None) -> list[dict]:
    """One row per read-out: accuracies in percent, and numbers of videos.

    top1 with its 95 % interval; mean_class, the mean over classes; top5, NaN with five classes or fewer; direction, of direction_videos
    whose classes have opposites; ece, the expected calibration error in points. listed = missing +
    unreadable + scored; a video that failed while it was decoded is unreadable. videos: those scored; failed: those that failed.

    Where videos have several labels, mean_ap (mAP, see map_columns) replaces top1, mean_class, top5 and ece, and direction is that of the
    labels whose opposite is no label of the video.

    validation: chooses the thresholds for f1, where videos have several labels.
    """
    labels, lost, missing, rows = predictions.labels, len(predictions.lost), predictions.missing, []
    counts = {"videos": len(labels), "failed": len(predictions.failed), "listed": len(labels) + lost, "missing": missing}
    counts |= {"unreadable": lost - missing, "scored": len(labels)}
    counts |= {"count_unreadable_as_wrong": predictions.count_unreadable_as_wrong}
    for readout in predictions.readouts:
        scores = predictions.readout(readout)
        row = {"model": model, "readout": readout}
        if predictions.targets is not None:
            thresholds = None if validation is None else best_thresholds(validation.readout(readout), validation.targets)
            found = map_columns(scores, predictions.targets, predictions.recordings[: len(scores)], thresholds)
            row |= found | {"f1": found.get("f1", float("nan"))}
            videos, named = one_sided(predictions.targets, predictions.opposites)
            if len(videos):
                row |= {"direction": percent(direction_hits(scores[videos], named, predictions.opposites)), "direction_videos": len(videos)}
            rows.append(row | counts)
            continue
        hits = with_wrong(is_hit(scores, labels, 1), predictions)
        row |= top1_columns(hits, predictions.recordings[: len(hits)])
        row["mean_class"] = mean_class_accuracy(hits, np.append(labels, predictions.wrong))
        row["top5"] = percent(with_wrong(is_hit(scores, labels, 5), predictions)) if scores.shape[1] > 5 else float("nan")
        if (predictions.opposites >= 0).any():
            hits, misses = direction_hits(scores, labels, predictions.opposites), predictions.opposites[predictions.wrong] >= 0
            paired = np.pad(hits, (0, int(misses.sum())))
            row |= {"direction": percent(paired), "direction_videos": len(paired)}
        rows.append(row | {"ece": calibration_error(scores, labels)} | counts)
    return rows


def class_table(found: Predictions, class_names: Sequence[str], validation: Predictions | None = None) -> pd.DataFrame:
    """The best read-out class by class: per_class_table, or label_table with thresholds of validation where videos have several labels."""
    if found.targets is None:
        return per_class_table(found.best, found.labels, class_names, found.recordings, found.wrong)
    if validation is None:
        return label_table(found.best, found.targets, class_names)
    thresholds = best_thresholds(validation.best, validation.targets)
    chosen_on = np.where(validation.targets.any(axis=0), "val", "")  # nothing chooses that of a class without validation videos
    return label_table(found.best, found.targets, class_names, thresholds).assign(threshold_chosen_on=chosen_on)


def calibration_tables(predictions: Predictions, validation: Predictions | None) -> dict[str, pd.DataFrame]:
    """Whether the best read-out's scores can be believed: tables by name.

    calibration: reliability_table of the scores as they are and, where there is a validation split, of those divided by the
    temperature that fits it. abstention: abstention_table.
    """
    scores, labels = predictions.best, predictions.labels
    parts = [reliability_table(scores, labels).assign(scores="as they are", temperature=1.0, ece=calibration_error(scores, labels))]
    if validation is not None:
        temperature = best_temperature(validation.best, validation.labels)
        cooled = tempered(scores, temperature)
        fitted = {"scores": "temperature of validation", "temperature": temperature, "ece": calibration_error(cooled, labels)}
        parts.append(reliability_table(cooled, labels).assign(**fitted))
    return {"calibration": pd.concat(parts, ignore_index=True), "abstention": abstention_table(scores, labels)}


def mix_table(folder: Path, split: str, mixes: Sequence[float]) -> pd.DataFrame:
    """Accuracy by share of the trained adapters, on the reported split and on validation, from saved predictions.

    Columns: mix (0 is frozen CLIP), split, those of accuracy_rows, and chosen: whether the best read-out is best on validation at this
    mix (of equals, the largest mix). Without a validation split nothing is chosen.
    """
    rows = []
    for of_split in (split, "val"):
        for mix in sorted({1.0, *mixes}):
            name = f"{of_split}_mix{mix:g}" if mix != 1 else of_split
            if (folder / f"{name}.json").is_file():
                found = load_predictions(folder, name)
                rows += [{"mix": mix, "split": of_split} | row for row in accuracy_rows(found, model_name(found))]
    table = pd.DataFrame(rows).drop_duplicates(["mix", "split", "readout"])
    chosen = float("nan")
    if split != "val" and (table.split == "val").any():
        best = table[(table.split == "val") & (table.readout == table.readout.iloc[-1])]
        values = best[measure_of(table)]
        chosen = best[values == values.max()].mix.max()
    return table.assign(chosen=table.mix == chosen)


def measure_of(table: Container[str]) -> str:
    """The column of the headline measure, of a table or a row: "mean_ap" where videos have several labels, else "top1"."""
    return "mean_ap" if "mean_ap" in table else "top1"


def with_wrong(hits: np.ndarray, predictions: Predictions) -> np.ndarray:
    """Hits of the scored videos (n,), followed by a miss for each video without scores that counts as wrong."""
    return np.pad(hits, (0, len(predictions.wrong)))


def model_name(predictions: Predictions) -> str:
    """The trained model's name in tables; it is zero-shot when its classifier does not know the classes."""
    return MODEL_NAME if predictions.classifier is not None else f"{MODEL_NAME}, zero-shot"


def headline_table(folder: Path, split: str) -> pd.DataFrame:
    """The controls that cannot see time and the trained model, one row per read-out, from the saved predictions."""
    zero_shot, probe, trained = (load_predictions(folder, f"{split}{name}") for name in ("_frozen_clip", "_frame_mean_probe", ""))
    validation = validation_of(trained, folder)
    rows = [
        (zero_shot, accuracy_rows(zero_shot, "frozen CLIP, zero-shot")),
        (probe, [row | {"readout": "classifier"} for row in accuracy_rows(probe, "probe on the frame mean")]),
        (trained, accuracy_rows(trained, model_name(trained), validation)),
    ]
    return pd.DataFrame([row | {"seeds": 1} | found.columns() for found, own in rows for row in own])


def validation_of(found: Predictions, folder: Path) -> Predictions | None:
    """The predictions of the validation split by the same checkpoint; None where there are none, or they are what is reported."""
    if found.protocol.split == "val" or not (folder / "val.json").is_file():
        return None
    validation = load_predictions(folder, "val")
    return validation if validation.checkpoint_sha256 == found.checkpoint_sha256 else None


def best_rows(headline: pd.DataFrame) -> pd.DataFrame:
    """One row per model: its best read-out, which is the last."""
    return headline.groupby("model", sort=False).tail(1).reset_index(drop=True)


def headline_finding(headline: pd.DataFrame) -> str:
    """The result in one or two sentences."""
    best = best_rows(headline)
    own, others = best.iloc[-1], best.iloc[:-1]
    counted = own.listed if own.count_unreadable_as_wrong else own.scored
    chosen_here = own.get("epoch_chosen_on", "") == own.split
    videos = f"{counted:,} {'' if chosen_here else 'held-out '}videos ({own.split} split{', which also chose the epoch' * chosen_here})"
    measure = measure_of(headline)
    low, high, control = (f"{value:.1f}" for value in (own[f"{measure}_low"], own[f"{measure}_high"], others[measure].max()))
    claim = (
        f"names {own[measure]:.1f} % of {videos} correctly" if measure == "top1" else f"reaches an mAP of {own.mean_ap:.1f} % on {videos}"
    )
    text = f"{own.model} {claim} (95 % interval {low} to {high}); the best control without time reaches {control} %."
    if "direction" in headline:
        span = dict.fromkeys(f"{value:.1f}" for value in (others.direction.min(), others.direction.max()))  # one number if they agree
        text += f" On direction it scores {own.direction:.1f} %, the controls {' to '.join(span)} %."
    if own.listed > own.scored:
        fate = "counted as wrong" if own.count_unreadable_as_wrong else "left out"
        text += f" {own.listed - own.scored:,} of {own.listed:,} listed videos could not be read; they are {fate}."
    return text
