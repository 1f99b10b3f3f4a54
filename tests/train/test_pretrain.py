"""The small CLIP: the file that is shipped, and the training that makes others."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from m2clip_lib import cli, paths
from m2clip_lib.config import load_experiment
from m2clip_lib.experiment import open_backbone
from m2clip_lib.models import load_backbone
from m2clip_lib.models.demo_clip import DEMO_CLIP, ROWS, TOKENS, pack, stills_table, unpack, untrained_tokens
from m2clip_lib.train.pretrain import PretrainConfig, pretrain, zero_shot_on_stills

SHORT = PretrainConfig(steps=3, batch_size=8, warmup_steps=1)


@pytest.fixture(scope="module")
def trained_clip(tmp_path_factory):
    """Three steps of a small batch on one thread: bits agree only at the same number of threads."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("clip") / "small.safetensors"
    pretrain(SHORT, path, report=lambda line: None)
    return path


def test_the_shipped_file_is_what_demo_loads(workspace):
    shipped, named = load_backbone(DEMO_CLIP), load_backbone("demo")
    assert named.sha256 == shipped.sha256 == "61f286e15ee1e4bb41f51fadb21eea9ba59457bf79a9955143ad83d0c0c1ec9f"
    assert named.source == "demo"
    assert open_backbone(load_experiment("tiny", ["backbone.source=demo"])).sha256 == shipped.sha256


def test_the_shipped_file_is_small_and_says_how_it_was_made():
    assert DEMO_CLIP.stat().st_size < 4_000_000
    with safe_open(DEMO_CLIP, framework="pt") as file:
        recipe = json.loads(file.metadata()["pretraining"])["recipe"]
    assert recipe == vars(PretrainConfig(seed=0))


def test_the_shipped_clip_knows_what_its_table_says():
    table = stills_table().set_index("attribute")
    assert table.chance.round().to_dict() == {"colour": 12, "place": 11, "size": 33, "shape": 25, "opacity": 50}
    assert table.top1.round().to_dict() == {"colour": 77, "place": 90, "size": 86, "shape": 33, "opacity": 83}
    shipped = load_backbone("demo")
    again = pd.DataFrame(zero_shot_on_stills(shipped.clip, shipped.tokenizer, np.random.default_rng([0, 1]))).T
    assert (again.top1 - table.top1).abs().max() < 0.5  # another processor rounds differently


def test_a_trained_clip_loads_with_every_token_embedding(trained_clip):
    backbone = load_backbone(trained_clip)
    assert (backbone.image_size, backbone.context_length) == (64, 16)
    assert backbone.clip.token_embedding.weight.shape == (49408, 96)
    with safe_open(trained_clip, framework="pt") as file:
        rows = file.get_tensor(ROWS)
    untouched = torch.ones(49408, dtype=torch.bool)
    untouched[rows] = False
    assert torch.equal(backbone.clip.token_embedding.weight[untouched], untrained_tokens(49408, 96)[untouched])
    assert 10 < len(rows) < 60  # the words of 24 captions


def test_packing_keeps_the_rows_that_training_changed():
    tokens = untrained_tokens(20, 4)
    tokens[[3, 7]] += 0.25
    packed = pack({TOKENS: tokens, "other": torch.tensor([0.5])})
    assert packed[ROWS].tolist() == [3, 7]
    back = unpack(packed, 20)
    assert torch.equal(back[TOKENS][:3], tokens[:3])
    assert torch.allclose(back[TOKENS], tokens, atol=2e-4)  # half precision
    assert back["other"].dtype == torch.float32
    assert unpack(back, 20) is back  # a state that is not packed


def test_untrained_tokens_are_the_same_on_every_machine():
    assert untrained_tokens(1, 3).tolist() == [[0.009488980285823345, -0.01594964787364006, -0.03180228918790817]]
    assert float(untrained_tokens(2000, 8).std()) == pytest.approx(0.02, rel=0.02)


def test_two_trainings_of_one_recipe_are_the_same_to_the_bit(trained_clip, tmp_path):
    pretrain(SHORT, tmp_path / "again.safetensors", report=lambda line: None)
    assert (tmp_path / "again.safetensors").read_bytes() == trained_clip.read_bytes()


def test_the_command_writes_a_clip_that_an_experiment_can_name(workspace, monkeypatch, capsys):
    monkeypatch.setattr("m2clip_lib.train.pretrain.PretrainConfig", lambda seed: PretrainConfig(steps=2, batch_size=8, seed=seed))
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "--seed", "3"])
    assert ended.value.code == 0
    file = paths.CHECKPOINTS / "backbones" / "demo-clip-seed3.safetensors"
    assert f"-o backbone.source={file}" in capsys.readouterr().out
    assert open_backbone(load_experiment("tiny", [f"backbone.source={file}"])).source == str(file)


def test_the_command_refuses_a_name_that_no_reader_recognises(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "--out", "clip.bin"])
    assert ended.value.code == 2
    assert "ends in .safetensors" in capsys.readouterr().err
