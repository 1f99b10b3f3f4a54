"""One door to all maps over a clip: choose a method, get a number a patch and frame, and words that say what it is."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from m2clip_lib.models import M2CLIP
from m2clip_lib.viz.branches import branch_norms
from m2clip_lib.viz.record import cls_attention
from m2clip_lib.viz.relevance import relevance
from m2clip_lib.viz.rollout import attention_rollout

METHODS = {  # name -> unit of the colour bar
    "attention": "% of a frame's attention",
    "rollout": "% of a frame's attention through these blocks",
    "relevance": "% of the clip's relevance",
    "enhancement": "length of what the enhancement branch adds",
    "difference": "length of what the difference branch adds",
}


@dataclass(frozen=True)
class PatchMap:
    """values: (t, rows, columns), >= 0. title: the finding. unit: of the values."""

    values: np.ndarray
    title: str
    unit: str


@dataclass(frozen=True)
class MapChoice:
    """What to look at. block and head are counted from 0; head None is the mean; readout and label matter to relevance alone."""

    method: str = "attention"
    block: int = 0
    head: int | None = None
    label: int = 0
    readout: str = "ensemble"


def patch_map(
    model: M2CLIP, video: Float[Tensor, "1 3 t h w"], choice: MapChoice, texts: Float[Tensor, "k e"], names: list[str]
) -> PatchMap:
    """Compute a map of one clip.

    Args:
        video: normalised. texts: features (length 1) of the class texts, and names: their names; only relevance reads them.
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
            found = relevance(model, video, texts, torch.tensor([choice.label], device=video.device), choice.readout)
            whose = f"“{names[choice.label]}” by {choice.readout}"
        case _:
            found, whose = branch_norms(model, video, choice.block, choice.method), block
    values = found[0].float().cpu().numpy()
    finding = f"{whose}: {_finding(values, choice.method)}"
    return PatchMap(100 * values if METHODS[choice.method].startswith("%") else values, finding, METHODS[choice.method])


def _finding(values: np.ndarray, method: str) -> str:
    if not values.any():
        return "nothing"
    even = 100 / values[0].size
    if method in ("attention", "rollout"):
        return f"the strongest patch holds {100 * values.max(axis=(1, 2)).mean():.0f} % of a frame's attention (even: {even:.0f} %)"
    frame = int(values.sum(axis=(1, 2)).argmax())
    share = 100 * values[frame].sum() / values.sum()
    what = "of the relevance" if method == "relevance" else f"of what the {method} branch adds"
    return f"frame {frame + 1} holds {share:.0f} % {what} (even: {100 / len(values):.0f} %)"
