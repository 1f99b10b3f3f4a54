"""Every figure returns its axes, says what its axes are, and writes its finding into the title."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from m2clip_lib.evaluate.labelcheck import LabelCheck
from m2clip_lib.viz import plots
from m2clip_lib.viz.style import chance_line, new_figure

mpl.use("Agg")
NAMES = ["left", "right", "up"]
METRICS = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "total": [9.31, 4.0, 2.344],
        "contrastive": [3.0, 2.0, 1.0],
        "cross_modal": [3.0, 2.0, 1.0],
        "classification": [3.0, 2.0, 1.0],
        "mlm": [3.0, 2.0, 1.0],
        "val_top1_similarity": [10.0, 20.0, 30.0],
        "val_top1_classifier": [10.0, 20.0, 30.0],
        "val_top1_ensemble": [10.0, 61.2, 61.2],
    }
)


@pytest.fixture
def ax():
    _, (axes,) = new_figure()
    yield axes
    plt.close("all")


def title(ax) -> str:
    """Wherever the style puts it."""
    return ax.get_title(loc="left") or ax.get_title()


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def manifest(counts: dict[tuple[str, str], int], broken: dict[tuple[str, str], int] | None = None) -> pd.DataFrame:
    """(class, split) -> videos that are ok, and videos that are not."""
    rows = [(name, split, "ok") for (name, split), n in counts.items() for _ in range(n)]
    rows += [(name, split, "empty file") for (name, split), n in (broken or {}).items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["class_name", "split", "status"])


def check_axes(found, ax, xlabel: str = "", ylabel: str = "") -> None:
    assert found is ax
    assert xlabel in ax.get_xlabel()
    assert ylabel in ax.get_ylabel()
    assert ax.get_xlabel() or ax.get_ylabel()
    ax.figure.canvas.draw()  # what cannot be drawn fails here
    assert not any("$" in label.get_text() for label in [*ax.get_xticklabels(), *ax.get_yticklabels()])  # TeX is not read: see style.py


def test_clip_grid_shows_one_clip_per_row(ax):
    clips = [np.full((4, 40, 40, 3), shade, np.uint8) for shade in (0, 128)]
    check_axes(plots.plot_clip_grid(ax, clips, ["left", "right"], "Two of 2 classes"), ax, xlabel="time")
    assert title(ax) == "Two of 2 classes"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["left", "right"]
    picture = ax.images[0].get_array()
    assert picture.shape == (2 * 44, 4 * 44, 3)  # a white gap of 2 px around each frame
    assert (picture[2:42, 2:42] == 0).all()
    assert (picture[46:86, 2:42] == 128).all()


def test_class_balance_counts_usable_videos(ax):
    table = manifest({("left", "train"): 3, ("left", "test"): 1, ("right", "train"): 9}, broken={("left", "train"): 5})
    check_axes(plots.plot_class_balance(ax, table), ax, xlabel="usable videos")
    assert title(ax) == "Classes have 4 to 9 videos"
    assert legend(ax) == ["train", "test"]
    assert sorted(bar.get_width() for bar in ax.patches) == [0, 1, 3, 9]


def test_class_balance_says_when_all_are_equal(ax):
    plots.plot_class_balance(ax, manifest({("left", "train"): 2, ("right", "test"): 2}))
    assert title(ax) == "All classes have the same number of videos"


def test_class_balance_counts_a_class_without_a_usable_video(ax):
    plots.plot_class_balance(ax, manifest({("left", "train"): 3, ("up", "train"): 3}, broken={("right", "train"): 3}))
    assert title(ax) == "Classes have 0 to 3 videos"


def test_text_similarity_names_the_closest_pair(ax):
    similarity = np.array([[1.0, 0.97, 0.2], [0.97, 1.0, 0.1], [0.2, 0.1, 1.0]])
    check_axes(plots.plot_text_similarity(ax, similarity, NAMES), ax)
    assert title(ax).endswith("“left” and “right” (0.97)")


def test_relabelling_compares_the_list_with_shuffled_ones(ax):
    check_axes(plots.plot_relabelling(ax, 60.0, np.full(200, 8.0), 8.3, suspicious=False), ax, xlabel="top-1", ylabel="relabellings")
    assert title(ax) == "To frozen CLIP the names fit better than shuffled ones"
    assert "the list as it is (60.0 %)" in legend(ax)
    assert "200 random relabellings" in legend(ax)


@pytest.mark.parametrize(("relabellings", "as_good"), [(200, 0), (200, 9), (200, 10), (200, 11), (200, 200), (10, 0), (19, 0), (39, 1)])
def test_relabelling_gives_the_verdict_of_the_label_check(ax, relabellings, as_good):
    shuffled = np.where(np.arange(relabellings) < as_good, 60.0, 8.0)
    check = LabelCheck(60.0, shuffled, (1 + as_good) / (1 + relabellings))
    plots.plot_relabelling(ax, check.observed, check.shuffled, 8.3, check.suspicious)
    assert ("NO better" in title(ax)) is check.suspicious


def test_stills_counts_what_the_small_clip_has_learned(ax):
    table = pd.DataFrame({"attribute": ["colour", "place", "shape"], "top1": [90.0, 20.0, 26.0], "chance": [12.5, 11.1, 25.0]})
    check_axes(plots.plot_stills(ax, table), ax, xlabel="accuracy")
    assert title(ax) == "The small CLIP has learned 2 of 3 attributes"  # more than 1.5 times chance


def test_walk_shows_every_station_with_its_shape(ax):
    steps = [
        ("video", (2, 3, 4, 8, 8)),
        ("clip.visual.conv1", (8, 16, 2, 2)),
        ("visual_adapters.0", (2, 4, 5, 16)),
        ("image_features", (2, 96)),
    ]
    trace = pd.DataFrame([{"step": step, "shape": shape, "values": int(np.prod(shape))} for step, shape in steps])
    check_axes(plots.plot_walk(ax, trace), ax, xlabel="numbers in the tensor")
    assert title(ax) == "From 1,536 pixel values to 192 numbers per batch"
    assert [text.get_text() for text in ax.texts] == ["2 x 3 x 4 x 8 x 8", "8 x 16 x 2 x 2", "2 x 4 x 5 x 16", "2 x 96"]
    assert [bar.get_width() for bar in ax.patches] == [1536, 512, 640, 192]
    frozen, trained = ax.patches[1].get_facecolor(), ax.patches[2].get_facecolor()
    assert ax.patches[0].get_facecolor() == frozen != trained == ax.patches[3].get_facecolor()


def test_losses_draws_the_four_terms(ax):
    check_axes(plots.plot_losses(ax, METRICS), ax, xlabel="epoch", ylabel="loss, nats")
    assert title(ax) == "Total loss: 9.3 → 2.34"
    assert legend(ax) == ["contrastive", "cross-modal", "classification", "masked words"]


def test_validation_names_the_best_epoch_the_later_one_of_equals(ax):
    check_axes(plots.plot_validation(ax, METRICS, 8.3), ax, xlabel="epoch", ylabel="top-1, %")
    assert title(ax) == "Best epoch 3: 61.2 %"
    assert legend(ax) == ["similarity", "classifier", "ensemble", "chance (8 %)"]


def test_confusion_names_the_most_frequent_mistake(ax):
    counts = np.array([[8, 2, 0], [0, 9, 1], [0, 0, 10]])
    check_axes(plots.plot_confusion(ax, counts, NAMES), ax, xlabel="predicted", ylabel="true")
    assert "“left” taken for\n“right” (2 of 10 videos)" in title(ax)
    assert ax.images[0].get_array()[0].tolist() == [80, 20, 0]


def test_confusion_without_mistakes_or_videos_is_drawn(ax):
    check_axes(plots.plot_confusion(ax, np.diag([3, 0, 2]), NAMES), ax)
    assert title(ax) == "Not one mistake"


def per_class(top1: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"class_name": [f"class {i}" for i in range(len(top1))], "top1": top1})


def test_per_class_goes_from_worst_to_best(ax):
    check_axes(plots.plot_per_class(ax, per_class([50.0, 0.0, 100.0])), ax, xlabel="top-1")
    assert title(ax) == "From “class 1” (0 %) to “class 2” (100 %)"


def test_per_class_names_the_read_out_of_its_table(ax):
    plots.plot_per_class(ax, per_class([50.0, 0.0]).assign(readout="similarity"))
    assert ax.get_xlabel() == "top-1, % (similarity)"  # it said "of the ensemble"


def test_figures_of_several_labels_show_average_precision(ax):
    plots.plot_per_class(ax, pd.DataFrame({"class_name": ["a", "b"], "ap": [60.0, 20.0], "readout": "ensemble"}))
    assert (title(ax), ax.get_xlabel()) == ("From “b” (20 %) to “a” (60 %)", "average precision, % (ensemble)")
    ax.clear()
    ours, control = (pd.DataFrame({"class_name": ["a", "b"], "ap": values}) for values in ([60.0, 20.0], [30.0, 25.0]))
    plots.plot_gain(ax, ours, control, "the probe")
    assert ax.get_xlabel() == "average precision of M2-CLIP minus the probe, percentage points"
    ax.clear()
    columns = {f"val_mean_ap_{name}": METRICS[f"val_top1_{name}"] for name in ("similarity", "classifier", "ensemble")}
    plots.plot_validation(ax, METRICS[["epoch"]].assign(**columns), 16.7)
    assert (title(ax), ax.get_ylabel()) == ("Best epoch 3: 61.2 %", "validation mAP, %")
    ax.clear()
    table = pd.DataFrame({"variant": ["a", "a"], "seed": [0, 1], "readout": "ensemble", "mean_ap": [40.0, 50.0]})
    plots.plot_ablation(ax, table, "mean_ap", 16.7)
    assert (title(ax), ax.get_xlabel()) == ("mAP: no order is claimed", "mAP of the ensemble, %")


def test_per_class_leaves_out_a_class_without_videos(ax):
    plots.plot_per_class(ax, per_class([50.0, np.nan, 100.0]))
    assert title(ax) == "From “class 0” (50 %) to “class 2” (100 %)"


def models(measure: str) -> pd.DataFrame:
    return pd.DataFrame({"model": ["frozen", "probe", "M2-CLIP"], measure: [8.0, 12.5, 61.25]})


@pytest.mark.parametrize(
    ("measure", "name", "label"),
    [("top1", "Top-1", "top-1, %"), ("mean_ap", "mAP", "mAP, %"), ("direction", "Direction", "direction accuracy, %")],
)
def test_models_are_drawn_with_their_numbers(ax, measure, name, label):
    check_axes(plots.plot_models(ax, models(measure), measure, 8.3), ax, xlabel=label)
    assert title(ax) == f"{name}: 61.2 %, best control without time 12.5 %"
    assert {text.get_text() for text in ax.texts} == {"8.0", "12.5", "61.2"}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["frozen", "probe", "M2-CLIP"]
    assert ax.yaxis_inverted()  # the first row is on top


def ablation(**seeds: list[float]) -> pd.DataFrame:
    rows = [(name, seed, "ensemble", value) for name, values in seeds.items() for seed, value in enumerate(values)]
    rows += [(name, 0, "classifier", 1.0) for name in seeds]  # another read-out: not drawn
    return pd.DataFrame(rows, columns=["variant", "seed", "readout", "top1"])


def test_ablation_orders_variants_by_their_mean(ax):
    check_axes(plots.plot_ablation(ax, ablation(static=[10, 20], full=[60, 70], half=[30, 40]), "top1", 8.3), ax, xlabel="top-1")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["static", "half", "full"]
    assert [text.get_text() for text in ax.texts] == ["15.0", "35.0", "65.0"]
    assert title(ax) == "Top-1: no order is claimed"


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(True, "Top-1: “b” is ahead of “a”"), (False, "Top-1: “b” is not separable from “a”"), (None, "Top-1: no order is claimed")],
)
def test_ablation_claims_only_what_the_paired_test_carries(ax, ahead, expected):
    """Before, seeds that did not overlap made the claim: three seeds of equal variants do not overlap in one case of ten."""
    rows = [] if ahead is None else [("b", "a", ahead), ("b", "c", True)]
    plots.plot_ablation(
        ax, ablation(a=[50, 60], b=[61, 70], c=[1, 2]), "top1", 8.3, pd.DataFrame(rows, columns=["better", "other", "ahead"])
    )
    assert title(ax) == expected


def test_chance_line_says_its_value(ax):
    chance_line(ax, 8.33)
    assert ax.lines[-1].get_label() == "chance (8 %)"
    assert list(ax.lines[-1].get_xdata()) == [8.33, 8.33]
    chance_line(ax, 50, vertical=False)
    assert list(ax.lines[-1].get_ydata()) == [50, 50]


def test_four_hundred_classes_are_drawn_and_labelled(ax):
    names = [f"class number {i}" for i in range(400)]
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (400, 400))
    top1 = list(np.linspace(0, 100, 400))
    for draw, labels in (
        (lambda axes: plots.plot_confusion(axes, counts, names), 0),
        (lambda axes: plots.plot_text_similarity(axes, (counts / 10 + counts.T / 10) / 2, names), 0),
        (lambda axes: plots.plot_per_class(axes, per_class(top1)), 30),
        (lambda axes: plots.plot_class_balance(axes, manifest({(name, "train"): 1 + i % 3 for i, name in enumerate(names)})), 30),
    ):
        _, (axes,) = new_figure()
        check_axes(draw(axes), axes)
        shown = [text.get_text() for text in axes.get_yticklabels() if text.get_text().startswith("class")]
        assert len(shown) == labels  # names that would overlap are left out
        plt.close(axes.figure)


def videos(frames: list[int], status: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"num_frames": frames, "duration_s": [f / 10 for f in frames], "status": status})


def test_durations_count_the_videos_that_are_shorter_than_a_clip(ax):
    table = videos([10, 20, 30, 0], ["ok", "ok", "ok", "missing"])
    check_axes(plots.plot_durations(ax, table, clip_frames=20), ax, xlabel="duration, s", ylabel="usable videos")
    assert title(ax) == "1 of 3 videos are shorter than a clip\nof 20 frames: their last frame is repeated"
    assert legend(ax) == ["median 2 s"]
    _, (other,) = new_figure()
    plots.plot_durations(other, table, clip_frames=10)
    assert title(other) == "Every video is long enough\nfor a clip that spans 10 frames"


def test_status_counts_broken_files_by_reason(ax):
    check_axes(plots.plot_status(ax, videos([1] * 5, ["ok", "missing", "empty file", "missing", "ok"])), ax, xlabel="videos")
    assert title(ax) == "3 of 5 videos cannot be used"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["readable", "missing", "empty file"]
    assert [bar.get_width() for bar in ax.patches] == [2, 2, 1]


def test_status_of_a_clean_dataset(ax):
    plots.plot_status(ax, videos([1, 1], ["ok", "ok"]))
    assert title(ax) == "All 2 videos can be read"


def test_gain_is_sorted_and_counts_winners_and_losers(ax):
    ours, control = per_class([50.0, 90.0, 10.0, np.nan]), per_class([40.0, 20.0, 30.0, 10.0])
    check_axes(plots.plot_gain(ax, ours, control, "the probe"), ax, xlabel="minus the probe, percentage points")
    assert title(ax) == "2 of 3 classes gain, 1 loses"
    rows = [
        (tick.get_text(), bar.get_width(), bar.get_y() + bar.get_height() / 2)
        for tick, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)
    ]
    names = list(ours.class_name)
    assert rows == [(names[2], -20.0, 0.0), (names[0], 10.0, 1.0), (names[1], 70.0, 2.0)]
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [("-20", 0), ("+10", 1), ("+70", 2)]


@pytest.mark.parametrize("names", [["$5 or $10", "$$", "win $1_"], ["None", "nan", "true_class"], ["<b>", "_left", "a_b^c"]])
def test_figures_show_class_names_as_they_are(names):
    figure, (first, second, third, fourth) = new_figure(8, 8, columns=2, rows=2)
    counts = np.array([[3, 1, 0], [0, 4, 0], [1, 0, 2]])
    plots.plot_confusion(first, counts, names)
    plots.plot_per_class(second, pd.DataFrame({"class_name": names, "top1": [75.0, 100.0, 66.7]}))
    plots.plot_embedding(third, np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3, names)
    plots.plot_status(fourth, pd.DataFrame({"status": ["ok"] * 20 + ["cannot be opened"]}))
    figure.canvas.draw()
    assert [label.get_text() for label in first.get_yticklabels()] == names
    assert sorted(label.get_text() for label in second.get_yticklabels()) == sorted(names)
    assert [text.get_text() for text in third.get_legend().get_texts()] == names
    assert not any("$" in label.get_text() for label in fourth.get_xticklabels())
