"""Which frames the masked-word head reads for every word of a caption, and what it guesses for a hidden word."""

import torch
from jaxtyping import Float
from torch import Tensor

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.text import MASK_WORD, tokenize
from m2clip_lib.viz.record import attention_weights


@torch.inference_mode()
def word_attention(model: M2CLIP, frame_features: Float[Tensor, "1 t e"], caption: str) -> tuple[list[str], Float[Tensor, "l t"]]:
    """Attention of every word of a caption over the frames, mean over heads; rows sum to 1.

    Args:
        frame_features: encode_video's, of one clip. caption: a prompt; the word "mask" stands for a hidden one.
    Returns: the words (start and end of text left out), and a row for each: the mean over its tokens.
    """
    block, heard = model.mlm_block, []
    hook = block.ln_1.register_forward_hook(lambda _module, _inputs, out: heard.append(out))  # first the words, then the frames
    try:
        _mlm_logits(model, frame_features, caption)
    finally:
        hook.remove()
    weights = attention_weights(block.attn, *heard).mean(dim=1)[0].cpu()  # (l, t)
    words = caption.lower().split()
    places = _word_places(model, words)
    return words, torch.stack([weights[place].mean(dim=0) for place in places])


@torch.inference_mode()
def guess_words(model: M2CLIP, frame_features: Float[Tensor, "1 t e"], caption: str, top: int = 3) -> list[list[tuple[str, float]]]:
    """For every "mask" in the caption the likeliest words of the vocabulary, with scores in [0, 1], best first."""
    words = caption.lower().split()
    scores = _mlm_logits(model, frame_features, caption)[0].softmax(-1).cpu()
    found = []
    for word, place in zip(words, _word_places(model, words), strict=True):
        if word == MASK_WORD:
            values, ids = scores[place[0]].topk(min(top, scores.shape[-1]))
            found.append([(model.config.vocabulary[i], float(v)) for v, i in zip(values, ids, strict=True)])
    return found


def _mlm_logits(model: M2CLIP, frame_features: Tensor, caption: str) -> Tensor:
    if not caption.strip():
        raise UserError("caption: it is empty; give one like 'A video of moving left'")
    tokens = tokenize(model.backbone.tokenizer, [caption]).to(frame_features.device)
    return model.mlm_logits(model.encode_text(tokens).text_hidden, frame_features)


def _word_places(model: M2CLIP, words: list[str]) -> list[list[int]]:
    """Positions of each word's tokens; position 0 is the start of the text."""
    places, position = [], 1
    for word in words:
        count = len(model.backbone.tokenizer.encode(word))
        places.append(list(range(position, position + count)))
        position += count
    return places
