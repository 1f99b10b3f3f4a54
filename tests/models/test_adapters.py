"""Each trainable module alone, checked against the published modules' outputs (golden/micro) and by hand arithmetic."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from m2clip_lib.models.adapters import FrameAdapter, MaskedWordHead, TEDAdapter, TemporalDifference, TextAdapter
from m2clip_lib.models.adapters.ted import frame_difference, temporal_conv

MICRO = load_file(Path(__file__).parents[1] / "golden" / "micro.safetensors")
CLIPS, FRAMES, GRID, WIDTH, BOTTLENECK = 2, 5, (3, 3), 24, 10


def load_published(module: nn.Module, prefix: str, rename: dict[str, str]) -> nn.Module:
    """Fill a module from golden weights; rename: our name -> published, where they differ."""
    for name, parameter in module.named_parameters():
        published = name
        for ours, theirs in rename.items():
            published = published.replace(ours, theirs)
        parameter.data.copy_(MICRO[f"{prefix}.w.{published}"])
    return module.eval()


def frames_apart(x: torch.Tensor) -> torch.Tensor:
    """The published modules' (b * t, n, c) -> (b, t, n, c)."""
    return x.unflatten(0, (CLIPS, FRAMES))


def test_ted_adapter_equals_the_published_module():
    adapter = load_published(TEDAdapter(WIDTH, BOTTLENECK), "Adapter2", {"difference.": "offset_adapter.", "enhancement.": ""})
    before = MICRO["Adapter2.in"].clone()
    with torch.no_grad():
        out = adapter(frames_apart(MICRO["Adapter2.in"]), GRID)
    torch.testing.assert_close(out.flatten(0, 1), MICRO["Adapter2.out"], atol=1e-5, rtol=1e-5)
    assert torch.equal(MICRO["Adapter2.in"], before)  # the published module edits its input in place; ours must not


def test_difference_branch_equals_the_published_module():
    branch = load_published(TemporalDifference(WIDTH, BOTTLENECK), "OffsetAdapter", {})
    with torch.no_grad():
        out = branch(frames_apart(MICRO["OffsetAdapter.in"])[:, :, 1:], GRID)
    torch.testing.assert_close(out.flatten(0, 1), MICRO["OffsetAdapter.out"], atol=1e-5, rtol=1e-5)


def test_frame_adapter_equals_the_published_module():
    adapter = FrameAdapter(2 * BOTTLENECK)  # the golden module's bottleneck is not half its width: insert layers of its sizes
    adapter.enhancement.fc1, adapter.enhancement.fc2 = nn.Linear(WIDTH, BOTTLENECK), nn.Linear(BOTTLENECK, WIDTH)
    load_published(adapter, "Adapter1", {"enhancement.": ""})
    with torch.no_grad():
        out = adapter(MICRO["Adapter1.in"].unflatten(0, (CLIPS, FRAMES)))
    torch.testing.assert_close(out.flatten(0, 1), MICRO["Adapter1.out"], atol=1e-5, rtol=1e-5)


def test_text_adapter_equals_the_published_module():
    adapter = load_published(TextAdapter(WIDTH, BOTTLENECK), "TextAdapter", {"fc": "textad_fc"})
    with torch.no_grad():
        torch.testing.assert_close(adapter(MICRO["TextAdapter.in"]), MICRO["TextAdapter.out"], atol=1e-5, rtol=1e-5)


def test_masked_word_head_equals_the_published_module():
    words = MICRO["MLMHead.out"].shape[-1]
    rename = {"dense.": "transform.dense.", "norm.": "transform.LayerNorm.", "decoder.bias": "bias"}
    head = load_published(MaskedWordHead(WIDTH, words), "MLMHead", rename)
    with torch.no_grad():
        torch.testing.assert_close(head(MICRO["MLMHead.in"]), MICRO["MLMHead.out"], atol=1e-5, rtol=1e-5)


def test_temporal_conv_weighs_past_present_and_future():
    conv = nn.Conv1d(1, 1, 3, groups=1)
    conv.weight.data = torch.tensor([[[100.0, 10.0, 1.0]]])
    conv.bias.data = torch.tensor([0.5])
    x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    expected = [10 + 2 + 0.5, 100 + 20 + 3 + 0.5, 200 + 30 + 0.5]  # zeros before the first and after the last frame
    assert temporal_conv(x, conv).flatten().tolist() == expected


def test_the_spatial_convolution_looks_along_the_rows_of_a_grid_that_is_not_square():
    branch = TemporalDifference(1, 1)
    branch.conv.weight.data[0, 0, 0, 1, 0] = 1.0  # each patch takes its left neighbour's change
    for layer in (branch.fc1, branch.fc2):
        layer.weight.data.fill_(1.0)
    patches = torch.zeros(1, 2, 6, 1)
    patches[0, 1, :, 0] = torch.arange(1.0, 7.0)  # row 1 2 3 above row 4 5 6
    with torch.no_grad():
        assert branch(patches, (2, 3))[0, 1, :, 0].tolist() == [0, 1, 2, 0, 4, 5]


def test_difference_of_the_first_frame_is_zero():
    x = torch.tensor([5.0, 7.0, 4.0]).reshape(1, 3, 1, 1)
    assert frame_difference(x).flatten().tolist() == [0.0, 2.0, -3.0]


@pytest.mark.parametrize("branches", [(True, True), (True, False), (False, True)])
def test_new_ted_adapter_is_bitwise_the_identity(branches):
    adapter = TEDAdapter(WIDTH, BOTTLENECK, enhancement=branches[0], difference=branches[1])
    x = torch.randn(1, 3, 10, WIDTH)
    assert torch.equal(adapter(x, GRID), x)


def test_new_text_adapter_is_not_the_identity():
    x = torch.randn(1, 4, WIDTH)
    assert not torch.allclose(TextAdapter(WIDTH, BOTTLENECK)(x), x)


def test_cls_alone_gets_the_same_result_as_among_patches():
    adapter = load_published(TEDAdapter(WIDTH, BOTTLENECK), "Adapter2", {"difference.": "offset_adapter.", "enhancement.": ""})
    x = frames_apart(MICRO["Adapter2.in"])
    with torch.no_grad():
        torch.testing.assert_close(adapter(x[:, :, :1], GRID), adapter(x, GRID)[:, :, :1])
