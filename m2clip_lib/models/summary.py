"""Tables of a model's parameters and of the shapes a clip takes on its way through it."""

import pandas as pd
import torch
from torch import Tensor

from m2clip_lib.models.blocks import listen
from m2clip_lib.models.m2clip import M2CLIP

PARTS = {  # prefix of the parameter name -> title; the first match counts
    "clip.visual.": "CLIP, visual tower",
    "clip.": "CLIP, text tower",
    "mlm_block.": "masked-word block (copy of CLIP's last text block)",
    "visual_adapters.": "visual adapters",
    "time_embedding": "embedding of time",
    "video_norm.": "norm of the video features",
    "text_adapters.": "text adapters",
    "frame_adapter.": "frame adapter",
    "classifier.": "classifier",
    "mlm_project.": "projection of frames for the masked-word head",
    "mlm_head.": "masked-word head",
}
VISUAL = {"ted": "TED-Adapters", "st_adapter": "ST-Adapters", "aim": "AIM's adapters", "lora": "LoRA"}


def count_table(model: M2CLIP) -> pd.DataFrame:
    """Columns part, state (frozen, trainable), parameters (scalars). "dead" parameters are trainable by name but have no effect."""
    dead = model.dead_parameters()
    rows = []
    for name, parameter in model.named_parameters():
        part = next(title for prefix, title in PARTS.items() if name.startswith(prefix))
        part = VISUAL.get(model.config.visual_adapter, part) if name.startswith("visual_adapters.") else part
        part += " (dead: after the last block's attention only CLS is read)" if name in dead else ""
        rows.append((part, "trainable" if parameter.requires_grad else "frozen", parameter.numel()))
    return pd.DataFrame(rows, columns=["part", "state", "parameters"]).groupby(["part", "state"], sort=False, as_index=False).sum()


def trace_shapes(model: M2CLIP, video: Tensor, tokens: Tensor) -> pd.DataFrame:
    """Run one batch through the model and record the shape at every station.

    Args:
        video: (b, 3, t, h, w), normalised. tokens: (b, l), one text per clip.
    Returns: columns step, axes, shape, values (numbers in the tensor), meaning.
    """
    visual, names = model.visual, {module: name for name, module in model.named_modules()}
    first = next((i for i, adapters in enumerate(model.visual_adapters) if "pre_mlp" in adapters), None)
    after = ("b t 1 c", "after it: only the class token is used from here on") if visual.reads_first else ("b t n c", "after it")
    place = f"visual_adapters.{first}.pre_mlp"
    stations = {  # name -> axes, meaning
        "video": ("b 3 t h w", "normalised pixels"),
        names[visual.stem]: ("b·t c rows columns" if hasattr(visual.stem, "weight") else "b·t n c", "every frame split into patches"),
        names[visual.norm_pre]: ("b·t n c", "patches and the class token, with positions" if visual.prefix else "patches with positions"),
        f"{place}.enhancement.fc1": ("b t n d", "TED enhancement: bottleneck, mixed with the previous and next frames"),
        f"{place}.difference.fc1": ("b t n-1 d", "TED difference: change since the previous frame, patches only"),
        place: ("b t n c", "TED output: x + enhancement + difference"),
        names[visual.blocks[-1].ln_1]: ("b t n c", "before attention of the last block: frames still separate"),
        names[visual.blocks[-1].ln_2]: after,
        "frame_features": ("b t e", "one embedding per frame, after the frame adapter"),
        "image_features": ("b e", "their mean: one embedding per clip"),
        "fc_logits": ("b k", "classifier scores"),
        "tokens": ("b l", "one text per clip"),
        "text_hidden": ("b l w", "text tower before its last norm, cut at the longest text"),
        "text_features": ("b e", "one embedding per text"),
        "logits_per_image": ("b b", "every clip against every text"),
        "mlm_head.norm": ("b l w", "words after attending to the frames"),
        "mlm_logits": ("b l v", "scores of every word at every position"),
    }
    modules = {name: module for name, module in model.named_modules() if name in stations}
    heard: dict[str, Tensor] = {}
    hooks = [(module, lambda _, out, name=name: heard.setdefault(name, out)) for name, module in modules.items()]
    with listen(hooks), torch.inference_mode():
        out = model(video, tokens)
    order = dict.fromkeys(["video", *(name for name in heard if name != "mlm_head.norm"), *stations])  # modules as they were run
    heard |= {"video": video, "tokens": tokens} | vars(out)
    rows = [(name, stations[name][0], tuple(heard[name].shape), heard[name].numel(), stations[name][1]) for name in order if name in heard]
    return pd.DataFrame(rows, columns=["step", "axes", "shape", "values", "meaning"])
