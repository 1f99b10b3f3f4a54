"""Text, in the order it is used: tokens, captions with masked words, the texts of a training step, class features, cached frozen text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.data.prompts import Prompt, class_prompts, nth_prompts, prompt_number
from m2clip_lib.errors import UserError
from m2clip_lib.models.text_tower import around

MASK_WORD = "mask"  # the published code masks with this ordinary word; CLIP's vocabulary has no mask token
NOT_A_TARGET = -100  # ignored by cross entropy
LARGEST = 32  # prompt sets that PrefixCache keeps; 400 classes on B/16 take 9 MB per set


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str]) -> Int[Tensor, "n l"]:
    """Tokens of each text, zero padded.

    Raises: UserError for a text that does not fit; the tokenizer itself would truncate it silently.
    """
    limit = tokenizer.context_length
    for text in texts:
        length = len(around(tokenizer)[0]) + len(tokenizer.encode(text)) + 1  # start and end
        if length > limit:
            raise UserError(f"text {text!r} needs {length} tokens, this backbone reads {limit}; shorten the class name or the prompt")
    return tokenizer(list(texts))


@dataclass(frozen=True)
class Caption:
    """A prompt split into words, ready for masking."""

    words: tuple[tuple[int, ...], ...]  # token ids per word
    targets: tuple[int, ...]  # vocabulary index per word, NOT_A_TARGET if unknown
    maskable: tuple[int, ...]  # indices into words: the class name's words that are in the vocabulary


def build_captions(prompts: Sequence[Prompt], vocabulary: Sequence[str], tokenizer: Callable[..., Tensor]) -> list[Caption]:
    """Prepare prompts, one per class, for masking. A word outside the vocabulary is never a target."""
    index = {word: i for i, word in enumerate(vocabulary)}
    captions = []
    for prompt in prompts:
        words = prompt.text.lower().split()
        targets = tuple(index.get(word, NOT_A_TARGET) for word in words)
        maskable = tuple(i for i in prompt.name_words if targets[i] != NOT_A_TARGET)
        captions.append(Caption(tuple(tuple(tokenizer.encode(word)) for word in words), targets, maskable))
    return captions


def mask_caption(
    caption: Caption, tokenizer: Callable[..., Tensor], rng: np.random.Generator, share: float = 0.2
) -> tuple[Int[Tensor, "l"], Int[Tensor, "l"]]:
    """Replace a share of the words of the class name, but at least one, by "mask".

    Returns: tokens and targets, both (context_length,). The single token of each mask has the word's vocabulary index as its target,
        every other position NOT_A_TARGET. A caption without maskable words is returned unmasked.
    """
    count = max(1, round(share * len(caption.maskable)))
    chosen = rng.choice(caption.maskable, size=count, replace=False).tolist() if caption.maskable else []
    mask_tokens, limit = tokenizer.encode(MASK_WORD), tokenizer.context_length
    before, after = around(tokenizer)
    ids, targets = list(before), [NOT_A_TARGET] * len(before)
    for i, word in enumerate(caption.words):
        piece = mask_tokens if i in chosen else list(word)
        ids += piece
        targets += [caption.targets[i] if i in chosen else NOT_A_TARGET] + [NOT_A_TARGET] * (len(piece) - 1)
    ids, targets = ids[: limit - 1], targets[: limit - 1]
    room = limit - len(ids)
    ids += [*after[: room - 1], after[-1]] if room > 1 else after[:1]  # some tokenizers end every row with a token of their own
    return torch.tensor(ids), torch.tensor(targets + [NOT_A_TARGET] * room)


def mask_batch(
    captions: Sequence[Caption],
    labels: Sequence[int],
    tokenizer: Callable[..., Tensor],
    seeds: Sequence[Sequence[int]],
    share: float = 0.2,
) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
    """Masked captions and targets of a batch. seeds: one sequence of integers per clip, the only randomness used."""
    draws = zip(labels, map(list, seeds), strict=True)
    pairs = [mask_caption(captions[label], tokenizer, np.random.default_rng(seed), share) for label, seed in draws]
    tokens, targets = zip(*pairs, strict=True)
    return torch.stack(tokens), torch.stack(targets)


class TrainingTexts:
    """Captions and tokens of every class, one set per prompt number. A set's tokens are always the same tensor, for PrefixCache."""

    def __init__(self, model, device: torch.device, seed: int):
        prompts, tokenizer = model.config.prompts(), model.backbone.tokenizer
        self.seed = seed
        self._sets = []
        for number in range(max(map(len, prompts))):
            chosen = nth_prompts(prompts, number)
            tokens = tokenize(tokenizer, [prompt.text for prompt in chosen]).to(device)
            self._sets.append((build_captions(chosen, model.config.vocabulary, tokenizer), tokens))

    def of_step(self, step: int) -> tuple[list[Caption], Tensor]:
        """Captions, and tokens (k, l), of the prompt used at this step."""
        return self._sets[prompt_number(self.seed, step, len(self._sets))]


