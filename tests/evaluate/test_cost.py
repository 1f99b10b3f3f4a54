"""Operations counted, and published numbers converted to the same count."""

import dataclasses

import pandas as pd
import pytest
import torch

from m2clip_lib.config import load_experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.evaluate.cost import frames_table, published_costs, video_gflops
from m2clip_lib.evaluate.metrics import topk_accuracy
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.evaluate.predictions import load_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import predict_split
from m2clip_lib.experiment import first_of_each_class
from m2clip_lib.models import M2CLIP, M2CLIPConfig


def test_published_multiply_adds_per_view_become_operations_per_video():
    table = published_costs("Kinetics-400").set_index(["model", "frames", "views"])
    assert table.loc[("M2-CLIP B/16", 8, 12), "gflops"].item() == 2 * 214 * 12  # printed as "4x3" views
    assert table.loc[("AIM B/16", 8, 3), "gflops"].item() == 2 * 202 * 3
    assert table.loc[("Vita-CLIP B/16", 8, 1), "top1"].item() == 80.5


def test_what_a_source_does_not_give_stays_unknown():
    table = published_costs("Kinetics-400")
    assert pd.isna(table.loc[table.model == "BIKE B/16", "gflops"].item())
    assert pd.isna(table.loc[table.model.str.startswith("MSTA"), "views"].item())


def test_a_row_marked_as_no_baseline_is_left_out():
    assert not published_costs("Kinetics-400").model.str.contains("Replicate").any()


def test_a_dataset_without_published_results_has_no_rows():
    assert published_costs("").empty


def test_operations_of_a_frozen_clip_by_hand(backbone):
    config = M2CLIPConfig(("a", "b"), ("a",), vision_adapter_layers=0, text_adapter_layers=0, frame_adapter=False)
    model = M2CLIP(backbone, config).eval()
    n, c, patches, embed, classes = 17, 96, 16, 96, 2
    block = 12 * n * c * c + 2 * n * n * c  # query, key, value and output 4, MLP 8; attention 2
    # All four blocks in full, as published numbers count; our shortcut computes the last one for CLS alone, and was counted so.
    frame = patches * 16 * 16 * 3 * c + 4 * block + c * embed
    for frames in (1, 3):
        assert video_gflops(model, frames) == pytest.approx(2e-9 * (frames * frame + c * classes), rel=1e-6)
    assert model.shortcuts  # as before


def test_the_first_videos_of_every_class_are_taken_in_the_order_of_the_table():
    table = pd.DataFrame({"label": [1, 0, 0, 1, 0, 2]})
    assert first_of_each_class(table, 1) == [0, 1, 5]
    assert first_of_each_class(table, 2) == [0, 1, 2, 3, 5]


@pytest.mark.xdist_group("trained")
def test_a_checkpoint_on_its_own_clip_length_has_its_own_accuracy(trained, workspace):
    experiment = load_experiment("tiny", [f"data.prepared={trained[0] / 'data' / 'tiny'}"])
    model, _ = open_checkpoint(trained[0] / "checkpoints" / "tiny" / "best.safetensors")
    table = frames_table(model, experiment, load_manifest(experiment), [2, 4], 1, torch.device("cpu"))
    saved = load_predictions(trained[1] / "predictions", "test")
    assert table.frames.tolist() == [2, 4]
    assert table.top1[1] == pytest.approx(topk_accuracy(saved.readout("ensemble"), saved.labels, 1))
    assert (table.videos == 12).all()
    assert table.gflops[1] > 1.9 * table.gflops[0]
    assert (table.top1_low <= table.top1).all()
    assert (table.listed == 12).all()
    assert set(table.readout) == {"ensemble"}


@pytest.mark.xdist_group("trained")
def test_other_classes_are_scored_zero_shot_at_every_length(trained, workspace):
    """The classifier of twelve classes was asked about three others."""
    experiment = load_experiment("tiny", [f"data.prepared={trained[0] / 'data' / 'tiny'}"])
    model, _ = open_checkpoint(trained[0] / "checkpoints" / "tiny" / "best.safetensors")
    known = load_manifest(experiment)
    other = Manifest(known.table.assign(label=known.table.label % 3), ["left", "right", "up"], known.folder, "")
    table = frames_table(model, experiment, other, [2], 1, torch.device("cpu"))
    protocol = dataclasses.replace(Protocol.of_experiment(experiment), frames=2)
    found = predict_split(experiment, other, model, protocol, first_of_each_class(other.split("test"), 1), class_names=other.class_names)
    assert table.readout.tolist() == ["similarity"]
    assert table.top1.tolist() == [topk_accuracy(found.similarity, found.labels, 1)]
    assert table.top5.isna().all()
    assert table.listed.tolist() == [3]  # of the chosen rows
