"""What each branch of the TED-Adapters adds, patch by patch and frame by frame: motion made visible."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.viz.record import check_block

BRANCHES = ("enhancement", "difference")


def blocks_with_branch(model: M2CLIP, branch: str) -> list[int]:
    """Blocks (counted from 0) in which this branch adds something to patches that anything later reads."""
    return [i for i in range(len(model.visual_adapters)) if _modules(model, i, branch)]


@torch.inference_mode()
def branch_norms(model: M2CLIP, video: Float[Tensor, "b 3 t h w"], block: int, branch: str) -> Float[Tensor, "b t r c"]:
    """Length of the vector that a branch adds to every patch; a block with two adapters gives the sum of both lengths.

    Args:
        block: counted from 0. branch: "enhancement" or "difference".
    Raises: UserError for a block without this branch, and for the last block's pre-MLP adapter, which only passes CLS on.
    """
    check_block(model, block)
    modules = _modules(model, block, branch)
    if not modules:
        there = [i + 1 for i in blocks_with_branch(model, branch)]
        raise UserError(f"{branch}: block {block + 1} adds nothing to patches that is read later; blocks that do: {there or 'none'}")
    rows, columns = model.clip.visual.grid_size
    added: list[Tensor] = []

    def record(_module: nn.Module, _inputs: tuple, out: Tensor) -> None:
        added.append(out[:, :, -rows * columns :].norm(dim=-1).float().cpu())  # the enhancement has CLS in front

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        model.encode_video(video)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(added).sum(0).unflatten(-1, (rows, columns))


def _modules(model: M2CLIP, block: int, branch: str) -> list[nn.Module]:
    last = block == len(model.visual_adapters) - 1
    adapters = model.visual_adapters[block]
    found = [getattr(adapters[place], branch) for place in adapters if not (last and place == "pre_mlp")]
    return [module for module in found if module is not None]