def unit(features: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
    """Features of length 1, in fp32."""
    return F.normalize(features.float(), dim=-1)


def class_features(model, prompts: Sequence[Sequence[Prompt]], device: torch.device) -> Tensor:
    """Unit-length text features (k, e): of each class's only prompt, or the mean over its prompts' features.

    Encodes one prompt per class at a time, so that hundreds of prompts per class need no more memory than one.
    """
    total, most = None, max(map(len, prompts))
    for number in range(most):
        rows = [i for i, of_class in enumerate(prompts) if number < len(of_class)]
        tokens = tokenize(model.backbone.tokenizer, [prompts[i][number].text for i in rows]).to(device)
        features = unit(model.encode_text(tokens).text_features)
        total = features if total is None else total.index_add(0, torch.tensor(rows, device=device), features)
    return total if most == 1 else unit(total)


@torch.inference_mode()
def text_features(model, names: Sequence[str]) -> Float[Tensor, "k e"]:
    """Unit-length features of the names in the model's prompts."""
    own = list(names) == list(model.config.class_names)
    prompts = model.config.prompts() if own else class_prompts(names, model.config.prompt)
    return class_features(model, prompts, model.clip.logit_scale.device)


class PrefixCache:
    """One frozen prefix per tensor of tokens, recomputed when the tokens, CLIP's weights, their device or dtype, or autocast change."""

    def __init__(self) -> None:
        # id of the tokens -> (key, tokens, value), least recently used first. Holding the tokens keeps their id from being reused.
        self._entries: dict[int, tuple[tuple, Tensor, tuple[Tensor, int, Tensor]]] = {}

    def __getstate__(self) -> dict:
        return PrefixCache().__dict__  # a copy, here or in another process, starts empty

    def get(self, model, tokens: Tensor) -> tuple[Tensor, int, Tensor]:
        """Returns: the prefix (n, length, w), its length, and the position that is read in each row (n,)."""
        device = tokens.device.type
        autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        # In-place changes are counted by _version, except for inference tensors, which are taken as unchanged.
        versions = tuple((w.data_ptr(), w._version, w.dtype, w.device) for w in model.text.weights())
        key = (-1 if tokens.is_inference() else tokens._version, versions, autocast)
        entry = self._entries.pop(id(tokens), None)
        if entry is None or entry[0] != key:
            length = model.text.length(tokens)
            # Never an inference tensor: a prefix first computed in evaluation must also serve training.
            with torch.inference_mode(False), torch.no_grad():
                fixed = tokens.clone()
                entry = (key, tokens, (model.text_prefix(fixed, length), length, model.text.end(fixed)))
        self._entries[id(tokens)] = entry
        if len(self._entries) > LARGEST:
            self._entries.pop(next(iter(self._entries)))
        return entry[2]
