"""Measures of accuracy against arithmetic done by hand."""

import numpy as np
import pytest

from m2clip_lib.evaluate.metrics import (
    accuracy_interval,
    confusion_matrix,
    direction_hits,
    is_hit,
    per_class_table,
    top1_columns,
    top_ids,
    topk_accuracy,
)

SCORES = np.array(
    [
        [0.6, 0.3, 0.1],  # says 0, then 1
        [0.2, 0.5, 0.3],  # says 1, then 2
        [0.1, 0.5, 0.4],  # says 1, then 2
        [0.4, 0.4, 0.2],  # a tie of 0 and 1
    ]
)
LABELS = np.array([0, 1, 2, 1])


def test_top_ids_are_best_first_and_ties_go_to_the_smaller_id():
    assert top_ids(SCORES, 2).tolist() == [[0, 1], [1, 2], [1, 2], [0, 1]]
    assert top_ids(SCORES, 5).shape == (4, 3)  # no more than there are classes


def test_top1_and_top2_are_shares_in_percent():
    assert is_hit(SCORES, LABELS, 1).tolist() == [True, True, False, False]
    assert topk_accuracy(SCORES, LABELS, 1) == 50.0
    assert topk_accuracy(SCORES, LABELS, 2) == 100.0
    assert topk_accuracy(SCORES, np.array([2, 0, 0, 2]), 2) == 0.0


def test_accuracy_without_videos_is_nan():
    assert np.isnan(topk_accuracy(np.zeros((0, 3)), np.zeros(0, int), 1))


def test_direction_compares_with_the_partner_alone_and_a_tie_is_a_miss():
    scores = np.array(
        [
            [0.2, 0.1, 0.6, 0.1],  # label 0 beats 1, though 2 is on top
            [0.2, 0.1, 0.6, 0.1],  # label 1 loses to 0
            [0.0, 0.0, 0.5, 0.5],  # label 3 ties with 2
            [0.9, 0.0, 0.0, 0.1],  # label 3 beats 2
        ]
    )
    assert direction_hits(scores, np.array([0, 1, 3, 3]), np.array([1, 0, 3, 2])).tolist() == [True, False, False, True]


def test_twelve_of_twelve_right_is_no_certainty():
    # Wilson: n / (n + z^2) = 12 / (12 + 3.8415) = 75.75 %. The binomial bootstrap said (100, 100).
    assert accuracy_interval(np.ones(12, bool)) == (pytest.approx(100 * 12 / (12 + 3.8415), abs=0.01), pytest.approx(100), "wilson")
    assert accuracy_interval(np.zeros(12, bool))[:2] == pytest.approx((0, 100 * 3.8415 / (12 + 3.8415)), abs=0.01)
    assert top1_columns(np.ones(12, bool))["top1_low"] == pytest.approx(75.75, abs=0.01)


def test_an_interval_without_videos_is_nan():
    low, high, name = accuracy_interval(np.zeros(0, bool))
    assert np.isnan([low, high]).all()
    assert name == ""


def test_wilson_is_the_interval_where_every_video_is_its_own_recording():
    hits = np.arange(400) % 4 != 0
    low, high, name = accuracy_interval(hits, np.arange(400)[::-1])
    # p = 0.75, z^2 / n = 0.0096: (p + 0.0048 -+ 1.96 sqrt(p (1 - p) / n + 0.0096 / 4 / n)) / 1.0096
    centre, half = (0.75 + 0.0048) / 1.0096, 1.96 * (0.75 * 0.25 / 400 + 0.0096 / 1600) ** 0.5 / 1.0096
    assert (low, high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=0.01)
    assert name == "wilson"


