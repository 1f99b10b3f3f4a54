"""Third-party files: inferred from the tensors, computed as published, refused when they do not fit, and exported losslessly."""

import dataclasses
import logging
import pickle
from pathlib import Path

import pytest
import torch
from malicious import Malicious
from safetensors.torch import load_file

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, load_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
OUTPUTS = ("image_features", "frame_features", "fc_logits", "text_features", "text_hidden", "logits_per_image", "mlm_logits")
CASES = {"a_12style": 3, "d_12b32": 3, "e_mixed": 2}  # number of CLIP's text blocks


def state_of(case: str) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(GOLDEN / f"{case}.state.safetensors").items()}


def is_adapter(name: str) -> bool:
    return "adapter" in name


def files_of(case: str, folder) -> dict[str, object]:
    """A CLIP file, the official file and the replicate's file of a golden case, in their authors' layouts."""
    state, block = state_of(case), f"transformer.resblocks.{CASES[case]}."
    clip = {name: value for name, value in state.items() if not is_adapter(name) and not name.startswith(block)}
    torch.save(clip, folder / "clip.pt")
    official = {name: value for name, value in state.items() if is_adapter(name)}
    torch.save({"model": official, "optimizer": {}, "lr_sched": {}, "loss_scaler": {}, "next_epoch": 1}, folder / "official.pth")
    replicate = {"epoch": 0, "model_state_dict": state, "optimizer_state_dict": {}, "scheduler_state_dict": {}, "loss": torch.tensor(1.0)}
    torch.save(replicate, folder / "replicate.pt")
    return {"clip": folder / "clip.pt", "official": folder / "official.pth", "replicate": folder / "replicate.pt"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["official", "replicate"])
def test_published_files_give_the_published_outputs(case, kind, tmp_path):
    files = files_of(case, tmp_path)
    model = M2CLIP.from_checkpoint(files[kind], load_backbone(files["clip"]))
    io = load_file(GOLDEN / f"{case}.io.safetensors")
    with torch.no_grad():
        out = model(io["in.video"], io["in.tokens"])
    for name in OUTPUTS:
        torch.testing.assert_close(getattr(out, name), io[f"out.{name}"], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_full_file_keeps_its_own_masked_word_block(tmp_path):
    files = files_of("a_12style", tmp_path)
    content = torch.load(files["replicate"], weights_only=True)
    content["model_state_dict"]["transformer.resblocks.3.ln_1.weight"] += 1.0
    torch.save(content, tmp_path / "own.pt")
    backbone = load_backbone(files["clip"])
    model = M2CLIP.from_checkpoint(tmp_path / "own.pt", backbone)
    assert model.config.own_mlm_block
    assert torch.equal(model.mlm_block.ln_1.weight, content["model_state_dict"]["transformer.resblocks.3.ln_1.weight"])
    model.save(tmp_path / "ours.safetensors")
    again = M2CLIP.from_checkpoint(tmp_path / "ours.safetensors", backbone)
    assert torch.equal(again.mlm_block.ln_1.weight, model.mlm_block.ln_1.weight)
    with pytest.raises(UserError, match="masked-word block of its own"):
        model.export_official(tmp_path / "official.pth")


def test_exporting_and_reading_back_preserves_all_tensors(tmp_path):
    files = files_of("e_mixed", tmp_path)
    backbone = load_backbone(files["clip"])
    model = M2CLIP.from_checkpoint(files["replicate"], backbone)
    model.export_official(tmp_path / "out.pth")
    again = M2CLIP.from_checkpoint(tmp_path / "out.pth", backbone)
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert set(written) == {name for name in state_of("e_mixed") if is_adapter(name)}  # exactly their names


def test_a_model_that_their_format_cannot_represent_is_not_exported(tmp_path):
    files = files_of("a_12style", tmp_path)
    backbone = load_backbone(files["clip"])
    config = dataclasses.replace(M2CLIP.from_checkpoint(files["official"], backbone).config, difference=False)
    with pytest.raises(UserError, match="full TED-Adapters only"):
        M2CLIP(backbone, config).export_official(tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_a_third_party_file_defaults_to_eight_frames_with_a_warning(tmp_path, caplog):
    files = files_of("a_12style", tmp_path)
    backbone = load_backbone(files["clip"])
    with caplog.at_level(logging.WARNING):
        assert M2CLIP.from_checkpoint(files["official"], backbone).config.num_frames == 8
    assert "taking 8 frames" in caplog.text
    assert "no class names" in caplog.text
    assert M2CLIP.from_checkpoint(files["official"], backbone, num_frames=16).config.num_frames == 16


def test_the_wrong_backbone_is_named_by_its_first_differing_tensor(tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "a").mkdir()
    other, files = files_of("e_mixed", tmp_path / "e"), files_of("a_12style", tmp_path / "a")
    with pytest.raises(UserError, match=r"fc1\.weight is \(32, 64\) in the file and \(32, 128\) on backbone"):
        M2CLIP.from_checkpoint(files["official"], load_backbone(other["clip"]))
    content = torch.load(files["replicate"], weights_only=True)
    content["model_state_dict"]["visual.proj"] += 1.0
    torch.save(content, tmp_path / "bent.pt")
    with pytest.raises(UserError, match=r"tensor visual\.proj \(64, 64\) differs in its values from backbone"):
        M2CLIP.from_checkpoint(tmp_path / "bent.pt", load_backbone(files["clip"]))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    files = files_of("a_12style", tmp_path)
    content = torch.load(files["official"], weights_only=True)
    content["model"]["visual.t_adapter.fc1.weight"] = torch.zeros(5, 64)
    torch.save(content, tmp_path / "bent.pth")
    with pytest.raises(UserError, match=r"visual\.t_adapter\.fc1\.weight is \(5, 64\) in the file and \(32, 64\)"):
        M2CLIP.from_checkpoint(tmp_path / "bent.pth", load_backbone(files["clip"]))
    del content["model"]["visual.t_adapter.fc1.weight"]
    torch.save(content, tmp_path / "gap.pth")
    with pytest.raises(UserError, match=r"visual\.t_adapter\.fc1\.weight \(32, 64\) is missing"):
        M2CLIP.from_checkpoint(tmp_path / "gap.pth", load_backbone(files["clip"]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", pickle.dumps([1, 2])])
def test_empty_truncated_and_foreign_checkpoints_are_refused_in_one_line(content, tmp_path, backbone):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pth") as error:
        M2CLIP.from_checkpoint(tmp_path / "model.pth", backbone)
    assert "\n" not in str(error.value)


def test_a_malicious_checkpoint_runs_no_code(tmp_path, backbone):
    torch.save({"model": Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="no code in it was run"):
        M2CLIP.from_checkpoint(tmp_path / "evil.pth", backbone)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("kind", "key"), [("official", "model"), ("replicate", "model_state_dict")])
def test_a_published_file_that_is_not_finite_is_refused_with_its_tensor(kind, key, tmp_path):
    files = files_of("a_12style", tmp_path)
    content = torch.load(files[kind], weights_only=True)
    content[key]["visual.t_adapter.fc1.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "bent.pth")
    with pytest.raises(UserError, match=r"bent\.pth: tensor visual\.t_adapter\.fc1\.weight is not finite"):
        M2CLIP.from_checkpoint(tmp_path / "bent.pth", load_backbone(files["clip"]))
