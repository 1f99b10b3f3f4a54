"""The rows of a check: what they say, what they suggest, and their order."""

import numpy as np
import pandas as pd
import pytest

from m2clip_lib.curate.findings import (
    KINDS,
    as_table,
    copy_rows,
    imbalance_rows,
    label_rows,
    name_rows,
    short_rows,
    stem,
    suggested_corrections,
    summary_lines,
    unjudged_rows,
)
from m2clip_lib.data.listing.corrections import Correction

NAMES = ["ski", "walk"]


def videos(*rows) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["name", "label", "split", "num_frames"])
    return table.assign(class_name=[NAMES[label] for label in table.label])


def test_of_copies_the_one_in_test_is_kept_and_the_others_are_to_be_ignored():
    table = videos(("a", 0, "train", 9), ("b", 0, "test", 9), ("c", 1, "test", 9), ("d", 0, "val", 9))
    rows = copy_rows(table, [[0, 1, 2], [3]], [(0, 1, 0.97), (1, 2, 0.99)])
    assert [(row["kind"], row["path"], row["with"], row["suggestion"], row["score"]) for row in rows] == [
        ("duplicate", "c", "b", "ignore", 0.99),
        ("leak", "a", "b", "ignore", 0.97),
    ]
    assert rows[0]["why"] == "shows the same as b in test, which is listed as 'ski'"


def test_a_suspected_label_names_the_likelier_class():
    (row,) = label_rows(videos(("a", 0, "train", 9)), [(0, 1, 0.7)], NAMES, np.array([[0.1, 0.8]]))
    assert (row["suggestion"], row["score"]) == ("relabel: walk", 0.7)
    assert row["why"] == "a probe that has not seen this video gives 'walk' 0.80, 'ski' 0.10"


@pytest.mark.parametrize(("stride", "span"), [(0, 4), (1, 4), (3, 10)])
def test_a_video_shorter_than_a_clip_is_short(stride, span):
    rows = short_rows(videos(("a", 0, "train", span), ("b", 0, "train", span - 1), ("c", 0, "test", 1)), 4, stride)
    assert [(row["path"], row["score"]) for row in rows] == [("b", pytest.approx(1 / span)), ("c", pytest.approx(1 - 1 / span))]
    assert rows[0]["why"] == f"{span - 1} frames; a clip spans {span} (4 frames, stride {stride}): some are repeated"


def test_balance_is_reported_and_a_finding_from_twice_the_size():
    lines = []
    even = [(f"e{number}", number % 2, "val", 9) for number in range(4)]
    rows = imbalance_rows(videos(*even, ("a", 0, "test", 9), *[(f"t{n}", 1, "test", 9) for n in range(5)]), NAMES, lines.append)
    assert [(row["class_name"], row["split"], row["score"]) for row in rows] == [("walk", "test", 5)]
    assert lines == [
        "balance: val: every class has 2 videos",
        "balance: test: 'walk' has 5 of 6 videos, 'ski' has 1 (5.0 times)",
    ]


def test_a_class_without_videos_is_a_finding_and_a_video_with_two_labels_is_one_video():
    lines, both = [], videos(("a", 1, "train", 9), ("a", 0, "train", 9), ("b", 1, "train", 9)).set_axis([0, 0, 1])
    rows = imbalance_rows(pd.concat([both, videos(("c", 0, "test", 9))]), NAMES, lines.append)
    assert lines == [
        "balance: train: 'walk' has 2 of 2 videos, 'ski' has 1 (2.0 times)",
        "balance: test: 'ski' has 1 of 1 videos, 'walk' has 0",
    ]
    assert [(row["split"], row["score"]) for row in rows] == [("train", 2), ("test", 1)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("running dogs", "Dog runs", True),
        ("jumped", "jumping", True),
        ("make tea", "making tea", True),
        ("ski", "sky", False),
        ("open door", "close door", False),
        ("bus", "bu", False),
    ],
)
def test_names_of_one_stem_are_one_name(first, second, same):
    assert (stem(first) == stem(second)) is same


def test_names_are_near_if_their_texts_are_far_nearer_than_others_and_no_reversals():
    names = ["opening a door", "closing a door", "sofa", "couch", *(f"thing {letter}" for letter in "abcdefgh")]
    texts = np.eye(len(names)) * 0.6
    texts[0, 1] = texts[1, 0] = texts[2, 3] = texts[3, 2] = 0.5
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    (row,) = name_rows(names, texts)
    assert (row["class_name"], row["with"]) == ("sofa", "couch")
    assert "read" in row["why"]
    assert [row["why"] for row in name_rows(["run", "running"], np.eye(2))] == ["one word stem"]
    assert name_rows(["only"], np.eye(1)) == []


def test_what_cannot_be_judged_is_named_by_class_or_by_pair():
    names, labels = ["left", "right", "up", "rare", "none"], np.repeat([0, 1, 2, 3], [30, 30, 30, 2])
    apart = np.zeros((5, 5), bool)
    for pair in ((0, 2), (1, 2)):
        apart[pair] = apart[pair[::-1]] = True
    right = np.where(apart, 0.99, 0.5)
    rows = unjudged_rows(names, right, apart, labels)
    assert [(row["class_name"], row.get("with"), row["score"]) for row in rows] == [
        ("left", None, 0.5),
        ("right", None, 0.5),
        ("rare", None, 0.5),
    ]
    assert rows[2]["why"] == "it has 2 videos, and frozen features cannot tell it from 3 of 3 classes: no verdict on these"
    apart[0, 3] = apart[3, 0] = apart[1, 3] = apart[3, 1] = apart[2, 3] = apart[3, 2] = True
    (row,) = unjudged_rows(names, right, apart, labels)
    assert row["why"] == "frozen features cannot tell 'left' from 'right': no verdict on these"


def test_the_table_is_sorted_by_what_matters_and_leaves_out_accepted_videos():
    rows = [{"kind": kind, "path": f"{kind} {score}", "score": score, "why": ""} for kind in reversed(KINDS) for score in (1.0, 2.0)]
    table = as_table(rows, {"label 2.0"})
    assert table.path.tolist()[:4] == ["leak 2.0", "leak 1.0", "label 1.0", "duplicate 2.0"]
    assert len(table) == 2 * len(KINDS) - 1
    assert summary_lines(table)[1] == "     1 label: videos whose label is probably wrong"
    assert list(as_table([]).columns) == list(table.columns)


def test_suggestions_become_corrections_and_a_leak_comes_before_a_label():
    rows = [
        {"kind": "label", "path": "a", "suggestion": "relabel: moving: left", "score": 1.0, "why": "x"},
        {"kind": "label", "path": "b", "suggestion": "relabel: walk", "score": 0.5, "why": "y"},
        {"kind": "leak", "path": "b", "suggestion": "ignore", "score": 0.9, "why": "z"},
        {"kind": "imbalance", "class_name": "ski", "score": 2.0, "why": ""},
    ]
    assert suggested_corrections(as_table(rows)) == [Correction("b", "ignore", "", "z"), Correction("a", "relabel", "moving: left", "x")]
