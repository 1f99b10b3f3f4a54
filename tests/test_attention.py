"""Attention as recorded: equal to softmax(q k) worked out by hand, and without a trace in the model."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.viz.attention import ClsAttentionRecorder, cls_patch_maps, plot_attention
from m2clip_lib.viz.style import new_figure

BLOCKS = range(4)


@pytest.fixture(scope="module")
def model(backbone):
    """Adapters before attention and MLP with random weights: attention of a trained model, not of plain CLIP."""
    torch.manual_seed(0)
    config = M2CLIPConfig(
        ("left", "right"),
        ("left",),
        vision_adapter_layers=4,
        vision_adapter_width=8,
        vision_adapter_pre_attn=True,
        text_adapter_layers=1,
        text_adapter_width=8,
    )
    model = M2CLIP(backbone, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


VIDEO = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def input_of_attention(model, block: int) -> torch.Tensor:
    """What ln_1 of the block put out, (b, t, n, c)."""
    seen = []
    hook = model.clip.visual.transformer.resblocks[block].ln_1.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        model.encode_video(VIDEO)
    hook.remove()
    return seen[0]


@torch.no_grad()
def attention_by_hand(attn: torch.nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """softmax(q k / sqrt(d)) of the CLS token, one head after the other: (heads, n); x (n, c)."""
    c, heads = attn.embed_dim, attn.num_heads
    d = c // heads
    w_q, w_k, _ = attn.in_proj_weight.double().split(c)
    b_q, b_k, _ = attn.in_proj_bias.double().split(c)
    q, k = x.double() @ w_q.T + b_q, x.double() @ w_k.T + b_k
    rows = [(q[0, h * d : (h + 1) * d] @ k[:, h * d : (h + 1) * d].T / d**0.5).softmax(-1) for h in range(heads)]
    return torch.stack(rows)


@pytest.mark.parametrize("block", BLOCKS)
def test_attention_is_softmax_of_queries_and_keys(model, block):
    x = input_of_attention(model, block)
    attn = model.clip.visual.transformer.resblocks[block].attn
    with ClsAttentionRecorder(model, block) as recorder, torch.no_grad():
        model.encode_video(VIDEO)
    assert recorder.attention.shape == (2, 3, 3, 17)  # clips, frames, heads, CLS + 4 x 4 patches
    for clip in range(2):
        for frame in range(3):
            expected = attention_by_hand(attn, x[clip, frame])
            torch.testing.assert_close(recorder.attention[clip, frame].double(), expected, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        tokens = x.flatten(0, 1)
        _, torchs = attn(*([tokens] * 3 if attn.batch_first else [tokens.transpose(0, 1)] * 3), average_attn_weights=False)
    torch.testing.assert_close(recorder.attention.flatten(0, 1), torchs[:, :, 0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
def test_attention_of_a_head_sums_to_one(model, block):
    with ClsAttentionRecorder(model, block) as recorder, torch.no_grad():
        model.encode_video(VIDEO)
    torch.testing.assert_close(recorder.attention.sum(-1), torch.ones(2, 3, 3))
    assert (recorder.attention >= 0).all()


@pytest.mark.parametrize("block", BLOCKS)
def test_recording_changes_no_bit_of_the_output(model, block):
    with torch.no_grad():
        before = model.encode_video(VIDEO)
        with ClsAttentionRecorder(model, block):
            during = model.encode_video(VIDEO)
    for name in ("image_features", "frame_features", "fc_logits"):
        assert torch.equal(getattr(before, name), getattr(during, name))


def hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_nothing_stays_in_the_model_even_after_an_error(model):
    with ClsAttentionRecorder(model, 1):
        assert hooks(model) == 1
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="on purpose"), ClsAttentionRecorder(model, 1):
        raise RuntimeError("on purpose")
    assert hooks(model) == 0


@pytest.mark.parametrize("block", [-1, 4])
def test_a_block_that_is_not_there_is_refused(model, block):
    with pytest.raises(ValueError, match=f"block = {block}, this backbone has blocks 0 to 3"):
        ClsAttentionRecorder(model, block)


def test_maps_are_shares_of_the_attention_on_patches(model):
    maps = cls_patch_maps(model, VIDEO[:1], block=2)
    assert maps.shape == (3, 4, 4)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-6)
    attn = model.clip.visual.transformer.resblocks[2].attn
    mean = attention_by_hand(attn, input_of_attention(model, 2)[0, 1]).mean(0)[1:].reshape(4, 4)
    np.testing.assert_allclose(maps[1], (mean / mean.sum()).numpy(), atol=1e-6)


def test_figure_counts_blocks_from_one_and_says_how_strong_the_strongest_patch_is():
    maps = np.full((2, 4, 4), 0.5 / 15, np.float32)
    maps[:, 1, 2] = 0.5
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    _, axes = new_figure(rows=2)
    top, bottom = plot_attention(tuple(axes), frames, maps, block=3)
    assert top.get_title(loc="left") == "Block 4: the strongest patch holds 50 % of the attention (even: 6 %)"
    assert "4 x 4 patches" in bottom.get_xlabel()
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["1", "2"]
    heat = bottom.images[-1].get_array()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 16 <= row < 32  # patch row 1 of 4
    assert 32 <= column % 64 < 48  # patch column 2 of 4
    plt.close("all")
