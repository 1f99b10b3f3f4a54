"""Starting from a checkpoint of another label set: tensors that fit are copied, the others are reinitialised and named."""

import dataclasses

import pytest
import torch

from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import build_model, open_backbone
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.train.resume import warm_start
from m2clip_lib.train.step import TrainingSteps

CONFIG = M2CLIPConfig(("run", "jump"), ("jump", "run"), 1, 8, text_adapter_layers=1, text_adapter_width=8)


def model_of(backbone, seed: int, **changed) -> M2CLIP:
    torch.manual_seed(seed)
    model = M2CLIP(backbone, dataclasses.replace(CONFIG, **changed))
    with torch.no_grad():
        for value in model.trainable_state().values():
            value.add_(torch.randn_like(value))
    return model


def copied(model: M2CLIP, source: M2CLIP) -> set[str]:
    given = source.trainable_state()
    return {name for name, value in model.trainable_state().items() if name in given and torch.equal(value, given[name])}


HEADS = {"classifier.weight", "classifier.bias", "mlm_head.decoder.weight", "mlm_head.decoder.bias"}


@pytest.mark.parametrize("names", [("swim", "dive", "row"), ("swim", "dive")])
def test_another_label_set_gets_new_heads_named_in_the_log(backbone, tmp_path, names):
    """Also a label set of the same size: its rows mean other classes."""
    source, model = model_of(backbone, 0), model_of(backbone, 1, class_names=names, vocabulary=names)
    source.save(tmp_path / "a.safetensors")
    lines = []
    warm_start(model, tmp_path / "a.safetensors", lines.append)
    assert copied(model, source) == set(model.trainable_state()) - HEADS
    assert all(name in lines[1] for name in HEADS)
    assert "reinitialised" in lines[1]


def test_the_same_label_set_is_copied_completely(backbone, tmp_path):
    source, model = model_of(backbone, 0), model_of(backbone, 1)
    source.save(tmp_path / "a.safetensors")
    lines = []
    warm_start(model, tmp_path / "a.safetensors", lines.append)
    assert copied(model, source) == set(model.trainable_state())
    assert len(lines) == 1


def test_the_official_file_is_copied_and_its_unnamed_classes_are_reported(backbone, tmp_path):
    source, model = model_of(backbone, 0), model_of(backbone, 1)
    source.export_official(tmp_path / "a.pth")
    lines = []
    warm_start(model, tmp_path / "a.pth", lines.append)
    assert copied(model, source) == set(model.trainable_state())
    assert "does not name its classes" in lines[-1]


def test_a_state_with_a_masked_word_block_of_its_own_stays_one_with_it(workspace):
    """Such a block comes from a warm start; if resuming lost it, the next state would lack it."""
    experiment = load_experiment("tiny")
    prepare_data(experiment, report=lambda line: None)
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)

    def steps() -> TrainingSteps:
        return TrainingSteps(experiment, manifest, backbone, build_model(experiment, backbone, manifest.class_names), Processes())

    first, second = steps(), steps()
    first.model.config = dataclasses.replace(first.model.config, own_mlm_block=True)
    with torch.no_grad():
        first.model.mlm_block.ln_1.bias.fill_(3.0)
    second.load_state(first.state(), first.scaler.state_dict())
    assert second.state().keys() == first.state().keys()
    assert torch.equal(second.model.mlm_block.ln_1.bias, first.model.mlm_block.ln_1.bias)


def test_fewer_adapters_leave_tensors_unused_and_named(backbone, tmp_path):
    source, model = model_of(backbone, 0, vision_adapter_layers=2), model_of(backbone, 1)
    source.save(tmp_path / "a.safetensors")
    lines = []
    warm_start(model, tmp_path / "a.safetensors", lines.append)
    assert any("this model has no such tensor): visual_adapters.2.pre_mlp" in line for line in lines)
