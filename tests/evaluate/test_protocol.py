"""The protocol: made from an experiment or a checkpoint, unchanged by its way through files, and what tables print of it."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from m2clip_lib.config import DataSection, EvalSection, Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions, load_predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views, views_of_files
from m2clip_lib.models import M2CLIPConfig
from m2clip_lib.models.checkpoint import CheckpointInfo

NAMES = ("run", "walk")
PROTOCOL = Protocol("val", 8, 4, 2, 3, ("see {}", "{} here"), "", "exact", backwards=True)


def info(extra: dict, **config) -> CheckpointInfo:
    return CheckpointInfo("", M2CLIPConfig(NAMES, ("run",), **config), [], "", "", {}, extra)


def prompts_file(folder, content: dict) -> str:
    file = folder / "prompts.json"
    file.write_text(json.dumps(content))
    return str(file)


def texts(protocol: Protocol) -> list[list[str]]:
    return [[prompt.text for prompt in prompts] for prompts in protocol.class_prompts(NAMES)]


def test_an_experiment_gives_every_field_of_its_data_and_eval_sections():
    data = DataSection(num_frames=8, stride=4, prompt=("see {}", "{} here"), resize="exact")
    experiment = Experiment(name="mine", data=data, eval=EvalSection(split="val", temporal_views=2, spatial_views=3))
    assert Protocol.of_experiment(experiment, backwards=True) == PROTOCOL
    assert Protocol.of_experiment(experiment, split="train").split == "train"
    assert Protocol.of_experiment(Experiment(name="mine", data=DataSection(prompts_file="own.json"))).prompts_file == "own.json"


def test_a_checkpoint_gives_one_view_as_long_and_spread_as_its_training_clips():
    found = Protocol.of_checkpoint(info({"stride": 16}, num_frames=4, prompt="see {}"))
    assert found == Protocol("", 4, 16, prompts=("see {}",))
    assert Protocol.of_checkpoint(info({}, num_frames=4)).stride == 0  # saved by hand: the clip covers the whole video


def test_a_model_brings_the_prompts_it_was_trained_with():
    templates = dataclasses.replace(PROTOCOL, prompts_file="own.json").with_texts_of(info({}, prompt=("a {}", "b {}")).config)
    assert (templates.prompts, templates.prompts_file) == (("a {}", "b {}"), "")
    sentences = info({}, own_prompts=(("someone runs",), ("someone walks",))).config
    kept = PROTOCOL.with_texts_of(sentences)
    assert (kept.prompts, kept.prompts_file) == ((), "sentences kept in the checkpoint")
    assert dataclasses.replace(PROTOCOL, prompts_file="own.json").with_texts_of(sentences).prompts_file == "own.json"
    assert dataclasses.replace(kept, prompts=PROTOCOL.prompts, prompts_file="") == PROTOCOL  # nothing else changes


def test_one_view_changes_nothing_but_the_views():
    one = PROTOCOL.one_view()
    assert (PROTOCOL.num_views, one.num_views) == (6, 1)
    assert dataclasses.replace(one, temporal_views=2, spatial_views=3) == PROTOCOL


def test_a_clip_that_covers_the_whole_video_has_one_temporal_view():
    whole = Protocol("test", 8, 0, temporal_views=5, spatial_views=3)
    assert (whole.temporal_views, whole.num_views) == (1, 3)
    assert dataclasses.replace(PROTOCOL, stride=0).temporal_views == 1


def test_columns_make_a_number_reproducible():
    expected = {"split": "val", "views": "3x2", "frames": 8, "stride": 4, "prompt": "see {} | {} here", "list_sha256": "0123456789ab"}
    assert PROTOCOL.columns("0123456789abcdef") == expected
    assert dataclasses.replace(PROTOCOL, prompts_file="own.json").columns("")["prompt"] == "own.json"


def test_templates_are_filled_with_the_class_names():
    assert texts(PROTOCOL) == [["see run", "run here"], ["see walk", "walk here"]]


def test_sentences_of_a_prompts_file_replace_the_templates(tmp_path):
    file = prompts_file(tmp_path, {"walk": ["someone walks"], "run": ["someone runs", "running"]})
    assert texts(dataclasses.replace(PROTOCOL, prompts_file=file)) == [["someone runs", "running"], ["someone walks"]]


def test_a_prompts_file_without_a_class_is_refused(tmp_path):
    file = prompts_file(tmp_path, {"walk": ["someone walks"]})
    with pytest.raises(UserError, match="no prompts for class 'run'"):
        dataclasses.replace(PROTOCOL, prompts_file=file).class_prompts(NAMES)


@pytest.mark.parametrize("protocol", [PROTOCOL, Protocol("val", 4, 0, prompts=(), prompts_file="own.json")])
def test_a_protocol_is_the_same_after_a_round_trip_through_the_files_of_predictions(tmp_path, protocol):
    table = pd.DataFrame({"path": ["a.mp4"], "label": [1], "class_name": ["walk"], "split": "val", "status": "ok"})
    predictions = Predictions(np.array([[0.2, 0.8]], np.float32), None, np.array([1]), [0], list(NAMES), protocol=protocol)
    save_predictions(predictions, Manifest(table, list(NAMES), tmp_path, "ab" * 32), tmp_path, "val")
    loaded = load_predictions(tmp_path, "val")
    assert loaded.protocol == protocol
    assert hash(loaded.protocol) == hash(protocol)  # JSON's lists are tuples again
    assert loaded.list_sha256 == "ab" * 32


def test_predictions_without_a_protocol_are_evaluated_again(tmp_path):
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(UserError, match=r"written by an older version; evaluate again \(m2clip eval"):
        load_predictions(tmp_path, "test")


def test_views_of_files_name_those_that_cannot_be_read(video_folder, tmp_path):
    files = [tmp_path / "gone.mp4", *sorted(video_folder.rglob("clip*"))[:2]]
    table, views, failed = views_of_files(files, Protocol("", 4, 2), 48)
    assert table.place.tolist() == [1, 2]
    assert failed == {0: "missing"}
    assert [views[place].clip.shape for place in range(len(views))] == [(1, 4, 3, 48, 48)] * 2
    assert views_of_files(files[:1], Protocol("", 4, 2), 48)[1] is None


def test_evaluation_views_read_the_rows_of_the_split_that_are_asked_for(video_folder, tmp_path, backbone):
    table, _, _ = views_of_files(sorted(video_folder.rglob("clip*"))[:4], Protocol("", 4, 2), 48)
    table = table.assign(split=["train", "val", "val", "val"], status="ok")
    manifest = Manifest(table, list(NAMES), tmp_path, "")
    experiment = Experiment(name="mine")
    views = evaluation_views(experiment, manifest, backbone, Protocol("val", 4, 2), rows=[0, 2])
    assert [views[place].index for place in range(len(views))] == [0, 2]
    assert len(evaluation_views(experiment, manifest, backbone, Protocol("val", 4, 2))) == 3
