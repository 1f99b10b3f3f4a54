"""The plan on paper: it adds up, names its assumptions, and needs neither videos nor weights."""

import re

import pandas as pd
import pytest

from m2clip_lib.config import load_experiment
from m2clip_lib.errors import UserError
from m2clip_lib.train.plan import clips_per_second, digits, duration, plan_lines, planned_dataset, size, step_cost, validation_videos

DEMO = ["backbone.source=demo"]


def test_hours_are_clips_over_rate_and_devices(workspace):
    experiment = load_experiment("tiny", [*DEMO, "train.epochs=10"])
    text = "\n".join(plan_lines(experiment, 3600, 0, 10.0, "given", [1, 8]))
    assert "3,600 training videos x 10 epochs = 36,000 clips" in text
    assert "1 x this device: 1.0 h" in text
    assert re.search(r"8 x this device: 7.5 min.* the loader must give 80 clips/s", text)
    assert text.count("assumed") == 3
    assert "computed, not measured" in text


def test_activation_checkpointing_keeps_less_and_computes_more(workspace):
    plain, lean = (step_cost(load_experiment("tiny", [*DEMO, f"train.activation_checkpointing={on}"]), 12) for on in ("false", "true"))
    assert lean.clip_bytes < 0.7 * plain.clip_bytes
    assert lean.clip_flop > plain.clip_flop


def test_the_rate_is_the_runs_own_unless_given(tmp_path, workspace):
    experiment = load_experiment("tiny")
    assert clips_per_second(experiment, tmp_path, 0.0) == (0.0, "")
    assert clips_per_second(experiment, tmp_path, 7.0)[0] == 7.0
    (tmp_path / "tiny").mkdir()
    pd.DataFrame({"clips": [24, 24], "seconds": [2.0, 4.0]}).to_csv(tmp_path / "tiny" / "metrics.csv")
    assert clips_per_second(experiment, tmp_path, 0.0)[0] == pytest.approx(8.0)


def test_a_known_dataset_can_be_planned_before_it_is_there(workspace):
    lines = []
    kinetics = load_experiment("tiny", ["data.layout=kinetics", "data.prepared=nothing"])
    assert planned_dataset(kinetics, lines.append) == (240_000, 400)
    assert "as in the official list" in lines[0]
    with pytest.raises(UserError, match=r"plan: no manifest in .*; or give --videos N"):
        planned_dataset(load_experiment("tiny"), lines.append)


def test_a_weight_file_that_does_not_say_its_architecture_asks_for_it(workspace):
    with pytest.raises(UserError, match=r"add -o backbone\.model_name="):
        step_cost(load_experiment("tiny"), 12)


def test_validation_is_counted_as_often_as_it_is_done(workspace):
    shares = {}
    for every in (1, 5):
        experiment = load_experiment("tiny", [*DEMO, f"train.validate_every={every}"])
        text = "\n".join(plan_lines(experiment, 100, 12, 0.0, "", [1]))
        shares[every] = float(re.search(r"10 videos, one view each: ([0-9.]+) % of all operations", text)[1])  # a tenth is held out
    assert "validation after every 5 epochs" in text
    cost = step_cost(experiment, 12)
    validated, trained = 10 * cost.view_flop, 100 * (cost.clip_flop + cost.text_flop / 8)
    assert shares[1] == pytest.approx(100 * validated / (validated + trained), abs=0.1)
    assert shares[5] == pytest.approx(100 * validated / (validated + 5 * trained), abs=0.1)
    assert validation_videos(load_experiment("tiny", ["data.layout=kinetics", "data.prepared=nothing"]), 240_000) == 20_000


@pytest.mark.parametrize(("seconds", "text"), [(7200, "2.0 h"), (3599, "60.0 min"), (90, "1.5 min"), (12.4, "12 s"), (0.234, "0.23 s")])
def test_times_are_in_sensible_units(seconds, text):
    """The demonstration's plan said 0.0 h."""
    assert duration(seconds) == text
    assert [digits(number) for number in (2880, 530, 1.04, 0.1312)] == ["2,880", "530", "1.04", "0.131"]
    assert [size(number) for number in (1.5 * 2**30, 3.2 * 2**20)] == ["1.5 GiB", "3 MiB"]


@pytest.mark.slow
def test_a_tower_of_timm_is_planned_and_reads_whole_texts_where_it_is_not_causal(workspace):
    changes = ["model.vision_adapter_layers=1", "model.text_adapter_layers=2", "data.num_frames=1"]
    siglip, mobile = (
        step_cost(load_experiment("tiny", [f"backbone.source={name}/any", *changes]), 4) for name in ("ViT-B-16-SigLIP", "MobileCLIP2-B")
    )
    assert siglip.clip_flop > mobile.clip_flop > 0.9 * 2 * 85e6 * 197  # a pass through all blocks but the last
    assert siglip.text_flop > 5 * mobile.text_flop  # 64 positions of 768 channels for 11 of 512, forward and backward in one block
