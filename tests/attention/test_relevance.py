"""Relevance and rollout against a two-block model written out by hand: attention as plain matrices that autograd sees."""

import json
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch.nn import functional as F

from m2clip_lib import models
from m2clip_lib.attention.maps import attention_rollout
from m2clip_lib.attention.relevance import log_odds, propagate, relevance
from m2clip_lib.models import M2CLIP, M2CLIPConfig, load_backbone

MODEL_CONFIG = json.loads((Path(models.__file__).parent / "demo_clip.json").read_text())
VIDEO = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXTS = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(2)), dim=-1)
CLASSES = torch.tensor([2, 0])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two visual blocks of width 32, 32 px in patches of 16: 4 patches and CLS."""
    torch.manual_seed(0)
    vision = MODEL_CONFIG["vision_cfg"] | {"image_size": 32, "width": 32, "layers": 2, "head_width": 16}
    text = MODEL_CONFIG["text_cfg"] | {"width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    file = tmp_path_factory.mktemp("two") / "clip.safetensors"
    save_file({k: v.contiguous() for k, v in CLIP(**config).state_dict().items()}, file, metadata={"open_clip_config": json.dumps(config)})
    sizes = {"vision_adapter_layers": 1, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    model = M2CLIP(load_backbone(file), M2CLIPConfig(("a", "b", "c"), ("a",), **sizes)).eval()
    for parameter in model.parameters():  # large weights: attention far from even
        torch.nn.init.normal_(parameter, std=0.3 if parameter.requires_grad else 0.15)
    return model


def written_out(model, video):
    """encode_video with attention as matrices of their own. Returns: the matrices, fc_logits, image_features."""
    visual, matrices = model.clip.visual, []
    b, _, t, _, _ = video.shape
    x = visual.conv1(video.transpose(1, 2).reshape(b * t, 3, 32, 32)).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(b * t, 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x).unflatten(0, (b, t))
    for block, adapters in zip(visual.transformer.resblocks, model.visual_adapters, strict=True):
        attn, heads = block.attn, block.attn.num_heads
        q, k, v = (
            y.unflatten(-1, (heads, -1)).transpose(2, 3)
            for y in F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        )
        matrices.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))  # (b, t, heads, n, n)
        if not matrices[-1].requires_grad:
            matrices[-1].requires_grad_()
        x = x + attn.out_proj((matrices[-1] @ v).transpose(2, 3).flatten(3))
        if "pre_mlp" in adapters:
            x = adapters["pre_mlp"](x, visual.grid_size)
        x = x + block.mlp(block.ln_2(x))
    cls = x[:, :, 0]
    frames = model.frame_adapter(visual.ln_post(cls) @ visual.proj)
    return matrices, model.classifier(visual.ln_post(cls.mean(1))), frames.mean(1)


@pytest.mark.parametrize("readout", ["similarity", "classifier", "ensemble"])
@pytest.mark.parametrize("shortcuts", [True, False])
def test_relevance_equals_the_two_blocks_written_out(model, readout, shortcuts):
    matrices, logits, features = written_out(model, VIDEO)
    by_text = (100 * F.normalize(features.double(), dim=-1) @ TEXTS.double().T).softmax(-1)  # 1 - p is lost in float32
    p = {"similarity": by_text, "classifier": logits.softmax(-1), "ensemble": (by_text + logits.softmax(-1)) / 2}[readout]
    p = p[torch.arange(2), CLASSES]
    gradients = torch.autograd.grad((p.log() - (1 - p).log()).sum(), matrices)
    first, last = ((g * a).clamp(min=0).mean(2) for g, a in zip(gradients, matrices, strict=True))  # (b, t, n, n)
    eye = torch.eye(5)
    expected = ((eye + last) @ (eye + first))[:, :, 0, 1:]
    expected = expected / expected.sum(dim=(1, 2), keepdim=True)
    model.shortcuts = shortcuts
    try:
        found = relevance(model, VIDEO, TEXTS, CLASSES, readout)
    finally:
        model.shortcuts = True
    assert found.shape == (2, 3, 2, 2)
    torch.testing.assert_close(found.flatten(2), expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), torch.ones(2))


def test_relevance_asks_about_a_class(model):
    other = relevance(model, VIDEO, TEXTS, torch.tensor([1, 1]))
    assert (relevance(model, VIDEO, TEXTS, CLASSES) - other).abs().max() > 1e-3


def test_relevance_leaves_no_hook_and_no_gradient_behind(model):
    relevance(model, VIDEO, TEXTS, CLASSES)
    with pytest.raises(RuntimeError, match="equal size"):  # texts of other classes have no ensemble with the classifier
        relevance(model, VIDEO, TEXTS[:2], CLASSES)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_log_odds_by_hand_and_where_the_score_rounds_to_one():
    class Seen:
        image_features = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        fc_logits = torch.tensor([[0.0, 0.0], [200.0, 0.0]])

    texts = torch.tensor([[0.6, 0.8], [0.6, -0.8]])  # equal cosines: similarity gives 1/2 to both
    classes = torch.tensor([0, 0])
    assert log_odds(Seen, texts, classes, "similarity").tolist() == pytest.approx([0, 0])
    assert log_odds(Seen, texts, classes, "classifier").tolist() == pytest.approx([0, 200])
    assert log_odds(Seen, texts, classes, "ensemble").tolist() == pytest.approx([0, torch.log(torch.tensor(3.0)).item()])  # 0.75 : 0.25


def test_propagation_by_hand():
    first = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    last = torch.tensor([[0.2, 0.0, 0.8]])  # CLS's row alone
    one = [first[None, None], last[None, None]]
    # (e + last) (I + first) = [1.2, 0, 0.8] (I + first)
    torch.testing.assert_close(propagate(one)[0, 0, 0], torch.tensor([1.8, 1.0, 1.2]))


def test_rollout_equals_the_two_blocks_written_out(model):
    with torch.no_grad():
        first, last = ((a.mean(2) + torch.eye(5)) / 2 for a in written_out(model, VIDEO)[0])
    for block, expected in ((0, first), (1, last @ first)):
        torch.testing.assert_close(expected.sum(-1), torch.ones(2, 3, 5))
        patches = expected[:, :, 0, 1:]
        found = attention_rollout(model, VIDEO, block)
        torch.testing.assert_close(found.flatten(2), patches / patches.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)
