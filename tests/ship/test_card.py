"""The model card: every figure comes from a file, the Hub can read it, and names cannot change its layout."""

import json
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from m2clip_lib.csvfiles import read_csv, write_csv
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.files import file_sha256, write_json
from m2clip_lib.ship.card import model_card

RUN = {
    "run": "demo",
    "experiment": "demo",
    "seed": 0,
    "git_commit": "0123456789abcdef",
    "versions": {"torch": "2.14.1"},
    "hardware": {"gpu": None, "processor": "A Processor"},
    "sha256": {"manifest": "fedcba9876543210"},
    "config": {
        "data": {"layout": "synthetic"},
        "train": {"epochs": 8, "batch_size": 32, "lr": 0.008, "precision": "fp32"},
        "eval": {"split": "test"},
    },
}
ROW = {"model": "M2-CLIP", "top1": 98.84, "top1_low": 97.96, "top1_high": 99.36, "interval": "wilson", "top5": 99.91, "direction": 99.73}
PLAYED = {"top1": 0.52, "top1_low": 0.22, "top1_high": 1.21, "same_answer": 0.83, "opposite": 98.77}


@pytest.fixture
def evaluated(demo_file, workspace):
    """results/demo with one evaluation of the checkpoint; returns its folder."""
    folder, digest = workspace / "results" / "demo", file_sha256(demo_file)
    write_json(folder / "run.json", RUN)
    rows = [ROW | {"readout": "classifier", "top1": 11.11}, ROW | {"readout": "ensemble"}]
    write_csv(folder / "tables" / "accuracy.csv", pd.DataFrame(rows).assign(scored=950, listed=960))
    controls = [ROW | {"model": "frozen CLIP", "readout": "similarity", "top1": 12.34}, *rows]
    write_csv(folder / "tables" / "headline.csv", pd.DataFrame(controls).assign(scored=950, listed=960))
    honesty = [{"played": order, "readout": "ensemble"} | PLAYED for order in ("forwards", "backwards", "shuffled", "repeated")]
    write_csv(folder / "tables" / "honesty.csv", pd.DataFrame(honesty))
    write_json(folder / "04_evaluation.json", {"checkpoint_sha256": digest, "finding": "It names 98.8 % correctly."})
    protocol = {"split": "test", "frames": 8, "stride": 0}
    side = {"checkpoint_sha256": digest, "protocol": protocol, "list_sha256": "abcdef0123456789"}
    write_json(folder / "predictions" / "test.json", side)
    return folder


def numbers(text):
    """The decimal figures of the sections that report something measured."""
    return re.findall(r"\d+\.\d+", text[text.index("## Results") : text.index("## Limits")])


def test_every_figure_is_in_a_file(evaluated, demo_file):
    card = model_card(demo_file)
    known = {98.84, 97.96, 99.36, 99.91, 99.73, 11.11, 12.34, 0.52, 0.22, 1.21, 0.83, 98.77}
    assert {float(figure) for figure in numbers(card)} <= {round(value, 1) for value in known}
    assert "| M2-CLIP | ensemble | 98.8 (98.0 to 99.4) | 99.9 | 99.7 | 950 of 960 |" in card
    assert "| frozen CLIP | similarity | 12.3 (98.0 to 99.4) | 99.9 | 99.7 | 950 of 960 |" in card
    assert "| backwards | 0.5 (0.2 to 1.2) | 0.8 | 98.8 |" in card
    assert "It names 98.8 % correctly." in card
    assert "8 epochs of batches of 32, learning rate 0.008, seed 0, fp32" in card
    assert "list of sha256 abcdef012345" in card
    assert "not measured" not in card[: card.index("## Limits")].lower()


def test_what_was_not_measured_is_said(workspace, demo_file):
    card = model_card(demo_file)
    assert numbers(card) == []
    assert "Not measured: no evaluation of this file was found." in card
    assert "Not measured: backwards, shuffled, one frame repeated." in card
    assert "Not recorded: there is no run.json of this training here." in card


