"""Loading a CLIP: what loads, what is refused, and that refusing runs no code."""

import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from malicious import Malicious
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file

from m2clip_lib.errors import UserError
from m2clip_lib.models import sources
from m2clip_lib.models.backbone import load_backbone

GOLDEN = Path(__file__).parents[1] / "golden"


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


def test_digest_depends_on_the_weights_and_nothing_else(openai_file, tmp_path):
    state = torch.load(openai_file, weights_only=True)
    torch.save(dict(reversed(state.items())), tmp_path / "reordered.pt")
    state["visual.proj"] = state["visual.proj"] + 1
    torch.save(state, tmp_path / "changed.pt")
    first, reordered, changed = (load_backbone(p).sha256 for p in (openai_file, tmp_path / "reordered.pt", tmp_path / "changed.pt"))
    assert first == reordered != changed


def test_a_malicious_pickle_runs_no_code_and_is_refused(tmp_path):
    trap = tmp_path / "ran"
    torch.save({"visual.proj": Malicious(trap)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(trap)))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(UserError, match="no code in it was run"):
            load_backbone(tmp_path / name)
    assert not trap.exists()


def test_a_foreign_torchscript_archive_is_not_opened_unless_trusted(tmp_path):
    with warnings.catch_warnings():  # torch deprecates its own archive format
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UserError, match="TorchScript archive that is not one of OpenAI's"):
        load_backbone(tmp_path / "model.pt")
    with pytest.raises(UserError, match="not a CLIP with a ViT"):  # opened now, but not a CLIP
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
    with pytest.raises(UserError, match="not a CLIP with a ViT"):
        load_backbone(tmp_path / "other.safetensors")


def test_missing_files_and_unknown_tags_are_refused_with_advice():
    with pytest.raises(UserError, match=r"no such file: /nowhere/clip\.pt"):
        load_backbone("/nowhere/clip.pt")
    with pytest.raises(UserError, match="neither a file nor an open_clip tag"):
        load_backbone("ViT-Z-99/openai")
    with pytest.raises(UserError, match="open_clip has no weights 'nosuch' for ViT-B-16"):
        load_backbone("ViT-B-16/nosuch")


@pytest.mark.parametrize(
    ("tag", "tower"),
    [
        ("RN50/openai", "ResNet"),
        ("MobileCLIP2-S0/dfndr2b", "FastVit"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "CoCa"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "roberta"),
    ],
)
def test_towers_the_adapters_do_not_fit_are_refused_by_name_before_any_download(tag, tower):
    with pytest.raises(UserError, match=tower):
        load_backbone(tag)


@pytest.mark.parametrize(
    ("vision", "text", "words"),
    [
        ({"scale_heads": True}, {}, r"blocks that compute something else than CLIP's \(scale_heads\)"),
        ({}, {"qk_norm": True}, r"\(qk_norm\)"),
        ({}, {"text_arch": "modern"}, "a text tower of another architecture"),
        ({}, {"embed_cls": True}, "a text tower of another architecture"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(vision, text, words):
    """Our block reads the same tensors and would leave out what such configurations add."""
    plain = {"embed_dim": 32, "vision_cfg": {"layers": 2}, "text_cfg": {"width": 32}}
    sources.refuse_unfit(plain, "plain")
    odd = {"embed_dim": 32, "vision_cfg": plain["vision_cfg"] | vision, "text_cfg": plain["text_cfg"] | text}
    with pytest.raises(UserError, match=words):
        sources.refuse_unfit(odd, "odd")


@pytest.fixture
def zoo(monkeypatch):
    """open_clip's zoo without a network: every tag yields the small model, and the request is recorded."""
    import open_clip

    asked = {}

    def create(name, pretrained, force_quick_gelu):
        asked.update(name=name, quick=force_quick_gelu)
        return CLIP(32, CLIPVisionCfg(layers=1, width=64, image_size=32), CLIPTextCfg(width=32, heads=1, layers=1), force_quick_gelu)

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    return asked


def test_openai_tags_get_quick_gelu_with_a_warning(zoo, caplog):
    assert load_backbone("ViT-B-16/openai").quick_gelu
    assert zoo == {"name": "ViT-B-16", "quick": True}
    assert "using QuickGELU" in caplog.text
    assert not load_backbone("ViT-B-16/laion2b_s34b_b88k").quick_gelu


def test_missing_weights_without_a_network_are_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(sources, "_hub_answers", lambda: False)
    monkeypatch.setattr(sources, "_is_cached", lambda config: False)
    with pytest.raises(UserError, match="not in the local cache, and there is no network"):
        load_backbone("ViT-B-32-quickgelu/openai")


def test_an_open_clip_file_takes_its_architecture_by_name_or_from_the_side_file(tmp_path):
    architecture = {"embed_dim": 32, "vision_cfg": {"image_size": 32, "layers": 1, "width": 160, "head_width": 80, "patch_size": 16}}
    architecture["text_cfg"] = {"context_length": 16, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    clip = CLIP(**architecture)
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    side = {"model_cfg": architecture, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(side))
    backbone = load_backbone(tmp_path / "open_clip_model.safetensors")
    assert backbone.clip.visual.transformer.resblocks[0].attn.num_heads == 2  # 160 / 80: cannot be inferred from the tensors
    assert not backbone.quick_gelu
    assert backbone.mean == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match=r"tensor positional_embedding is \(16, 32\), expected \(77, 512\)"):
        load_backbone(tmp_path / "open_clip_model.safetensors", model_name="ViT-B-16")
    with pytest.raises(UserError, match="no such architecture"):
        load_backbone(tmp_path / "open_clip_model.safetensors", model_name="ViT-Z")


def test_fp32_weights_are_not_rounded(openai_file, tmp_path):
    state = {name: value.float() * 1.0001 for name, value in torch.load(openai_file, weights_only=True).items()}
    torch.save(state, tmp_path / "fp32.pt")
    assert torch.equal(load_backbone(tmp_path / "fp32.pt").clip.visual.proj, state["visual.proj"])


def test_clip_weights_that_are_not_finite_are_refused_with_file_and_tensor(openai_file, tmp_path):
    state = torch.load(openai_file, weights_only=True)
    state["visual.proj"][3, 5] = float("inf")
    torch.save(state, tmp_path / "bent.pt")
    with pytest.raises(UserError, match=r"bent\.pt: tensor visual\.proj is not finite"):
        load_backbone(tmp_path / "bent.pt")
