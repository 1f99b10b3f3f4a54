"""Tables made from saved predictions: every row says what it is, and every accuracy carries its interval."""

from pathlib import Path

import pandas as pd

from m2clip_lib.data.demo.videos import CLASS_NAMES, opposite
from m2clip_lib.evaluate.metrics import bootstrap_interval, direction_hits, is_hit, topk_accuracy
from m2clip_lib.evaluate.predictions import Predictions, load_predictions

MODEL_NAME = "M2-CLIP"


def has_opposites(class_names: list[str]) -> bool:
    """Whether classes i and i ^ 1 are time-reversed pairs: the demonstration's are."""
    return tuple(class_names) == CLASS_NAMES


def accuracy_rows(predictions: Predictions, model: str) -> list[dict]:
    """One row a read-out: top1 with its 95 % interval, top5, and direction accuracy where the classes are pairs. Percent."""
    rows = []
    for readout in predictions.readouts:
        scores, labels = predictions.readout(readout), predictions.labels
        hits = is_hit(scores, labels, 1)
        low, high = bootstrap_interval(hits)
        row = {"model": model, "readout": readout, "top1": 100 * hits.mean(), "top1_low": low, "top1_high": high}
        row["top5"] = topk_accuracy(scores, labels, 5)
        if has_opposites(predictions.class_names):
            row["direction"] = 100 * direction_hits(scores, labels).mean()
        rows.append(row | {"videos": len(labels), "failed": len(predictions.failed)})
    return rows


def protocol_columns(predictions: Predictions) -> dict[str, object]:
    """The columns that make a number reproducible: split, views, frames, stride, prompt, list."""
    return predictions.protocol.columns(predictions.list_sha256)


def model_name(predictions: Predictions) -> str:
    """How tables call the trained model: without a classifier of these classes it is zero-shot."""
    return MODEL_NAME if predictions.classifier is not None else f"{MODEL_NAME}, zero-shot"


def headline_table(folder: Path, split: str) -> pd.DataFrame:
    """The controls without time and the trained model, every read-out, from the saved predictions."""
    zero_shot, probe, trained = (load_predictions(folder, f"{split}{name}") for name in ("_frozen_clip", "_frame_mean_probe", ""))
    found = [(zero_shot, accuracy_rows(zero_shot, "frozen CLIP, zero-shot")), (trained, accuracy_rows(trained, model_name(trained)))]
    found.insert(1, (probe, [row | {"readout": "classifier"} for row in accuracy_rows(probe, "probe on the frame mean")]))
    return pd.DataFrame([row | {"seeds": 1} | protocol_columns(predictions) for predictions, rows in found for row in rows])


def best_rows(headline: pd.DataFrame) -> pd.DataFrame:
    """One row a model: the ensemble where there is one."""
    return headline.groupby("model", sort=False).tail(1).reset_index(drop=True)


def headline_finding(headline: pd.DataFrame) -> str:
    """The result in one sentence."""
    own = best_rows(headline).iloc[-1]
    others = best_rows(headline).iloc[:-1]
    text = (
        f"{own.model} names {own.top1:.1f} % of {own.videos:,} held-out videos ({own.split} split) correctly "
        f"(95 % interval {own.top1_low:.1f} to {own.top1_high:.1f}); the best control without time reaches {others.top1.max():.1f} %."
    )
    if "direction" in headline:
        span = dict.fromkeys(f"{value:.1f}" for value in (others.direction.min(), others.direction.max()))  # one figure where they agree
        text += f" On direction it scores {own.direction:.1f} %, the controls {' to '.join(span)} %."
    return text


def backwards_table(forwards: Predictions, backwards: Predictions) -> pd.DataFrame:
    """The same videos played forwards and backwards: top-1 on the true class and on its opposite, percent."""
    rows = []
    for played, predictions in (("forwards", forwards), ("backwards", backwards)):
        for readout in predictions.readouts:
            scores, labels = predictions.readout(readout), predictions.labels
            rows.append(
                {
                    "played": played,
                    "readout": readout,
                    "true_class": topk_accuracy(scores, labels, 1),
                    "opposite_class": topk_accuracy(scores, opposite(labels), 1),
                    "videos": len(labels),
                }
            )
    return pd.DataFrame(rows)
