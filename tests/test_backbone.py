"""Loading a CLIP: what loads, what is refused, and that refusing runs no code."""

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file

from m2clip_lib.errors import UserError
from m2clip_lib.models.backbone import load_backbone

GOLDEN = Path(__file__).parent / "golden"


def openai_state() -> dict[str, torch.Tensor]:
    """CLIP's part of golden case a under OpenAI's names, fp16 as OpenAI stores it."""
    state = load_file(GOLDEN / "a_12style.state.safetensors")
    foreign = ("adapter", "mlm_", "transformer.resblocks.3.")
    return {name: value for name, value in state.items() if name.startswith("visual.transformer.resblocks") or not _has(name, foreign)}


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


@pytest.fixture
def openai_file(tmp_path) -> Path:
    state = {name: value for name, value in openai_state().items() if "adapter" not in name}
    torch.save(state, tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_openai_state_dict_loads_with_its_sizes_read_off_the_tensors(openai_file):
    backbone = load_backbone(openai_file)
    assert backbone.image_size == 32
    assert backbone.context_length == 77
    assert len(backbone.clip.visual.transformer.resblocks) == 3
    assert backbone.clip.visual.conv1.weight.dtype == torch.float32
    assert type(backbone.clip.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert not any(p.requires_grad for p in backbone.clip.parameters())


def test_digest_tells_weights_apart_and_nothing_else(openai_file, tmp_path):
    state = torch.load(openai_file, weights_only=True)
    torch.save(dict(reversed(state.items())), tmp_path / "reordered.pt")
    state["visual.proj"] = state["visual.proj"] + 1
    torch.save(state, tmp_path / "changed.pt")
    first, reordered, changed = (load_backbone(p).sha256 for p in (openai_file, tmp_path / "reordered.pt", tmp_path / "changed.pt"))
    assert first == reordered != changed


class Malicious:
    """Unpickling this writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "code ran"))


def test_a_malicious_pickle_runs_no_code_and_is_refused(tmp_path):
    trap = tmp_path / "ran"
    torch.save({"visual.proj": Malicious(trap)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(trap)))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(UserError, match="no code in it was run"):
            load_backbone(tmp_path / name)
    assert not trap.exists()


def test_a_foreign_torchscript_archive_is_not_opened_unless_trusted(tmp_path):
    with warnings.catch_warnings():  # torch calls its own archive format outdated
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UserError, match="TorchScript archive that is none of OpenAI's"):
        load_backbone(tmp_path / "model.pt")
    with pytest.raises(UserError, match="not a CLIP with a ViT"):  # opened now, and found to be something else
        load_backbone(tmp_path / "model.pt", trust_torchscript=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not weights at all"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_empty_and_damaged_files_are_refused_in_one_line(tmp_path, content, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=str(file)) as error:
        load_backbone(file)
    assert "\n" not in str(error.value)


def test_safetensors_without_a_model_config_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no open_clip model config"):
        load_backbone(tmp_path / "other.safetensors")


def test_a_missing_file_and_unknown_tags_say_what_to_give():
    with pytest.raises(UserError, match=r"no such file: /nowhere/clip\.pt"):
        load_backbone("/nowhere/clip.pt")
    with pytest.raises(UserError, match="neither a file nor an open_clip tag"):
        load_backbone("ViT-Z-99/openai")
    with pytest.raises(UserError, match="open_clip has no weights 'nosuch' for ViT-B-16"):
        load_backbone("ViT-B-16/nosuch")


def test_a_tower_that_is_no_vit_is_refused_by_name(monkeypatch):
    import open_clip

    resnet = CLIP(32, CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, image_size=32), CLIPTextCfg(width=32, heads=1, layers=1))
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: resnet)
    with pytest.raises(UserError, match="ModifiedResNet"):
        load_backbone("RN50/openai")


def test_openai_tags_get_quick_gelu(monkeypatch):
    import open_clip

    asked = {}

    def create(name, pretrained, force_quick_gelu):
        asked.update(name=name, quick=force_quick_gelu)
        return CLIP(32, CLIPVisionCfg(layers=1, width=64, image_size=32), CLIPTextCfg(width=32, heads=1, layers=1))

    monkeypatch.setattr(open_clip, "create_model", create)
    load_backbone("ViT-B-16/openai")
    assert asked == {"name": "ViT-B-16", "quick": True}
    load_backbone("ViT-B-16/laion2b_s34b_b88k")
    assert asked["quick"] is False
