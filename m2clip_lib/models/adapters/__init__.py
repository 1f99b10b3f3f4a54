"""What is trained beside the frozen blocks of CLIP: adapters of the visual tower by name, and those of the text tower.

A kind of visual adapter says where its modules stand in a block, and every place says what a module there is given and returns:

    weights      (block) -> block               before anything is run: the block with changed weights (LoRA)
    time         (x, block) -> x                before attention, with the block's own attention (AIM)
    pre_attn     (x, grid) -> x                 before attention (TED, ST-Adapter)
    post_attn    (y) -> y                       attention's output, before it is added to x (AIM)
    pre_mlp      (x, grid) -> x                 before the MLP (TED, ST-Adapter)
    beside_mlp   (z) -> addition                what ln_2 gives; added together with the MLP's output (AIM)

x: (b, t, n, c), CLS first, or CLS alone. y, z: likewise. grid: rows and columns of the patches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from m2clip_lib.models.adapters.aim import Bottleneck, TimeAttention
from m2clip_lib.models.adapters.lora import LoRA
from m2clip_lib.models.adapters.st_adapter import STAdapter
from m2clip_lib.models.adapters.ted import FrameAdapter, TEDAdapter, TemporalDifference, TemporalEnhancement
from m2clip_lib.models.adapters.text import MaskedWordHead, TextAdapter
from m2clip_lib.sections import ModelSection


def visual_adapters(config: ModelSection, width: int) -> dict[str, Callable[[], nn.Module]]:
    """What makes the module at each place of a block. width: of the visual tower."""
    bottleneck = config.vision_adapter_width
    places = [place for place in ("pre_attn", "pre_mlp") if getattr(config, f"vision_adapter_{place}")]
    match config.visual_adapter:
        case "ted":
            branches = {"enhancement": config.enhancement, "difference": config.difference}
            time = {"kernel": config.temporal_kernel, "static": config.static}
            return dict.fromkeys(places, partial(TEDAdapter, width, bottleneck, **branches, **time))
        case "st_adapter":
            return dict.fromkeys(places, partial(STAdapter, width, bottleneck))
        case "aim":
            return {
                "time": partial(TimeAttention, width, bottleneck, config.aim_inner),
                "post_attn": partial(Bottleneck, width, bottleneck, skip=True),
                "beside_mlp": partial(Bottleneck, width, bottleneck, config.aim_scale),
            }
        case "lora":
            return {"weights": partial(LoRA, width, bottleneck)}
    return {}


def at_places(adapters: nn.ModuleDict, block: Any, grid: tuple[int, int]) -> tuple[Any, dict[str, Callable[[Tensor], Tensor]]]:
    """The block to run, and what clip_block calls at its places."""
    calls: dict[str, Callable[[Tensor], Tensor]] = {}
    for place, adapter in adapters.items():
        if place == "weights":
            block = adapter(block)
        elif place == "time":
            calls["pre_attn"] = partial(adapter, block=block)
        elif place in ("pre_attn", "pre_mlp"):
            calls[place] = lambda x, adapter=adapter: adapter(x, grid)
        else:
            calls[place] = adapter
    return block, calls
