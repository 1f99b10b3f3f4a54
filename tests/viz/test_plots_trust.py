"""Figures of honesty, calibration, abstention and the dial: their titles say what the tables say."""

import pandas as pd

from m2clip_lib.viz.plots import plot_abstention, plot_honesty, plot_mix, plot_reliability
from m2clip_lib.viz.style import new_figure


def axes():
    return new_figure()[1][0]


def test_honesty_names_the_last_readout_and_what_one_frame_gives():
    rows = [(played, readout, top1, top1 - 2, top1 + 2) for readout in ("similarity", "ensemble") for played, top1 in ORDERS.items()]
    ax = plot_honesty(axes(), pd.DataFrame(rows, columns=["played", "readout", "top1", "top1_low", "top1_high"]))
    assert ax.get_title(loc="left") == "As recorded 90.0 %, with one frame throughout 20.0 %"
    assert ax.get_xlabel() == "top-1, % (ensemble)"
    several = pd.DataFrame(rows, columns=["played", "readout", "mean_ap", "mean_ap_low", "mean_ap_high"])
    other = plot_honesty(axes(), several)
    assert (other.get_title(loc="left"), other.get_xlabel()) == (ax.get_title(loc="left"), "mAP, % (ensemble)")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["as recorded", "backwards", "shuffled", "one frame repeated"]


def test_honesty_says_how_many_become_their_opposite():
    table = pd.DataFrame([(played, "ensemble", top1, top1, top1, 0.0) for played, top1 in ORDERS.items()])
    table.columns = ["played", "readout", "top1", "top1_low", "top1_high", "opposite"]
    table.loc[table.played == "backwards", "opposite"] = 91.0
    assert plot_honesty(axes(), table).get_title(loc="left").endswith("20.0 %;\nplayed backwards, 91 % become their opposite")


ORDERS = {"forwards": 90.0, "backwards": 5.0, "shuffled": 40.0, "repeated": 20.0}


def test_reliability_says_how_much_too_sure():
    table = pd.DataFrame({"videos": [1, 3], "confidence": [60.0, 90.0], "accuracy": [50.0, 80.0], "scores": "as they are"})
    ax = plot_reliability(axes(), table.assign(temperature=1.0, ece=10.0))
    assert ax.get_title(loc="left") == "On average 10.0 points too sure"
    assert ax.get_legend_handles_labels()[1] == ["as right as confident", "as they are (T = 1.00): error 10.0 points"]


def test_abstention_tells_the_surer_half():
    table = pd.DataFrame({"answered": [25.0, 50.0, 100.0], "threshold": [0.9, 0.8, 0.1], "accuracy": [100.0, 97.5, 80.0]})
    assert plot_abstention(axes(), table).get_title(loc="left") == "The surest 50 % are right in 97.5 %"


def test_the_dial_shows_both_ends_and_what_validation_chose():
    rows = [
        (mix, split, "similarity", top1, mix == 0.5) for split in ("test", "val") for mix, top1 in ((0.0, 10.0), (0.5, 60.0), (1.0, 50.0))
    ]
    ax = plot_mix(axes(), pd.DataFrame(rows, columns=["mix", "split", "readout", "top1", "chosen"]), "test")
    assert ax.get_title(loc="left") == "From 10.0 % (frozen CLIP) to 50.0 % (trained)"
    assert "chosen on validation: 0.5" in ax.get_legend_handles_labels()[1]
