"""Our checkpoint file: what is saved is restored, and a misfit is refused with the name of the tensor or file."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.checkpoint import read_checkpoint_info

CONFIG = M2CLIPConfig(
    ("moving left", "naïve café"), ("a", "left"), 2, 8, text_adapter_layers=2, text_adapter_width=8, num_frames=5, prompt="see {}"
)


@pytest.fixture
def saved(backbone, tmp_path):
    torch.manual_seed(1)
    model = M2CLIP(backbone, CONFIG).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save(tmp_path / "best.safetensors", epoch=3, stride=4)
    return model, tmp_path / "best.safetensors"


def test_a_saved_model_is_restored_bit_for_bit(saved, backbone):
    model, path = saved
    loaded = M2CLIP.from_checkpoint(path, backbone)
    assert loaded.config == model.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert not loaded.training


def test_only_trainable_tensors_are_in_the_file(saved):
    model, path = saved
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_header_is_readable_without_a_backbone(saved):
    _, path = saved
    info = read_checkpoint_info(path)
    assert info.config.class_names == CONFIG.class_names
    assert info.prompts == ["see moving left", "see naïve café"]
    assert info.preprocessing["image_size"] == 64
    assert info.extra == {"epoch": 3, "stride": 4}
    assert json.loads(path.with_suffix(".json").read_text())["config"]["num_frames"] == 5


def test_the_clip_length_can_be_overridden(saved, backbone):
    assert M2CLIP.from_checkpoint(saved[1], backbone, num_frames=16).config.num_frames == 16


def test_another_backbone_is_refused_with_both_digests(saved, backbone):
    other = dataclasses.replace(backbone, sha256="0" * 64, source="another")
    with pytest.raises(UserError, match=rf"sha256 {backbone.sha256[:12]}.*not on 'another' \(sha256 000000000000\)"):
        M2CLIP.from_checkpoint(saved[1], other)


def test_a_tensor_that_does_not_fit_is_named_with_both_shapes(saved, backbone, tmp_path):
    model, path = saved
    with safe_open(path, framework="pt") as file:
        header = {"m2clip": file.metadata()["m2clip"].replace("workbook/2", "workbook/1")}  # otherwise the seal would fail first
    tensors = model.trainable_state() | {"classifier.weight": torch.zeros(7, 96)}
    save_file(tensors, tmp_path / "bent.safetensors", metadata=header)
    with pytest.raises(UserError, match=r"classifier.weight is \(7, 96\) in the file and \(2, 96\)"):
        M2CLIP.from_checkpoint(tmp_path / "bent.safetensors", backbone)


def test_missing_foreign_and_damaged_files_are_refused(saved, backbone, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        M2CLIP.from_checkpoint(tmp_path / "none.safetensors", backbone)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of this workbook"):
        M2CLIP.from_checkpoint(tmp_path / "foreign.safetensors", backbone)
    (tmp_path / "cut.safetensors").write_bytes(saved[1].read_bytes()[:500])
    with pytest.raises(UserError, match="not a readable safetensors"):
        M2CLIP.from_checkpoint(tmp_path / "cut.safetensors", backbone)
    published = tmp_path / "official.pth"
    published.touch()
    with pytest.raises(UserError, match=f"score it with: m2clip eval EXPERIMENT --checkpoint {published} -o backbone.source=CLIP"):
        read_checkpoint_info(published)


def test_own_prompts_are_restored(backbone, tmp_path):
    config = dataclasses.replace(CONFIG, prompt=("see {}", "{} is seen"), own_prompts=(("it goes left", "left"), ("a café",)))
    M2CLIP(backbone, config).save(tmp_path / "own.safetensors")
    info = read_checkpoint_info(tmp_path / "own.safetensors")
    assert info.config == config
    assert info.prompts == ["it goes left", "left", "a café"]


def test_a_file_from_before_several_prompts_were_supported_still_loads(saved, backbone, tmp_path):
    model, path = saved
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["m2clip"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["config"]["own_prompts"]
    header["format"] = "m2clip-workbook/1"  # no seal either
    save_file(tensors, tmp_path / "old.safetensors", metadata={"m2clip": json.dumps(header)})
    assert M2CLIP.from_checkpoint(tmp_path / "old.safetensors", backbone).config == model.config


def test_a_flipped_bit_anywhere_in_the_header_is_a_user_error(saved, backbone):
    """One bit in every 31st byte, including tensor names, offsets and the seal."""
    _, path = saved
    content = path.read_bytes()
    for place in range(0, 8 + int.from_bytes(content[:8], "little"), 31):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            M2CLIP.from_checkpoint(path, backbone)


def test_a_flipped_bit_in_the_weights_is_detected(saved, backbone):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best.safetensors: damaged \(its content does not match its digest\)"):
        M2CLIP.from_checkpoint(path, backbone)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_with_file_and_tensor(saved, backbone, value):
    """They were loaded, and `eval` reported 8.3 % top-1 for whatever class comes first."""
    model, path = saved
    with torch.no_grad():
        model.classifier.bias[1] = value
    model.save(path)
    with pytest.raises(UserError, match=r"best\.safetensors: tensor classifier\.bias is not finite"):
        M2CLIP.from_checkpoint(path, backbone)
