"""The published configurations: exact parameter counts, and a complete pass at full size."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, load_backbone
from m2clip_lib.models.foreign import published_name
from m2clip_lib.presets import PRESETS

NAMES, WORDS = tuple(f"class {i}" for i in range(400)), tuple(f"word {i}" for i in range(520))


def meta_model(name: str) -> M2CLIP:
    """Build a model on the meta device: shapes without memory."""
    architecture = open_clip.get_model_config(PRESETS[name].architecture)
    with torch.device("meta"):
        clip = CLIP(**architecture)
        return M2CLIP(Backbone(clip, SimpleTokenizer(), name, "none", 224), M2CLIPConfig(NAMES, WORDS, **PRESETS[name].model))


@pytest.mark.parametrize(
    ("name", "millions"),
    [("B/16 12x384", 16.138), ("B/16 24x384", 39.845), ("B/32 12x384", 15.744), ("B/32 24x384", 34.721)],
)
def test_published_configurations_train_the_published_number_of_parameters(name, millions):
    found = sum(p.numel() for p in meta_model(name).parameters() if p.requires_grad)
    assert found == PRESETS[name].trainable
    assert round(found / 1e6, 3) == millions


def test_b16_parts_add_up_by_hand():
    """12 TED-Adapters: two branches of 768 x 384 down and up, kernels of 3 and 9; frame adapter; classifier; two text adapters; head."""
    down_up = 768 * 384 + 384 + 384 * 768 + 768
    ted = 12 * (2 * down_up + (3 + 1) * 384 + (9 + 1) * 384)
    frame = 512 * 256 + 256 + (3 + 1) * 256 + 256 * 512 + 512
    classifier = 768 * 400 + 400
    text = 2 * (512 * 384 + 384 + 384 * 512 + 512)
    head = 512 * 512 + 512 + 2 * 512 + 512 * 520 + 520
    assert ted + frame + classifier + text + head == PRESETS["B/16 12x384"].trainable


def test_b16_trains_exactly_these_names():
    trainable = {published_name(name, 12) for name, p in meta_model("B/16 12x384").named_parameters() if p.requires_grad}
    layers = [f"{layer}.{kind}" for layer in ("fc1", "conv", "fc2") for kind in ("weight", "bias")]
    ted = [
        f"visual.transformer.resblocks.{i}.adapter_pre_mlp.{branch}{layer}"
        for i in range(12)
        for branch in ("", "offset_adapter.")
        for layer in layers
    ]
    text = [
        f"transformer.resblocks.{i}.adapter_pre_mlp.textad_fc{n}.{kind}" for i in (11, 12) for n in (1, 2) for kind in ("weight", "bias")
    ]
    head = ["mlm_adapter.bias", "mlm_adapter.decoder.weight"]
    head += [f"mlm_adapter.transform.{part}.{kind}" for part in ("dense", "LayerNorm") for kind in ("weight", "bias")]
    rest = [f"visual.t_adapter.{layer}" for layer in layers] + ["visual.adapter_fc.weight", "visual.adapter_fc.bias"]
    assert trainable == {*ted, *text, *head, *rest}


class Archive(torch.nn.Module):
    """A module with OpenAI's parameter names, to be written as a TorchScript archive."""

    def __init__(self, clip: CLIP):
        super().__init__()
        for name, module in clip.named_children():
            self.add_module(name, Shell(module))
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, torch.nn.Parameter(getattr(clip, name).data))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Shell(torch.nn.Module):
    """A module's parameter tree without its code, which TorchScript could not compile."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, torch.nn.Parameter(parameter.data, requires_grad=False))
        for name, child in module.named_children():
            self.add_module(name, Shell(child))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.slow
def test_full_size_b16_loads_from_both_containers_and_runs_with_and_without_shortcuts(tmp_path):
    """Load a random ViT-B/16 in OpenAI's layout as state dict and archive, and an official file on it. About 20 s: 150 M weights each."""
    torch.manual_seed(0)
    clip = CLIP(**open_clip.get_model_config("ViT-B-16-quickgelu"))
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    torch.jit.trace(Archive(clip), torch.zeros(1)).save(str(tmp_path / "archive.pt"))
    del clip
    backbone = load_backbone(tmp_path / "clip.pt")
    assert backbone.quick_gelu
    assert load_backbone(tmp_path / "archive.pt", trust_torchscript=True).sha256 == backbone.sha256
    model = M2CLIP(backbone, M2CLIPConfig(NAMES, WORDS, **PRESETS["B/16 12x384"].model))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    model.export_official(tmp_path / "official.pth")
    model = M2CLIP.from_checkpoint(tmp_path / "official.pth", backbone)
    video, tokens = torch.randn(1, 3, 2, 224, 224), backbone.tokenizer(["A video of juggling balls"])
    with torch.no_grad():
        quick = model(video, tokens)
        model.shortcuts = False
        slow = model(video, tokens)
    for name in ("image_features", "fc_logits", "text_features", "logits_per_image"):
        torch.testing.assert_close(getattr(quick, name), getattr(slow, name), atol=1e-4, rtol=1e-4)
    length = quick.text_hidden.shape[1]
    torch.testing.assert_close(quick.text_hidden, slow.text_hidden[:, :length], atol=1e-4, rtol=1e-4)