def test_an_evaluation_without_orders_or_directions_says_so(evaluated, demo_file):
    (evaluated / "tables" / "honesty.csv").unlink()
    row = {name: value for name, value in ROW.items() if name != "direction"} | {"readout": "ensemble", "top5": None}
    write_csv(evaluated / "tables" / "accuracy.csv", pd.DataFrame([row]).assign(scored=950, listed=960))
    card = model_card(demo_file)
    assert "| M2-CLIP | ensemble | 98.8 (98.0 to 99.4) | not measured | not measured | 950 of 960 |" in card
    assert "Not measured: backwards, shuffled, one frame repeated." in card


@pytest.mark.parametrize("file", ["predictions/test.json", "04_evaluation.json"])
def test_figures_of_another_checkpoint_are_left_out(evaluated, demo_file, file):
    about = json.loads((evaluated / file).read_text(encoding="utf-8"))
    write_json(evaluated / file, about | {"checkpoint_sha256": "0" * 64})
    card = model_card(demo_file)
    assert "12.3 (" not in card
    assert "It names" not in card
    assert ("98.8 (98.0 to 99.4)" in card) == (file == "04_evaluation.json")


def test_the_hub_reads_the_front_matter(evaluated, demo_file):
    data = ModelCard(model_card(demo_file)).data
    (result,) = data.eval_results
    assert (data.library_name, data.pipeline_tag, data.license) == ("m2clip-workbook", "video-classification", "other")
    assert (result.dataset_name, result.dataset_split, result.metric_type, result.metric_value) == ("demo", "test", "accuracy", 98.8)


def test_names_cannot_change_the_card(demo_file, workspace, evaluated):
    model, _ = open_checkpoint(demo_file)
    evil = "a | b\n\n# <script>alert(1)</script> [x](http://y) `z` *w*"
    model.config = replace(model.config, class_names=(evil, *model.config.class_names[1:]), own_prompts=())
    model.save(workspace / "evil.safetensors", run='demo": {"x', stride=0)
    write_json(evaluated / "run.json", RUN | {"experiment": evil})
    shutil.copytree(evaluated, workspace / "results" / "other")
    side = evaluated / "predictions" / "test.json"
    write_json(side, json.loads(side.read_text(encoding="utf-8")) | {"checkpoint_sha256": file_sha256(workspace / "evil.safetensors")})
    card = model_card(workspace / "evil.safetensors")
    body = card[card.index("\n# ") :]  # before it stands YAML, which holds the name as a string
    assert "<script>" not in body
    assert [line for line in body.splitlines() if line.startswith("#")][1:] == [
        "## Use", "## Training", "## Results", "## Does it read time?", "## Limits", "## Licence",
    ]  # fmt: skip
    assert "](http" not in body
    assert ModelCard(card).data.eval_results[0].dataset_name == evil


def test_a_run_outside_results_is_not_read(demo_file, workspace):
    write_json(workspace / "run.json", RUN)
    (workspace / "results").mkdir()
    model, _ = open_checkpoint(demo_file)
    model.save(workspace / "far.safetensors", run="..", stride=0)
    assert "Not recorded" in model_card(workspace / "far.safetensors")


def test_a_folder_of_results_that_names_no_split_holds_no_evaluation(evaluated, demo_file):
    write_json(evaluated.parent / "other" / "run.json", {})
    assert "98.8 (98.0 to 99.4)" in model_card(demo_file)


def test_a_card_needs_a_whole_checkpoint_of_ours(tmp_path, demo_file):
    content = demo_file.read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="damaged"):
        model_card(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="no such file"):
        model_card(tmp_path / "none.safetensors")


def test_a_model_of_several_labels_is_measured_by_map(evaluated, demo_file):
    for file in ("accuracy", "headline", "honesty"):
        table = read_csv(evaluated / "tables" / f"{file}.csv")
        renamed = {name: name.replace("top1", "mean_ap") for name in table if name.startswith("top1")}
        write_csv(evaluated / "tables" / f"{file}.csv", table.rename(columns=renamed).drop(columns="top5", errors="ignore"))
    card = model_card(demo_file)
    assert "| model | read-out | mAP | top-5 | direction | videos scored |" in card
    assert "| ensemble | 98.8 (98.0 to 99.4) | not measured |" in card
    assert "| played | mAP |" in card
    assert ModelCard(card).data.eval_results[0].metric_type == "map"