def test_four_clips_of_a_recording_that_agree_count_as_one():
    # 100 recordings of which 75 are right: standard error sqrt(0.75 * 0.25 / 100) = 4.33 points. Over videos it was 2.17.
    hits, recordings = np.repeat(np.arange(100) % 4 != 0, 4), np.repeat(np.arange(100), 4)
    low, high, name = accuracy_interval(hits, recordings)
    assert (low, high) == pytest.approx((75 - 1.96 * 4.33, 75 + 1.96 * 4.33), abs=1)
    assert name == "bootstrap over 100 recordings"
    assert accuracy_interval(hits, recordings) == (low, high, name)  # the same every time
    assert top1_columns(hits, recordings) == {"top1": 75.0, "top1_low": low, "top1_high": high, "interval": name}


def test_the_bootstrap_over_recordings_agrees_with_drawing_them():
    rng = np.random.default_rng(0)
    recordings = rng.integers(0, 60, 300) + 1000  # of 1 to about 10 videos each
    hits = rng.random(300) < (recordings - 1000) / 60
    of = [hits[recordings == one] for one in np.unique(recordings)]
    drawn = [100 * np.concatenate([of[i] for i in rng.integers(len(of), size=len(of))]).mean() for _ in range(4000)]
    low, high, name = accuracy_interval(hits, recordings)
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.6)
    assert name == f"bootstrap over {len(of)} recordings"


@pytest.mark.parametrize("right", [True, False])
def test_recordings_that_all_agree_still_have_an_interval(right):
    low, high, name = accuracy_interval(np.full(12, right), np.repeat([3, 7, 9], 4))  # three recordings, not twelve
    edge = 100 * 3 / (3 + 3.8415)
    assert (low, high) == pytest.approx((edge, 100) if right else (0, 100 - edge), abs=0.01)
    assert name == "wilson over 3 recordings"


def test_top5_of_five_classes_says_nothing():
    scores = np.eye(6)
    assert topk_accuracy(scores, np.arange(6), 5) == 100.0
    assert np.isnan(topk_accuracy(scores[:5, :5], np.arange(5), 5))  # it was 100


def test_confusion_has_true_classes_in_rows():
    assert confusion_matrix(SCORES, LABELS).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_per_class_table_by_hand():
    table = per_class_table(SCORES, LABELS, ["left", "right", "up"]).set_index("class_name")
    assert table.videos.tolist() == [1, 2, 1]
    assert table.top1.tolist() == [100.0, 50.0, 0.0]  # of its own videos
    assert table.precision[:2].tolist() == [50.0, 50.0]  # of the videos given this class: 1 of 2 and 1 of 2
    assert np.isnan(table.precision["up"])  # no video was given this class
    assert table.most_often_taken_for.tolist() == ["", "left", "right"]


def test_a_class_without_videos_has_no_accuracy_rather_than_zero():
    table = per_class_table(SCORES[:2], LABELS[:2], ["left", "right", "up"])
    assert table.videos.tolist() == [1, 1, 0]
    assert np.isnan(table.top1[2])
    assert table.interval.tolist() == ["wilson", "wilson", ""]


def test_a_class_has_the_interval_of_every_other_table():
    labels, scores = np.repeat([0, 1], 12), np.repeat(np.eye(2), 12, axis=0)
    scores[0] = [0, 1]
    table = per_class_table(scores, labels, ["left", "right"], recordings=np.arange(24) // 2)
    for label in (0, 1):
        own = labels == label
        expected = top1_columns(is_hit(scores, labels, 1)[own], np.arange(24)[own] // 2)
        assert table.loc[label, list(expected)].to_dict() == expected
    assert table.interval.tolist() == ["bootstrap over 6 recordings", "wilson over 6 recordings"]


def test_videos_that_count_as_wrong_lower_their_class_alone():
    # Class 1 has 1 of 2 right; two unreadable ones make it 1 of 4. Which class a third one is of is not known (-1).
    table = per_class_table(SCORES, LABELS, ["left", "right", "up"], wrong=np.array([1, -1, 1])).set_index("class_name")
    assert table.top1.tolist() == [100.0, 25.0, 0.0]
    assert table.videos.tolist() == [1, 2, 1]  # with scores
    assert table.precision[:2].tolist() == [50.0, 50.0]
