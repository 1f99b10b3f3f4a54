"""What a model is made of, as a table."""

import pandas as pd

from m2clip_lib.models.m2clip import M2CLIP, is_trainable

PARTS = {  # prefix of the parameter name -> what it is called
    "clip.visual.": "CLIP, visual tower",
    "clip.": "CLIP, text tower",
    "mlm_block.": "masked-word block (copy of CLIP's last text block)",
    "visual_adapters.": "TED-Adapters",
    "text_adapters.": "text adapters",
    "frame_adapter.": "frame adapter",
    "classifier.": "classifier",
    "mlm_head.": "masked-word head",
}


def count_table(model: M2CLIP) -> pd.DataFrame:
    """Rows: part, state (frozen, trainable), parameters (scalars). "dead" parameters are trainable by name, but read by nothing."""
    dead = model.dead_parameters()
    counts: dict[tuple[str, str], int] = {}
    for name, parameter in model.named_parameters():
        part = next(title for prefix, title in PARTS.items() if name.startswith(prefix))
        if name in dead:
            part += " (dead: last block's difference branch)"
        key = (part, "trainable" if is_trainable(name) else "frozen")
        counts[key] = counts.get(key, 0) + parameter.numel()
    return pd.DataFrame([{"part": part, "state": state, "parameters": n} for (part, state), n in counts.items()])
