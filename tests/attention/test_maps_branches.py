"""What the TED branches add: the length of the vectors that the adapter adds."""

import pytest
import torch

from m2clip_lib.attention.maps import blocks_with_branch, branch_norms
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, M2CLIPConfig

VIDEO = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))


def make(backbone, spread: float = 0.05, **changes) -> M2CLIP:
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 3, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    model = M2CLIP(backbone, M2CLIPConfig(("left", "right"), ("left",), **sizes | changes)).eval()
    for parameter in model.visual_adapters.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return model


@pytest.mark.parametrize("branch", ["enhancement", "difference"])
@pytest.mark.parametrize("both_places", [False, True])
def test_norms_are_those_of_what_the_adapter_adds(backbone, branch, both_places):
    model = make(backbone, vision_adapter_pre_attn=both_places)
    adapters, heard = model.visual_adapters[1], []
    hooks = [a.register_forward_hook(lambda module, inputs, _out: heard.append((module, *inputs))) for a in adapters.values()]
    with torch.no_grad():
        model.encode_video(VIDEO)
        for hook in hooks:
            hook.remove()
        expected = torch.zeros(1, 4, 16)
        for adapter, x, grid in heard:
            added = adapter.enhancement(x)[:, :, 1:] if branch == "enhancement" else adapter.difference(x[:, :, 1:], grid)
            expected += added.pow(2).sum(-1).sqrt()
    assert len(heard) == 1 + both_places
    found = branch_norms(model, VIDEO, 1, branch)
    torch.testing.assert_close(found, expected.unflatten(2, (4, 4)))
    assert found.min() > 0


def test_an_adapter_that_is_not_trained_adds_nothing(backbone):
    assert not branch_norms(make(backbone, spread=0.0), VIDEO, 1, "difference").any()


def test_in_a_still_video_the_difference_branch_adds_the_same_at_every_frame(backbone):
    still = VIDEO[:, :, :1].expand(-1, -1, 4, -1, -1)
    model = make(backbone, enhancement=False)
    found = branch_norms(model, still, 1, "difference")
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    moving = branch_norms(model, VIDEO, 1, "difference")
    assert (moving[:, 1:] - moving[:, :1]).abs().max() > 1e-3


def test_blocks_whose_branch_reaches_the_result(backbone):
    assert blocks_with_branch(make(backbone), "difference") == [1, 2]  # adapters in the last three; the last passes on CLS alone
    assert blocks_with_branch(make(backbone, vision_adapter_pre_attn=True), "difference") == [1, 2, 3]
    assert blocks_with_branch(make(backbone, difference=False), "difference") == []
    assert blocks_with_branch(make(backbone, difference=False), "enhancement") == [1, 2]


def test_a_block_without_the_branch_is_refused_with_those_that_have_it(backbone):
    model = make(backbone)
    with pytest.raises(UserError, match=r"difference: block 4 adds nothing to patches that is read later; blocks that do: \[2, 3\]"):
        branch_norms(model, VIDEO, 3, "difference")
    with pytest.raises(ValueError, match="block = 4"):
        branch_norms(model, VIDEO, 4, "difference")


def test_computing_norms_leaves_no_hook(backbone):
    model = make(backbone)
    branch_norms(model, VIDEO, 1, "enhancement")
    with pytest.raises(ValueError, match="px"):
        branch_norms(model, VIDEO[..., :32], 1, "enhancement")
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0
