"""What is left of an accuracy without the order of frames, which classes are each other's reversal, and comparisons in words."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from m2clip_lib.data.classes import find_names
from m2clip_lib.data.demo.videos import CLASS_NAMES
from m2clip_lib.data.opposites import opposite_labels
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate import honesty
from m2clip_lib.evaluate.honesty import honesty_finding, honesty_table, named_subsets, subset_table
from m2clip_lib.evaluate.metrics import direction_hits
from m2clip_lib.evaluate.paired import paired_bootstrap
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import frame_order

# --- opposites ---


def test_the_demonstrations_pairs_are_found_from_their_names():
    assert opposite_labels(CLASS_NAMES).tolist() == [i ^ 1 for i in range(12)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Opening something", "Closing something"),
        ("Pushing something from left to right", "Pushing something from right to left"),
        ("Putting something into something", "Taking something out of something"),
        ("Moving something closer to something", "Moving something away from something"),
        ("Folding something", "Unfolding something"),
        ("tying knot", "untying knot"),
        ("Turn Clockwise", "turn counter-clockwise"),
        ("swipe up", "swipe down"),
    ],
)
def test_names_that_differ_by_reversed_words_are_opposites(first, second):
    assert opposite_labels([first, "playing piano", second]).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    "names", [["opening bottle", "opening bottles"], ["leftover pizza", "rightover pizza"], ["up", "ski"], ["walking in", "walking"]]
)
def test_other_names_have_no_opposite(names):
    assert opposite_labels(names).tolist() == [-1, -1]


def test_given_pairs_replace_those_of_the_names():
    names = ["opening door", "closing door", "aufmachen", "zumachen"]
    assert opposite_labels(names, [("aufmachen", "zumachen")]).tolist() == [-1, -1, 3, 2]
    with pytest.raises(UserError, match=r"eval\.opposites: 'zu' is no class"):
        opposite_labels(names, [("aufmachen", "zu")])
    with pytest.raises(UserError, match="two pairs"):
        opposite_labels(names, [("aufmachen", "zumachen"), ("aufmachen", "opening door")])


def test_direction_leaves_out_videos_whose_class_has_no_opposite():
    scores = np.array([[0.6, 0.1, 0.3], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
    assert direction_hits(scores, np.array([0, 1, 2]), np.array([2, -1, 0])).tolist() == [True, False]


# --- orders of frames ---


def test_orders_of_frames():
    assert frame_order("forwards", 4, 0, 0) == [0, 1, 2, 3]
    assert frame_order("backwards", 4, 0, 0) == [3, 2, 1, 0]
    assert frame_order("repeated", 4, 0, 0) == [2, 2, 2, 2]
    shuffled = frame_order("shuffled", 8, 5, 1)
    assert sorted(shuffled) == list(range(8))
    assert shuffled == frame_order("shuffled", 8, 5, 1)
    assert len({tuple(frame_order("shuffled", 8, row, view)) for row in range(10) for view in range(3)}) > 25


# --- the table ---


def predictions(answers: list[int], opposites: list[int] | None = None) -> Predictions:
    scores = np.eye(3)[answers]
    return Predictions(scores, None, np.array([0, 1, 2, 0]), [0, 1, 2, 3], ["a", "b", "c"], opposites=np.array(opposites or [-1] * 3))


@pytest.fixture
def saved(monkeypatch):
    found = {
        "test": predictions([0, 1, 2, 1], [1, 0, -1]),  # 3 of 4
        "test_backwards": predictions([1, 0, 2, 0], [1, 0, -1]),  # 2 of 4; two became their opposite
        "test_shuffled": predictions([0, 1, 2, 1], [1, 0, -1]),  # the same answers
        "test_repeated": predictions([2, 2, 2, 2], [1, 0, -1]),  # 1 of 4
    }
    monkeypatch.setattr(honesty, "load_predictions", lambda folder, name: found[name])
    return found


def test_honesty_by_hand(saved, tmp_path):
    table = honesty_table(tmp_path, "test").set_index("played")
    assert table.top1.to_dict() == {"forwards": 75.0, "backwards": 50.0, "shuffled": 75.0, "repeated": 25.0}
    assert table["drop"].to_dict() == {"forwards": 0.0, "backwards": 25.0, "shuffled": 0.0, "repeated": 50.0}
    assert table.same_answer.to_dict() == {"forwards": 100.0, "backwards": 25.0, "shuffled": 100.0, "repeated": 25.0}
    assert table.opposite["backwards"] == pytest.approx(100 * 2 / 3)
    assert table.direction["backwards"] == pytest.approx(100 / 3)
    assert (table.drop_low["shuffled"], table.drop_high["shuffled"]) == (0.0, 0.0)
    assert table.drop_low["backwards"] < 25 < table.drop_high["backwards"]


def test_predictions_of_other_videos_are_refused(saved, tmp_path):
    saved["test_shuffled"] = dataclasses.replace(saved["test_shuffled"], rows=[0, 1, 2, 4])
    with pytest.raises(UserError, match="shuffled and forwards are of different videos"):
        honesty_table(tmp_path, "test")


def test_the_finding_claims_a_loss_only_where_the_interval_says_so():
    rows = [
        ("forwards", 90.0, 0, 0, 0),
        ("backwards", 10.0, 80.0, 75, 85),
        ("shuffled", 89.0, 1.0, -1, 3),
        ("repeated", 40.0, 50.0, 45, 55),
    ]
    table = pd.DataFrame(rows, columns=["played", "top1", "drop", "drop_low", "drop_high"]).assign(readout="ensemble")
    assert honesty_finding(table) == (
        "Top-1 is 90.0 % as recorded, 10.0 % played backwards (80.0 points lost), 89.0 % with shuffled frames (no difference shown), "
        "40.0 % with one frame repeated (50.0 points lost)."
    )


# --- two evaluations ---


def test_paired_bootstrap_of_a_clear_difference():
    rng = np.random.default_rng(1)
    second = rng.random(1000) < 0.5
    first = second | (rng.random(1000) < 0.2)
    found = paired_bootstrap(first, second)
    gain = 100 * (first.mean() - second.mean())
    error = 100 * (first.astype(float) - second).std() / np.sqrt(1000)
    assert found.mean == pytest.approx(gain)
    assert (found.low, found.high) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error), abs=0.3)
    assert found.p_value < 0.001
    other = paired_bootstrap(second, first)
    assert (other.mean, other.low, other.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_equal_hits_show_no_difference_and_recordings_widen():
    hits = np.arange(100) % 3 == 0
    same = paired_bootstrap(hits, hits)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    first, second = np.ones(100, bool), np.arange(100) % 5 > 0
    single = paired_bootstrap(first, second)
    clips = paired_bootstrap(first, np.arange(100) >= 20, np.arange(100) // 20)  # all losses in one of five recordings
    assert clips.low == 0.0 < single.low
    assert np.isnan(paired_bootstrap(hits[:0], hits[:0]).mean)


# --- subsets ---


def test_kinetics_has_32_temporal_and_32_static_classes_of_its_own():
    names = find_names("kinetics400")
    subsets = named_subsets(names)
    assert {name: len(members) for name, members in subsets.items()} == {"temporal": 32, "static": 32}
    assert not set(subsets["temporal"]) & set(subsets["static"])
    assert named_subsets(["ski", "run"]) == {}


def test_accuracy_on_a_subset_by_hand(tmp_path):
    scores = np.array([[0.5, 0.1, 0.4], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    found = Predictions(scores, None, np.array([0, 1, 2]), [0, 1, 2], ["a", "b", "c"])
    (tmp_path / "own.csv").write_text("subset,class_name\nmine,a\nmine,b\n", encoding="utf-8")
    (row,) = subset_table(found, named_subsets(found.class_names, str(tmp_path / "own.csv"))).to_dict("records")
    # Of the videos of a and b: a is right; b is taken for c among all classes, and right among the two.
    assert (row["subset"], row["classes"], row["videos"], row["top1"], row["top1_within"]) == ("mine", 2, 2, 50.0, 100.0)
    with pytest.raises(UserError, match=r"eval\.subsets: mine: 'b' is no class"):
        subset_table(Predictions(scores[:, :1], None, np.array([0, 0, 0]), [0, 1, 2], ["a"]), {"mine": ["a", "b"]})
    with pytest.raises(UserError, match="no such file"):
        named_subsets(["a"], str(tmp_path / "none.csv"))
