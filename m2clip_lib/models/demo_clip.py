"""The demonstration's small CLIP: its architecture, and its file, which is shipped with the library.

Most of CLIP's 49,408 token embeddings are never read while the small CLIP is trained. Its file therefore stores only the rows that training
changed; the others are random numbers that unpack() draws again, the same on every machine.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from m2clip_lib.files import read_json

DEMO_CLIP = Path(__file__).with_name("demo_clip.safetensors")  # made by: m2clip pretrain --seed 0, with this as --out
MODEL_CONFIG = read_json(Path(__file__).with_name("demo_clip.json"))
TOKENS, ROWS = "token_embedding.weight", "token_embedding.rows"
_STD = 0.02  # CLIP's own for token embeddings


def stills_table(path: Path = DEMO_CLIP) -> pd.DataFrame:
    """What a small CLIP knows of still pictures: zero-shot top1 and chance (percent) per attribute, measured when it was made."""
    with safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata()["pretraining"])["held_out_stills"]
    return pd.DataFrame(found).T.rename_axis("attribute").reset_index()


def untrained_tokens(count: int, width: int) -> Tensor:
    """The token embeddings before training (count, width): uniform numbers from raw bits, which numpy promises not to change."""
    bits = np.random.PCG64(0).random_raw(count * width).reshape(count, width) >> np.uint64(40)
    return torch.from_numpy((bits.astype(np.float32) / 2**24 - np.float32(0.5)) * np.float32(_STD * 12**0.5))


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A small CLIP's state in half precision, without the token embeddings that training left alone."""
    tokens = state[TOKENS]
    rows = (tokens != untrained_tokens(*tokens.shape)).any(dim=1).nonzero().squeeze(1)
    return {name: value.half().contiguous() for name, value in state.items()} | {TOKENS: tokens[rows].half(), ROWS: rows}


def unpack(state: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Undo pack(); a state that was not packed is returned as it is. vocabulary: number of token embeddings."""
    if ROWS not in state:
        return state
    tokens = untrained_tokens(vocabulary, state[TOKENS].shape[1])
    tokens[state[ROWS]] = state[TOKENS].float()
    return {name: value.float() for name, value in state.items() if name != ROWS} | {TOKENS: tokens}
