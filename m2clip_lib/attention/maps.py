"""Maps over a clip: one number per patch and frame. patch_map computes any of them by its method's name, with a title and a unit.

The maps of adapter branches and of attention rollout are defined here; those of attention and relevance in record and relevance.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from m2clip_lib.attention.record import check_block, cls_attention, read_patches, record_attention, to_shares
from m2clip_lib.attention.relevance import propagate, relevance
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.blocks import listen

METHODS = {  # name -> unit of the colour bar
    "attention": "% of a frame's attention",
    "rollout": "% of a frame's attention through these blocks",
    "relevance": "% of the clip's relevance",
    "enhancement": "length of what the enhancement branch adds",
    "difference": "length of what the difference branch adds",
}
BRANCHES = ("enhancement", "difference")


@dataclass(frozen=True)
class PatchMap:
    """values: (t, rows, columns), >= 0. title: the finding. unit: of the values."""

    values: np.ndarray
    title: str
    unit: str


@dataclass(frozen=True)
class MapChoice:
    """Which map to compute. block and head are counted from 0; head None is the mean; only relevance reads label and readout.

    readout: "" is the best there is: the ensemble for the model's own classes, similarity for other names.
    """

    method: str = "attention"
    block: int = 0
    head: int | None = None
    label: int = 0
    readout: str = ""


def patch_map(
    model: M2CLIP, video: Float[Tensor, "1 3 t h w"], choice: MapChoice, texts: Float[Tensor, "k e"], names: list[str]
) -> PatchMap:
    """Compute a map of one clip.

    Args:
        video: normalised. texts, names: of the classes; texts are features of length 1. Only relevance reads them.
    Raises: UserError, ValueError: as the method's own function.
    """
    block = f"Block {choice.block + 1}"
    match choice.method:
        case "attention":
            found = cls_attention(model, video, choice.block, choice.head)
            whose = block if choice.head is None else f"{block}, head {choice.head + 1}"
        case "rollout":
            found, whose = attention_rollout(model, video, choice.block), f"Blocks 1 to {choice.block + 1}"
        case "relevance":
            readout = choice.readout or ("ensemble" if list(names) == list(model.config.class_names) else "similarity")
            found = relevance(model, video, texts, torch.tensor([choice.label], device=video.device), readout)
            whose = f"“{names[choice.label]}” by {readout}"
        case _:
            found, whose = branch_norms(model, video, choice.block, choice.method), block
    values, unit = found[0].float().cpu().numpy(), METHODS[choice.method]
    return PatchMap(100 * values if unit.startswith("%") else values, f"{whose}: {_finding(values, choice.method)}", unit)


def _finding(values: np.ndarray, method: str) -> str:
    if not values.any():
        return "nothing"
    if method in ("attention", "rollout"):
        share, even = 100 * values.max(axis=(1, 2)).mean(), 100 / values[0].size
        return f"the strongest patch holds {share:.0f} % of a frame's attention (even: {even:.0f} %)"
    frame = int(values.sum(axis=(1, 2)).argmax())
    share = 100 * values[frame].sum() / values.sum()
    what = "of the relevance" if method == "relevance" else f"of what the {method} branch adds"
    return f"frame {frame + 1} holds {share:.0f} % {what} (even: {100 / len(values):.0f} %)"


def blocks_with_branch(model: M2CLIP, branch: str) -> list[int]:
    """Blocks (counted from 0) in which this branch adds something to patches that a later layer reads."""
    return [i for i in range(len(model.visual_adapters)) if _modules(model, i, branch)]


def _modules(model: M2CLIP, block: int, branch: str) -> list[nn.Module]:
    """A branch's modules in a block, without the last block's pre-MLP adapter where CLS alone is read after it."""
    last, adapters = block == len(model.visual_adapters) - 1, model.visual_adapters[block]
    found = [getattr(adapters[place], branch, None) for place in adapters if not (last and place == "pre_mlp" and model.visual.reads_first)]
    return [module for module in found if module is not None]


@torch.inference_mode()
def branch_norms(model: M2CLIP, video: Float[Tensor, "b 3 t h w"], block: int, branch: str) -> Float[Tensor, "b t r c"]:
    """Length of the vector that a branch adds to every patch; summed over the adapters of a block that has two.

    Args:
        block: counted from 0. branch: "enhancement" or "difference".
    Raises: UserError for a block in which this branch adds nothing that is read (see blocks_with_branch).
    """
    check_block(model, block)
    modules = _modules(model, block, branch)
    if not modules:
        others = [i + 1 for i in blocks_with_branch(model, branch)]
        raise UserError(f"{branch}: block {block + 1} adds nothing to patches that is read later; blocks that do: {others or 'none'}")
    grid, added = model.visual.grid, []

    def hear(_: Tensor, out: Tensor) -> None:
        added.append(out[:, :, -grid[0] * grid[1] :].norm(dim=-1).float().cpu())  # the enhancement's first token is CLS

    with listen((module, hear) for module in modules):
        model.encode_video(video)
    return torch.stack(added).sum(0).unflatten(-1, tuple(grid))


@torch.inference_mode()
def attention_rollout(model: M2CLIP, video: Float[Tensor, "b 3 t h w"], block: int) -> Float[Tensor, "b t r c"]:
    """CLS's row of the product of A + I from the first block to `block` (counted from 0), as shares of each frame's sum over patches.

    A is the mean over heads. The rollout's factors of 1/2 cancel in the shares.
    """
    check_block(model, block)
    attention = record_attention(model, video, range(block + 1), lambda found: found.mean(dim=2))
    return to_shares(read_patches(model, propagate(attention, model.visual.reads_first)), model.visual.grid)
