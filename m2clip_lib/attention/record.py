"""Attention of visual blocks, and of a caption's words over frames, recorded while the model runs; its output stays bit-identical."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.blocks import listen, project_heads
from m2clip_lib.models.text import MASK_WORD, tokenize
from m2clip_lib.models.text_tower import around


def check_block(model: M2CLIP, block: int) -> None:
    """Raises: ValueError when the backbone has no such visual block."""
    count = len(model.visual.blocks)
    if not 0 <= block < count:
        raise ValueError(f"block = {block}, this backbone has blocks 0 to {count - 1}")


@torch.inference_mode()
def record_attention(
    model: M2CLIP, video: Float[Tensor, "b 3 t h w"], blocks: Sequence[int], keep: Callable[[Tensor], Tensor] = lambda attention: attention
) -> list[Tensor]:
    """Run encode_video and return what `keep` takes of each block's attention probabilities, float32 on the CPU.

    The model's fused attention never forms them, so they are computed again from the output of each block's first LayerNorm.

    Args:
        blocks: counted from 0, ascending.
        keep: reads (b, t, heads, rows, n); row and column 0 are CLS, if there is one. rows is n; it is 1 in the last block of a model
            with shortcuts of which CLS alone is read.
    Raises: ValueError for a block that is not there.
    """
    for block in blocks:
        check_block(model, block)
    kept: list[Tensor] = []

    def hear(block: int, _: Tensor, normed: Tensor) -> None:
        attn, last = model.visual_block(block)[0].attn, block == len(model.visual_adapters) - 1
        queries = normed[..., :1, :] if last and model.shortcuts and model.visual.reads_first else normed
        kept.append(keep(attention_weights(attn, queries, normed).unflatten(0, normed.shape[:2]).float()).cpu())

    with listen((model.visual.blocks[i].ln_1, partial(hear, i)) for i in blocks):
        model.encode_video(video)
    return kept


def attention_weights(
    attn: Any, queries: Float[Tensor, "*batch q c"], keys: Float[Tensor, "*batch n c"]
) -> Float[Tensor, "batch heads q n"]:
    """softmax(q k / sqrt(d)) of every head; all leading axes are flattened into one."""
    q, k = project_heads(queries, attn, 0), project_heads(keys, attn, 1)
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


@torch.inference_mode()
def cls_attention(model: M2CLIP, video: Float[Tensor, "b 3 t h w"], block: int, head: int | None = None) -> Float[Tensor, "b t r c"]:
    """Attention to every patch in one block, as shares of each frame's sum over patches: of CLS, or of all tokens on the mean
    where the tower pools all of them.

    head: counted from 0; None: the mean over heads.
    """
    (attention,) = record_attention(model, video, [block], lambda found: read_patches(model, found))  # (b, t, heads, patches)
    if head is not None and not 0 <= head < attention.shape[2]:
        raise ValueError(f"head = {head}, this block has heads 0 to {attention.shape[2] - 1}")
    return to_shares(attention.mean(dim=2) if head is None else attention[:, :, head], model.visual.grid)


def read_patches(model: M2CLIP, attention: Float[Tensor, "*batch rows n"]) -> Float[Tensor, "*batch patches"]:
    """What the pooled token takes from every patch: the row of CLS where that is pooled, else the mean over rows."""
    row = attention[..., 0, :] if model.visual.reads_first else attention.mean(dim=-2)
    return row[..., model.visual.prefix :]


def to_shares(patches: Float[Tensor, "b t n"], grid: tuple[int, int], over: int | tuple[int, ...] = -1) -> Float[Tensor, "b t r c"]:
    """Values >= 0 -> shares of their sum over a frame's patches (over=(1, 2): over the clip), on the patch grid; zeros stay zeros."""
    total = patches.sum(dim=over, keepdim=True)
    return (patches / torch.where(total > 0, total, 1.0)).unflatten(-1, tuple(grid))


@torch.inference_mode()
def word_attention(model: M2CLIP, frame_features: Float[Tensor, "1 t e"], caption: str) -> tuple[list[str], Float[Tensor, "l t"]]:
    """Attention of each word of a caption over the frames, mean over heads; rows sum to 1.

    Args:
        frame_features: of one clip, from encode_video. caption: a prompt; the word "mask" stands for a hidden word.
    Returns: the words (without start and end of text), and one row per word: the mean over its tokens.
    """
    block, heard = model.mlm_block, []
    with listen([(block.ln_1, lambda _, out: heard.append(out))]):  # first the words, then the frames
        _mlm_logits(model, frame_features, caption)
    weights = attention_weights(block.attn, *heard).mean(dim=1)[0].cpu()  # (l, t)
    words = caption.lower().split()
    return words, torch.stack([weights[place].mean(dim=0) for place in _word_places(model, words)])


@torch.inference_mode()
def guess_words(model: M2CLIP, frame_features: Float[Tensor, "1 t e"], caption: str, top: int = 3) -> list[list[tuple[str, float]]]:
    """The most likely words of the vocabulary for each "mask" in the caption, with scores in [0, 1], best first."""
    words = caption.lower().split()
    scores = _mlm_logits(model, frame_features, caption)[0].softmax(-1).cpu()
    masked = [place.start for word, place in zip(words, _word_places(model, words), strict=True) if word == MASK_WORD]
    best = [scores[position].topk(min(top, scores.shape[-1])) for position in masked]
    return [[(model.config.vocabulary[i], float(score)) for score, i in zip(*found, strict=True)] for found in best]


def _mlm_logits(model: M2CLIP, frame_features: Tensor, caption: str) -> Tensor:
    if not caption.strip():
        raise UserError("caption: it is empty; give one like 'A video of moving left'")
    tokens = tokenize(model.backbone.tokenizer, [caption]).to(frame_features.device)
    return model.mlm_logits(model.encode_text(tokens).text_hidden, frame_features)


def _word_places(model: M2CLIP, words: list[str]) -> list[slice]:
    """The positions of each word's tokens, after the start of the text."""
    tokenizer = model.backbone.tokenizer
    counts = (len(tokenizer.encode(word)) for word in words)
    return [slice(start, stop) for start, stop in pairwise(accumulate(counts, initial=len(around(tokenizer)[0])))]
