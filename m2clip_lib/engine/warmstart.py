"""Start from the weights of a checkpoint that may know other classes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from m2clip_lib.models import M2CLIP

HEADS = {"classifier.": "class_names", "mlm_head.decoder.": "vocabulary"}  # tensors whose rows mean what this field of the model lists


def warm_start(model: M2CLIP, path: Path, report: Callable[[str], None]) -> None:
    """Copy what fits from any checkpoint (ours, the official .pth, the replicate's .pt); name what stays new.

    A head fits only where the same classes, or words, stand in the same order. Files of others do not name theirs: with the right number
    of rows they are taken to be the same, and the report says so.
    Raises: UserError when the file is no checkpoint, or was trained on another backbone.
    """
    other = M2CLIP.from_checkpoint(path, model.backbone)
    given, own = other.trainable_state(), model.trainable_state()
    foreign = Path(path).suffix != ".safetensors"
    fits = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    for prefix, listed in HEADS.items():
        if not foreign and getattr(other.config, listed) != getattr(model.config, listed):
            fits = {name: value for name, value in fits.items() if not name.startswith(prefix)}
    model.load_state_dict(fits, strict=False)
    if other.config.own_mlm_block:
        model.mlm_block.load_state_dict(other.mlm_block.state_dict())
        model.config = dataclasses.replace(model.config, own_mlm_block=True)
    made, unused = [name for name in own if name not in fits], [name for name in given if name not in own]
    report(f"warm start: {len(fits)} of {len(own)} tensors from {path}")
    if made:
        report(f"warm start: made anew, for they do not fit: {', '.join(made)}")
    if unused:
        report(f"warm start: without a place here: {', '.join(unused)}")
    if foreign and any(name.startswith(tuple(HEADS)) for name in fits):
        report("warm start: the file does not name its classes and words; they are taken to be this experiment's, in the same order")
