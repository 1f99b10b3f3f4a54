"""Attention as recorded: equal to softmax(q k) worked out by hand, bounded in memory, and without a trace left in the model."""

import pytest
import torch

from m2clip_lib.attention.record import cls_attention, record_attention
from m2clip_lib.models import M2CLIP, M2CLIPConfig

BLOCKS = range(4)
VIDEO = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(backbone):
    """Adapters before attention and MLP with random weights: attention of a trained model, not of plain CLIP."""
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 4, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    model = M2CLIP(backbone, M2CLIPConfig(("left", "right"), ("left",), vision_adapter_pre_attn=True, **sizes)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def input_of_attention(model, block: int) -> torch.Tensor:
    """What ln_1 of the block put out, (b, t, n, c)."""
    seen = []
    hook = model.clip.visual.transformer.resblocks[block].ln_1.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        model.encode_video(VIDEO)
    hook.remove()
    return seen[0]


@torch.no_grad()
def attention_by_hand(attn: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """softmax(q k / sqrt(d)), one head after the other: (heads, n, n); x (n, c)."""
    c, heads = x.shape[-1], attn.num_heads
    d = c // heads
    w_q, w_k, _ = attn.in_proj_weight.double().split(c)
    b_q, b_k, _ = attn.in_proj_bias.double().split(c)
    q, k = x.double() @ w_q.T + b_q, x.double() @ w_k.T + b_k
    return torch.stack([(q[:, h * d : (h + 1) * d] @ k[:, h * d : (h + 1) * d].T / d**0.5).softmax(-1) for h in range(heads)])


def record(model, blocks) -> dict[int, torch.Tensor]:
    return dict(zip(blocks, record_attention(model, VIDEO, blocks), strict=True))


def test_attention_is_softmax_of_queries_and_keys(model):
    recorded = record(model, BLOCKS)
    for block in BLOCKS:
        x = input_of_attention(model, block)
        attn = model.clip.visual.transformer.resblocks[block].attn
        rows = 1 if block == 3 else 17  # the last block computes CLS's row alone; 4 x 4 patches
        assert recorded[block].shape == (2, 3, 3, rows, 17)  # clips, frames, heads
        for clip in range(2):
            for frame in range(3):
                expected = attention_by_hand(attn, x[clip, frame])[:, :rows]
                torch.testing.assert_close(recorded[block][clip, frame].double(), expected, atol=1e-6, rtol=1e-4)


def test_every_recorded_row_sums_to_one(model):
    for attention in record(model, BLOCKS).values():
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
        assert (attention >= 0).all()


def test_only_what_is_asked_for_is_kept(model):
    everything = record(model, BLOCKS)
    for block, rows in zip(BLOCKS, record_attention(model, VIDEO, BLOCKS, lambda found: found[..., :1, :]), strict=True):
        assert torch.equal(rows, everything[block][..., :1, :])


def test_without_shortcuts_the_last_block_has_all_rows(model):
    model.shortcuts = False
    try:
        assert record(model, [3])[3].shape == (2, 3, 3, 17, 17)
    finally:
        model.shortcuts = True


@pytest.mark.parametrize("shortcuts", [True, False])
def test_recording_changes_no_bit_of_the_output(model, shortcuts, monkeypatch):
    monkeypatch.setattr(model, "shortcuts", shortcuts)
    seen, encode = [], model.encode_video
    monkeypatch.setattr(model, "encode_video", lambda video: seen.append(encode(video)))
    with torch.no_grad():
        before = encode(VIDEO)
    record(model, BLOCKS)
    (during,) = seen
    for name in ("image_features", "frame_features", "fc_logits"):
        assert torch.equal(getattr(before, name), getattr(during, name))


def hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_no_hook_stays_in_the_model_even_after_an_error(model, monkeypatch):
    seen, encode = [], model.encode_video
    monkeypatch.setattr(model, "encode_video", lambda video: seen.append((hooks(model), encode(video))))
    record(model, [1, 2])
    assert (seen[0][0], hooks(model)) == (2, 0)
    monkeypatch.setattr(model, "encode_video", lambda video: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record(model, [1])
    assert hooks(model) == 0


@pytest.mark.parametrize("block", [-1, 4])
def test_a_block_that_is_not_there_is_refused(model, block):
    with pytest.raises(ValueError, match=f"block = {block}, this backbone has blocks 0 to 3"):
        record(model, [block])


def test_a_map_is_a_share_of_the_attention_on_patches(model):
    maps = cls_attention(model, VIDEO, block=2)
    assert maps.shape == (2, 3, 4, 4)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3))
    by_hand = attention_by_hand(model.clip.visual.transformer.resblocks[2].attn, input_of_attention(model, 2)[0, 1])[:, 0, 1:]
    for head, rows in ((None, by_hand.mean(0)), (1, by_hand[1])):
        expected = (rows / rows.sum()).reshape(4, 4)
        torch.testing.assert_close(cls_attention(model, VIDEO, 2, head)[0, 1].double(), expected, atol=1e-6, rtol=1e-4)


def test_a_head_that_is_not_there_is_refused(model):
    with pytest.raises(ValueError, match="head = 3, this block has heads 0 to 2"):
        cls_attention(model, VIDEO, 0, head=3)
