"""Tables made from predictions: hand-made scores in, hand-made rows out."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from m2clip_lib.data.demo.videos import CLASS_NAMES
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.predictions import Predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.tables import (
    accuracy_rows,
    best_rows,
    headline_finding,
    headline_table,
)

PROTOCOL = Protocol("test", 8, 1, 2, 3)


def sure(classes: list[int], number: int = 12) -> np.ndarray:
    """Scores of a model that gives 0.9 to one class per video, the rest shared."""
    scores = np.full((len(classes), number), 0.1 / (number - 1), np.float32)
    scores[np.arange(len(classes)), classes] = 0.9
    return scores


def predictions(similarity: list[int], classifier: list[int] | None, labels: list[int], names=CLASS_NAMES, failed=()) -> Predictions:
    other = None if classifier is None else sure(classifier, len(names))
    return Predictions(
        sure(similarity, len(names)), other, np.array(labels), list(range(len(labels))), list(names), list(failed), protocol=PROTOCOL
    )


TABLE = pd.DataFrame({"path": list("abcd"), "label": [0, 1, 2, 3], "class_name": CLASS_NAMES[:4], "split": "test", "status": "ok"})


def test_accuracy_rows_by_hand():
    # Similarity: 0 right, 1 taken for its opposite 0, 2 right, 3 taken for 7 (direction a tie: a miss). Classifier: all right.
    rows = accuracy_rows(predictions([0, 0, 2, 7], [0, 1, 2, 3], [0, 1, 2, 3], failed=[(4, "broken")]), "mine")
    table = pd.DataFrame(rows).set_index("readout")
    assert table.index.tolist() == ["similarity", "classifier", "ensemble"]
    assert table.top1.tolist() == [50.0, 100.0, 75.0]  # the mean of right and wrong is a tie: to the smaller id
    assert table.direction["similarity"] == 50.0
    assert table.direction["classifier"] == 100.0
    # Wilson of 4 of 4: 4 / (4 + 3.8415); it was (100, 100).
    assert (table.top1_low["classifier"], table.top1_high["classifier"]) == pytest.approx((100 * 4 / 7.8415, 100), abs=0.01)
    assert set(table.interval) == {"wilson"}
    assert table.top1_low["similarity"] < 50 < table.top1_high["similarity"]
    assert table.videos.tolist() == [4, 4, 4]
    assert table.failed.tolist() == [1, 1, 1]
    assert set(table.model) == {"mine"}
    assert table[["listed", "missing", "unreadable", "scored"]].drop_duplicates().values.tolist() == [[5, 0, 1, 4]]


def test_clips_of_one_recording_are_not_independent_in_the_interval():
    found = predictions([0, 1, 2, 3] * 3, None, [0, 1, 2, 3] * 3)
    (row,) = accuracy_rows(dataclasses.replace(found, recordings=np.repeat([0, 1], 6)), "mine")
    assert (row["top1"], row["interval"]) == (100.0, "wilson over 2 recordings")
    assert row["top1_low"] == pytest.approx(100 * 2 / 5.8415, abs=0.01)


@pytest.mark.parametrize(("as_wrong", "top1", "top5", "direction"), [(False, 75.0, 100.0, 75.0), (True, 37.5, 50.0, 37.5)])
def test_videos_without_scores_are_counted_and_wrong_only_if_asked(as_wrong, top1, top5, direction):
    # Four scored, three of them right; one failed, three unusable of which two are missing: 3 of 4, or 3 of 8.
    protocol = dataclasses.replace(PROTOCOL, count_unreadable_as_wrong=as_wrong)
    found = predictions([0, 1, 2, 2], None, [0, 1, 2, 3], failed=[(4, "broken")])
    found = dataclasses.replace(found, protocol=protocol, lost=np.array([0, 1, 2, 2]), missing=2, recordings=np.arange(8))
    (row,) = accuracy_rows(found, "mine")
    assert {name: row[name] for name in ("listed", "missing", "unreadable", "scored", "videos", "failed")} == {
        **{"listed": 8, "missing": 2, "unreadable": 2, "scored": 4},
        **{"videos": 4, "failed": 1},  # as ever
    }
    assert (row["top1"], row["top5"], row["direction"]) == (top1, top5, direction)
    interval = binomtest(3, 8 if as_wrong else 4).proportion_ci(method="wilson")
    assert (row["top1_low"], row["top1_high"]) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert row["count_unreadable_as_wrong"] is as_wrong


def test_top5_is_not_a_number_where_nothing_can_miss():
    (row,) = accuracy_rows(predictions([0, 1], None, [0, 1], names=("run", "walk")), "mine")
    assert np.isnan(row["top5"])  # it was 100


def test_direction_is_measured_only_where_classes_are_pairs():
    rows = accuracy_rows(predictions([0, 1], [0, 1], [0, 1], names=("run", "walk")), "mine")
    assert "direction" not in rows[0]


def manifest(tmp_path) -> Manifest:
    return Manifest(TABLE, list(CLASS_NAMES), tmp_path, "0123456789abcdef")


@pytest.fixture
def headline(tmp_path):
    for name, found in (
        ("test_frozen_clip", predictions([0, 0, 0, 0], None, [0, 1, 2, 3])),
        ("test_frame_mean_probe", predictions([0, 1, 0, 0], None, [0, 1, 2, 3])),
        ("test", predictions([0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 2, 3])),
    ):
        save_predictions(found, manifest(tmp_path), tmp_path, name)
    return headline_table(tmp_path, "test")


def test_headline_has_controls_first_and_every_readout_of_the_model(headline):
    assert list(zip(headline.model, headline.readout, strict=True)) == [
        ("frozen CLIP, zero-shot", "similarity"),
        ("probe on the frame mean", "classifier"),
        ("M2-CLIP", "similarity"),
        ("M2-CLIP", "classifier"),
        ("M2-CLIP", "ensemble"),
    ]
    assert headline.top1.tolist() == [25.0, 50.0, 75.0, 100.0, 75.0]  # the ensemble ties on video 3: to the smaller id, 0
    for column in ("split", "views", "frames", "prompt", "list_sha256", "seeds", "videos", "failed"):
        assert column in headline


def test_best_rows_take_the_ensemble_where_there_is_one(headline):
    best = best_rows(headline)
    assert best.readout.tolist() == ["similarity", "classifier", "ensemble"]
    assert best.top1.tolist() == [25.0, 50.0, 75.0]


def test_finding_states_the_numbers_of_the_table(headline):
    text = headline_finding(headline)
    own = best_rows(headline).iloc[-1]
    assert text.startswith("M2-CLIP names 75.0 % of 4 held-out videos (test split) correctly")
    assert f"(95 % interval {own.top1_low:.1f} to {own.top1_high:.1f})" in text
    assert "the best control without time reaches 50.0 %" in text
    assert "On direction it scores" in text
    assert "direction" not in headline_finding(headline.drop(columns="direction"))


def test_finding_says_what_became_of_videos_without_scores(headline):
    assert "listed videos" not in headline_finding(headline)
    short = headline.assign(listed=10, missing=6)
    assert headline_finding(short).endswith(" 6 of 10 listed videos could not be read; they are left out.")
    counted = headline_finding(short.assign(count_unreadable_as_wrong=True))
    assert "of 10 held-out videos" in counted
    assert counted.endswith(" they are counted as wrong.")


@pytest.mark.parametrize(
    ("chosen_on", "expected"),
    [("val", "4 held-out videos (test split) correctly"), ("test", "4 videos (test split, which also chose the epoch)")],
)
def test_finding_calls_videos_held_out_only_if_they_chose_nothing(headline, chosen_on, expected):
    """Before, validation videos that had chosen the best epoch were called held-out."""
    assert expected in headline_finding(headline.assign(epoch_chosen_on=chosen_on))
