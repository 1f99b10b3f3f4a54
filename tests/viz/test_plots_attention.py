"""The figures of what the model sees, of its features, its costs and its timelines: what they claim is what the numbers say."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from m2clip_lib.viz import plots
from m2clip_lib.viz.overlay import _times
from m2clip_lib.viz.plots.evaluation import neighbour_share, principal_axes
from m2clip_lib.viz.style import new_figure

mpl.use("Agg")


@pytest.fixture
def ax():
    _, (axes,) = new_figure()
    yield axes
    axes.figure.canvas.draw()  # what cannot be drawn fails here
    plt.close("all")


def title(ax) -> str:
    return ax.get_title(loc="left")


def test_focus_compares_the_box_with_its_share_of_the_picture(ax):
    rows = [
        ("this run", "left", 40.0, 10.0),
        ("this run", "right", 8.0, 10.0),
        ("untrained", "left", 10.0, 10.0),
        ("untrained", "right", 9, 10),
    ]
    table = pd.DataFrame(rows, columns=["model", "class_name", "inside", "area"])
    assert plots.plot_focus(ax, table) is ax
    expected = "The object's box holds 2.4 times its share of relevance,\nmore than its share in 1 of 2 classes\n(untrained 0.9 times)"
    assert title(ax) == expected  # 48 / 20 and 19 / 20
    assert [bar.get_width() for bar in ax.patches] == [10, 10]


def test_principal_axes_of_points_on_a_line_hold_all_variance():
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0])
    points, share = principal_axes(line)
    np.testing.assert_allclose(np.abs(points[:, 0]), [10, 5, 0, 5, 10], atol=1e-9)
    assert share == pytest.approx(1)


def test_neighbour_share_by_hand():
    features = np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.8], [1.0, 0.05]])
    # nearest: 0 -> 4, 1 -> 4, 2 -> 3, 3 -> 2, 4 -> 0
    assert neighbour_share(features, np.array([0, 0, 1, 1, 2])) == pytest.approx(100 * 2 / 5)


def test_embedding_shows_twelve_classes_and_greys_the_rest(ax):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(14), [5] * 12 + [2, 2])
    plots.plot_embedding(ax, rng.normal(size=(64, 8)), labels, [f"class {i}" for i in range(14)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"class {i}" for i in range(12)]
    assert len(ax.collections[0].get_offsets()) == 4  # the grey ones
    assert "% of clips have their nearest neighbour in their own class" in title(ax)


def costs(**columns) -> pd.DataFrame:
    return pd.DataFrame({"model": "this run", "views": 1, "gflops": 1.0, "frames": 8} | columns)


def test_cost_of_one_model_goes_from_the_cheapest_to_the_best(ax):
    own = costs(frames=[4, 8, 16], top1=[50.0, 80.0, 70.0], top1_low=[49.0, 79, 69], top1_high=[51.0, 81, 71])
    plots.plot_cost(ax, own, costs(top1=[]), "frames")
    assert title(ax) == "From 4 to 8 frames: top-1 50.0 → 80.0 %"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "8", "16"]


def test_published_numbers_are_beside_ours_and_unknown_costs_are_left_out(ax):
    others = costs(model=["A", "B", "C"], top1=[81.0, 83.0, 85.0], gflops=[100.0, 900.0, np.nan])
    plots.plot_cost(ax, costs(top1=[82.0], gflops=[500.0]), others, "gflops")
    assert title(ax) == "1 of 2 published models are above this run's 82.0 %"
    assert {text.get_text() for text in ax.texts} == {"A", "B", "82.0"}
    colours = {tuple(np.round(c.get_facecolor()[0], 3)) for c in ax.collections if len(c.get_offsets()) == 2}
    assert tuple(np.round(mpl.colors.to_rgba(ax.lines[0].get_color()), 3)) not in colours


def test_labels_of_published_numbers_do_not_overlap(ax):
    others = costs(model=list("ABCD"), top1=[83.0, 83.0, 83.1, 90.0], frames=[8, 8, 8, 8])
    plots.plot_cost(ax, costs(top1=[]), others, "frames")
    assert title(ax) == "Best: D with 90.0 %"
    heights = sorted(text.xy[1] for text in ax.texts)
    assert np.diff(heights).min() > 0.15


def test_timeline_names_who_leads_and_frames_the_best(ax):
    starts, ends = np.array([0.0, 1, 2, 3]), np.array([2.0, 3, 4, 5])
    scores = np.array([[0.9, 0.1, 0.001], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [np.nan] * 3])
    plots.plot_timeline(ax, starts, ends, scores, ["walking", "running", "sleeping"])
    assert title(ax) == "“walking” leads in 2 of 3 windows of 2 s"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["walking", "running"]  # no trace of the third
    boxes = [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in ax.patches]
    assert boxes == [(0.0, 0, 2.5), (2.5, 1, 1.0)]  # one frame for a run of windows


def test_a_timeline_without_a_readable_window_says_so(ax):
    plots.plot_timeline(ax, np.array([0.0]), np.array([2.0]), np.full((1, 2), np.nan), ["a", "b"])
    assert title(ax) == "No window could be read"


def test_word_attention_names_the_strongest_word_and_frame(ax):
    plots.plot_word_attention(ax, ["moving", "left"], np.array([[0.25, 0.25, 0.5], [0.1, 0.8, 0.1]]))
    assert title(ax) == "“left” reads frame 2 most: 80 % (even: 33 %)"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["moving", "left"]


def test_zero_shot_counts_rows_whose_best_name_is_the_right_one(ax):
    scores = np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.5, 0.2, 0.3]])
    plots.plot_zero_shot(ax, scores, np.array([0, 0, 1]), ["a", "b", "c"])
    assert title(ax) == "Frozen CLIP scores the right name highest\nin 1 of 2 classes"
    picture = ax.images[0].get_array()
    np.testing.assert_allclose(picture[0], [50, 30, 20])
    assert np.ma.getmaskarray(picture)[2].all() or np.isnan(np.asarray(picture)[2]).all()  # no video of c


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ([0.125, 0.375], ["0.12 s", "0.38 s"]),
        ([30.0, 30.04, 30.08], ["30.000 s", "30.040 s", "30.080 s"]),
        ([88.0, 113.5], ["88 s", "114 s"]),
        ([0.75, 0.25], ["0.75 s", "0.25 s"]),  # played backwards
        ([0.0, 0.0], ["0 s", "0 s"]),
    ],
)
def test_times_of_frames_are_told_apart_and_plain(seconds, shown):
    assert _times(seconds) == shown
