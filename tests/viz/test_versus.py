"""Two evaluations side by side: on the videos that both could read, in words, and with the videos that tell them apart."""

import numpy as np
import pandas as pd
import pytest

from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.paired import Difference, in_words
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.viz import versus

NAMES = ["a", "b"]


def found(said: list[int], truth: list[int], rows: list[int]) -> Predictions:
    """Predictions that say one of two classes of each video."""
    return Predictions(np.eye(2)[said], None, np.array(truth), rows, NAMES, recordings=np.array([f"r{row}" for row in rows]))


ONE = found([0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 2, 4])  # right, right, wrong, right
OTHER = found([0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 2, 3])  # right, wrong, right, right


def test_only_videos_that_both_read_are_compared():
    both = versus.hits_of_both(ONE, OTHER)
    assert both.row.tolist() == [0, 1, 2]
    assert both["first"].tolist() == [True, True, False]
    assert both["second"].tolist() == [True, False, True]
    assert both.recording.tolist() == ["r0", "r1", "r2"]


def test_the_words_claim_no_more_than_the_interval():
    assert in_words("A", "B", Difference(1.2, 0.4, 2.0, 0.01)) == "A is better than B by 1.2 points (95 % interval 0.4 to 2.0)."
    assert in_words("A", "B", Difference(-1.2, -2.0, -0.4, 0.01)) == "B is better than A by 1.2 points (95 % interval 0.4 to 2.0)."
    unsure = in_words("A", "B", Difference(0.5, -0.4, 1.4, 0.3))
    assert unsure == "A and B: no difference shown (+0.5 points, 95 % interval -0.4 to 1.4)."


def test_each_side_shows_the_videos_that_it_alone_gets_right(monkeypatch):
    monkeypatch.setattr(versus, "films_of", lambda views, rows: f"films of {rows}")
    page = versus.comparison_html({"<one>": ONE, "other": OTHER}, "<one>", "other", views=None)
    assert "no difference shown" in page
    assert "&lt;one&gt; is right where other is wrong: 1 of 3 videos.</p>films of [1]" in page
    assert "other is right where &lt;one&gt; is wrong: 1 of 3 videos.</p>films of [2]" in page
    assert "<one>" not in page


def test_the_widget_compares_what_is_chosen(monkeypatch):
    monkeypatch.setattr(versus, "comparison_html", lambda evaluations, first, second, views: f"{first} against {second}")
    one, other, page = versus.compare_runs({"x": ONE, "y": OTHER}, "x", "y", views=None).children
    assert page.value == "x against y"
    one.value, other.value = "y", "x"
    assert page.value == "y against x"


def test_one_evaluation_is_not_enough(workspace):
    class Anything:
        sha256, several_labels = "of this list", False

    with pytest.raises(UserError, match="0 evaluated runs of these videos, two are needed"):
        versus.saved_evaluations(Anything(), "test")
    Anything.several_labels = True
    with pytest.raises(UserError, match="videos have several labels, of which this comparison has no measure"):
        versus.saved_evaluations(Anything(), "test")


def test_curves_of_runs_are_told_apart():
    from m2clip_lib.viz.plots import plot_runs
    from m2clip_lib.viz.style import new_figure

    table = pd.DataFrame({"epoch": [1, 2, 3], "val_top1_ensemble": [20.0, 50.0, 40.0]})
    _, (ax,) = new_figure()
    plot_runs(ax, {"x": table, "y": table.assign(val_top1_ensemble=[10.0, 20.0, 30.0])})
    assert ax.get_title(loc="left") == "Best epochs: 50.0 % and 30.0 %"
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.get_ylabel() == "validation top-1, %"
