"""Measures of several labels per video: by hand, against scikit-learn, and in tables made from predictions."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, label_ranking_average_precision_score

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.evaluate import decoders_note, ensemble_weight
from m2clip_lib.evaluate.honesty import honesty_finding, honesty_rows
from m2clip_lib.evaluate.multilabel import (
    average_precision,
    average_precisions,
    best_thresholds,
    class_f1,
    drawn_maps,
    label_table,
    map_columns,
    mean_average_precision,
    one_sided,
    ranking_precision,
)
from m2clip_lib.evaluate.predictions import Predictions, load_predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import with_list
from m2clip_lib.evaluate.tables import accuracy_rows, class_table, headline_finding, measure_of

RNG = np.random.default_rng(3)
SCORES = RNG.uniform(size=(60, 5)).round(1)  # with equal ones
TARGETS = RNG.uniform(size=(60, 5)) < 0.3


def yes(*rows: str) -> np.ndarray:
    """Rows of targets as zeros and ones."""
    return np.array([[sign == "1" for sign in row] for row in rows])


def test_average_precision_by_hand():
    scores, targets = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    # found at places 1 and 3: (1/1 + 2/3) / 2
    assert average_precision(scores, targets, np.ones((1, 4), int)) == pytest.approx([100 * 5 / 6])
    # the second video three times: places 1 and 5: (1/1 + 2/5) / 2; the first never: place 2 of 2: 1/2
    assert average_precision(scores, targets, np.array([[1, 3, 1, 1], [0, 1, 1, 1]])) == pytest.approx([70, 50])
    # equal scores are taken together: 2 of 4 at the only threshold
    assert average_precision(np.zeros(4), targets, np.ones((1, 4), int)) == pytest.approx([50])
    assert np.isnan(average_precision(scores, np.zeros(4, bool), np.ones((1, 4), int))).all()


def test_average_precision_f1_and_ranking_agree_with_scikit_learn():
    assert average_precisions(SCORES, TARGETS) == pytest.approx(100 * average_precision_score(TARGETS, SCORES, average=None))
    assert mean_average_precision(SCORES, TARGETS) == pytest.approx(100 * average_precision_score(TARGETS, SCORES))
    said = SCORES >= 0.5
    assert class_f1(SCORES, TARGETS, np.full(5, 0.5)) == pytest.approx(100 * f1_score(TARGETS, said, average=None))
    some = TARGETS.any(axis=1)
    different = SCORES + np.linspace(0, 0.01, SCORES.size).reshape(SCORES.shape)  # scikit-learn ranks equal scores in another way
    expected = label_ranking_average_precision_score(TARGETS[some], different[some])
    assert ranking_precision(different[some], TARGETS[some]).mean() == pytest.approx(expected)


def test_a_class_without_videos_is_left_out_of_the_mean():
    targets = yes("10", "00")
    assert mean_average_precision(np.array([[0.1, 0.9], [0.2, 0.8]]), targets) == pytest.approx(50)
    assert np.isnan(class_f1(np.ones((2, 2)), targets, np.zeros(2))[1])
    assert np.isnan(mean_average_precision(np.ones((2, 2)), yes("00", "00")))


def test_thresholds_have_the_largest_f1_and_lie_halfway_to_the_next_score():
    scores = np.array([[0.9, 0.4], [0.7, 0.4], [0.5, 0.2], [0.1, 0.1]])
    # class 0: F1 is 2/3 down to 0.9, 1/2 to 0.7, 4/5 to 0.5, 2/3 to 0.1. Class 1: both of 0.4 together 2/3, to 0.2 4/5.
    targets = yes("10", "01", "11", "00")
    assert best_thresholds(scores, targets) == pytest.approx([0.3, 0.15])
    assert class_f1(scores, targets, np.array([0.3, 0.15])) == pytest.approx([80, 80])
    assert best_thresholds(scores, yes("10", "00", "00", "00")) == pytest.approx([0.8, 0.5])  # the second has no video
    assert best_thresholds(scores, yes("11", "11", "11", "11")) == pytest.approx([0.1, 0.1])  # everything counts


def test_the_interval_draws_recordings_and_is_always_the_same():
    found = map_columns(SCORES, TARGETS, np.arange(60))
    assert found["mean_ap_low"] < found["mean_ap"] < found["mean_ap_high"]
    assert found == map_columns(SCORES, TARGETS, np.arange(60))
    assert found["interval"] == "bootstrap over 60 recordings"
    # sixty videos that are six recordings, each ten times over, say no more than six
    six = np.repeat(np.arange(6), 10)
    few, many = (drawn_maps(SCORES[:6][six], TARGETS[:6][six], groups) for groups in (six, np.arange(60)))
    assert few.std() > 2 * many.std()
    assert few == pytest.approx(drawn_maps(SCORES[:6], TARGETS[:6]))


def test_a_label_whose_opposite_is_a_label_too_has_no_direction():
    videos, labels = one_sided(yes("1100", "1010", "0011"), np.array([1, 0, -1, -1]))
    assert (videos.tolist(), labels.tolist()) == ([1], [0])


NAMES = ["moving left", "moving right", "growing", "shrinking"]
TRUTH = yes("1010", "0101", "1001", "1100")


def found_with(similarity: np.ndarray, classifier: np.ndarray | None = None) -> Predictions:
    labels, protocol = TRUTH.argmax(axis=1), Protocol("test", 8, 0)
    return Predictions(similarity, classifier, labels, [0, 1, 2, 3], NAMES, protocol=protocol, targets=TRUTH)


def test_accuracy_rows_of_several_labels_by_hand():
    right = np.where(TRUTH, 0.9, 0.1)
    turned = right[:, [1, 0, 3, 2]]
    table = pd.DataFrame(accuracy_rows(found_with(turned, right), "mine", found_with(turned, right))).set_index("readout")
    assert table.mean_ap["classifier"] == 100
    assert table["mean_ap"]["similarity"] == pytest.approx(mean_average_precision(turned, TRUTH))
    assert table.direction["classifier"] == 100
    assert table.direction["similarity"] == 0
    assert table.direction_videos.tolist() == [6, 6, 6]  # left, growing; right, shrinking; left, shrinking; none of the last
    assert table.f1["classifier"] == 100
    assert "top1" not in table
    assert np.isnan(accuracy_rows(found_with(right), "mine")[0]["f1"])  # nothing to choose thresholds on


def test_honesty_and_headline_speak_of_map():
    right = np.where(TRUTH, 0.9, 0.1)
    plain, backwards = found_with(right), found_with(right[:, [1, 0, 3, 2]])
    rows = pd.DataFrame(honesty_rows(plain, {"forwards": plain, "backwards": backwards, "shuffled": plain, "repeated": backwards}))
    rows = rows.set_index("played", drop=False)
    assert rows["mean_ap"]["forwards"] == 100
    assert rows["drop"]["backwards"] == pytest.approx(100 - rows["mean_ap"]["backwards"])
    assert (rows["drop_low"]["forwards"], rows["drop_high"]["forwards"]) == (0, 0)
    assert rows.direction["backwards"] == 0
    assert honesty_finding(rows).startswith("mAP is 100.0 % as recorded")
    headline = pd.DataFrame(
        {"model": name} | accuracy_rows(found, name)[0] | found.columns() for name, found in (("probe", backwards), ("mine", plain))
    )
    assert measure_of(headline) == "mean_ap"
    assert headline_finding(headline).startswith("mine reaches an mAP of 100.0 % on 4 held-out videos (test split) (95 % interval ")


def test_label_table_names_the_threshold_of_every_class():
    table = label_table(np.where(TRUTH, 0.9, 0.1), TRUTH, NAMES, np.full(4, 0.5))
    assert table.videos.tolist() == [3, 2, 1, 2]
    assert (table.ap == 100).all()
    assert (table.f1 == 100).all()
    assert (table.threshold == 0.5).all()


def test_a_class_without_validation_videos_has_a_threshold_that_no_split_chose():
    validation = dataclasses.replace(found_with(np.where(TRUTH, 0.9, 0.1)), targets=TRUTH & [True, True, False, True])
    table = class_table(found_with(np.where(TRUTH, 0.9, 0.1)), NAMES, validation)
    assert table.threshold_chosen_on.tolist() == ["val", "val", "", "val"]
    assert table.threshold[2] == 0.5


def test_an_evaluation_names_the_classes_that_are_in_no_mean(manifest, tmp_path):
    found = dataclasses.replace(found_with(np.where(TRUTH, 0.9, 0.1)), targets=TRUTH & [True, False, True, True], decoders={"pyav": 4})
    save_predictions(found, manifest, tmp_path, "test", split="test")
    run = SimpleNamespace(predictions=tmp_path, experiment=SimpleNamespace(eval=SimpleNamespace(split="test")))
    said = f"; mAP and f1 leave out 1 of 4 classes, which no scored video has: {NAMES[1]!r}"
    assert decoders_note(run) == f"videos were read by: pyav 4{said}"


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    table = pd.DataFrame({"path": list("abcd"), "label": TRUTH.argmax(axis=1), "split": "test", "status": "ok"})
    table["class_name"], table["labels"] = [NAMES[label] for label in table.label], [np.flatnonzero(row).tolist() for row in TRUTH]
    (tmp_path / "manifest.json").write_text('{"root": "/"}')
    return Manifest(table, NAMES, tmp_path, "0" * 64)


def test_predictions_take_their_labels_from_the_manifest_and_keep_them(workspace, manifest, tmp_path):
    from m2clip_lib.config import load_experiment

    plain = dataclasses.replace(found_with(np.where(TRUTH, 0.9, 0.1)[:2]), labels=np.array([0, 1]), rows=[0, 1], targets=None)
    plain = dataclasses.replace(plain, lost=np.array([0, 0]), recordings=None, failed=[(2, "broken"), (3, "broken")])
    found = with_list(plain, load_experiment("folder"), manifest)
    assert found.targets.tolist() == TRUTH[:2].tolist()
    save_predictions(found, manifest, tmp_path, "val", split="val")
    assert load_predictions(tmp_path, "val").targets.tolist() == TRUTH[:2].tolist()
    with pytest.raises(UserError, match=r"eval.ensemble_weight: videos have several labels"):
        ensemble_weight(load_experiment("folder", ["eval.ensemble_weight=val"]), tmp_path)
    counted = dataclasses.replace(plain, protocol=dataclasses.replace(plain.protocol, count_unreadable_as_wrong=True))
    for changes, name in (([], "count_unreadable_as_wrong"), (["eval.subsets=some.csv"], "subsets")):
        with pytest.raises(UserError, match=rf"eval.{name}: videos have several labels"):
            with_list(counted, load_experiment("folder", changes), manifest)
