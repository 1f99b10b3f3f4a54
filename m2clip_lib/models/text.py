"""Words to tokens: tokens, and masking for the masked-word head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from m2clip_lib.data.prompts import Prompt
from m2clip_lib.errors import UserError

MASK_WORD = "mask"  # the published code masks with this ordinary word; CLIP's vocabulary has no mask token
MASKED_SHARE = 0.2  # of the class name's words, but at least one
NOT_A_TARGET = -100  # ignored by cross entropy


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str]) -> Int[Tensor, "n l"]:
    """Tokens of each text, zero padded.

    Raises: UserError for a text that does not fit, where the tokenizer itself would cut it silently.
    """
    limit = tokenizer.context_length
    for text in texts:
        length = len(tokenizer.encode(text)) + 2  # start and end
        if length > limit:
            raise UserError(f"text {text!r} needs {length} tokens, this backbone reads {limit}; shorten the class name or the prompt")
    return tokenizer(list(texts))


def text_length(tokens: Int[Tensor, "n l"]) -> int:
    """Tokens up to and with the latest end-of-text (the largest id). Later positions influence nothing: the tower is causal."""
    return int(tokens.argmax(dim=1).max()) + 1 if len(tokens) else 0


@dataclass(frozen=True)
class Caption:
    """A prompt as words, each with its tokens; `maskable` are the places of the class name's known words."""

    words: tuple[tuple[int, ...], ...]  # token ids per word
    targets: tuple[int, ...]  # vocabulary index per word, NOT_A_TARGET if unknown
    maskable: tuple[int, ...]  # indices into words


def build_captions(prompts: Sequence[Prompt], vocabulary: Sequence[str], tokenizer: Callable[..., Tensor]) -> list[Caption]:
    """Prepare prompts, one a class, for masking. A word unknown to the vocabulary is never a target."""
    index = {word: i for i, word in enumerate(vocabulary)}
    captions = []
    for prompt in prompts:
        words = prompt.text.lower().split()
        targets = tuple(index.get(word, NOT_A_TARGET) for word in words)
        maskable = tuple(i for i in prompt.name_words if targets[i] != NOT_A_TARGET)
        captions.append(Caption(tuple(tuple(tokenizer.encode(word)) for word in words), targets, maskable))
    return captions


def mask_caption(caption: Caption, tokenizer: Callable[..., Tensor], rng: np.random.Generator) -> tuple[Int[Tensor, "l"], Int[Tensor, "l"]]:
    """Replace some words of the class name by "mask".

    Returns: tokens and targets, both (context_length,); the target (vocabulary index) sits on the mask's one token,
        NOT_A_TARGET everywhere else. A caption with no maskable word comes back unmasked.
    """
    chosen: set[int] = set()
    if caption.maskable:
        count = max(1, round(MASKED_SHARE * len(caption.maskable)))
        chosen = {int(i) for i in rng.choice(caption.maskable, size=count, replace=False)}
    mask_tokens = tokenizer.encode(MASK_WORD)
    limit = tokenizer.context_length
    ids, targets = [tokenizer.sot_token_id], [NOT_A_TARGET]
    for i, word in enumerate(caption.words):
        piece = mask_tokens if i in chosen else list(word)
        ids += piece
        targets += [caption.targets[i] if i in chosen else NOT_A_TARGET] + [NOT_A_TARGET] * (len(piece) - 1)
    ids = [*ids[: limit - 1], tokenizer.eot_token_id]
    targets = [*targets[: limit - 1], NOT_A_TARGET]
    padding = limit - len(ids)
    return torch.tensor(ids + [0] * padding), torch.tensor(targets + [NOT_A_TARGET] * padding)


def mask_batch(
    captions: Sequence[Caption], labels: Sequence[int], tokenizer: Callable[..., Tensor], seeds: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
    """Masked captions of a batch. seeds: one sequence of integers a clip, so that masking depends on nothing else."""
    pairs = [mask_caption(captions[label], tokenizer, np.random.default_rng(list(seed))) for label, seed in zip(labels, seeds, strict=True)]
    tokens, targets = zip(*pairs, strict=True)
    return torch.stack(tokens), torch.stack(targets)
