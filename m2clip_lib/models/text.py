"""Words to tokens: tokens, and masking for the masked-word head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.data.prompts import Prompt, class_prompts, nth_prompts, prompt_number
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


class TrainingTexts:
    """Captions and tokens of every class, one set a prompt number. The same tensor comes again: its frozen part is computed once."""

    def __init__(self, model, device: torch.device, seed: int):
        prompts, tokenizer = model.config.prompts(), model.backbone.tokenizer
        self.seed = seed
        self._sets = []
        for number in range(max(len(of_class) for of_class in prompts)):
            chosen = nth_prompts(prompts, number)
            tokens = tokenize(tokenizer, [prompt.text for prompt in chosen]).to(device)
            self._sets.append((build_captions(chosen, model.config.vocabulary, tokenizer), tokens))

    def of_step(self, step: int) -> tuple[list[Caption], Tensor]:
        """Captions, and tokens (k, l), of the prompt that this step reads."""
        return self._sets[prompt_number(self.seed, step, len(self._sets))]


def class_features(model, prompts: Sequence[Sequence[Prompt]], device: torch.device) -> Tensor:
    """Text features (k, e) of length 1: of a class's one prompt, or the mean of the features of its prompts.

    One prompt of every class at a time, so that hundreds of prompts a class need no more memory than one.
    """
    total = None
    for number in range(max(len(of_class) for of_class in prompts)):
        rows = [i for i, of_class in enumerate(prompts) if number < len(of_class)]
        tokens = tokenize(model.backbone.tokenizer, [prompts[i][number].text for i in rows]).to(device)
        features = F.normalize(model.encode_text(tokens).text_features, dim=-1)
        total = features if total is None else total.index_add(0, torch.tensor(rows, device=device), features)
    return total if max(len(of_class) for of_class in prompts) == 1 else F.normalize(total, dim=-1)


@torch.inference_mode()
def text_features(model, names: Sequence[str]) -> Float[Tensor, "k e"]:
    """Features of the names in the model's prompts, of length 1."""
    own = list(names) == list(model.config.class_names)
    prompts = model.config.prompts() if own else class_prompts(names, model.config.prompt)
    return class_features(model, prompts, model.clip.logit_scale.device)


LARGEST = 32  # prompt sets kept, the last used ones: 400 classes of B/16 take 9 MB a set


class PrefixCache:
    """Holds one result a tensor of tokens; made anew when the tokens, CLIP's weights, their device or dtype, or autocast change."""

    def __init__(self) -> None:
        # id of the tokens -> (key, tokens, value), the last used at the end. Tokens are held, so that their id cannot be given away.
        self._entries: dict[int, tuple[tuple, Tensor, tuple[Tensor, int, Tensor]]] = {}

    def __deepcopy__(self, memo: dict) -> "PrefixCache":
        return PrefixCache()

    def __getstate__(self) -> dict:
        return PrefixCache().__dict__  # a copy in another process starts empty

    def get(self, model, tokens: Tensor) -> tuple[Tensor, int, Tensor]:
        """Returns: the prefix (n, length, w), its length, the place of the end of text in each row (n,)."""
        from m2clip_lib.models.text import text_length

        key = (_version(tokens), _weights_key(model), _autocast_key(tokens.device.type))
        entry = self._entries.pop(id(tokens), None)
        if entry is None or entry[0] != key:
            length = text_length(tokens)
            # Also usable in training when it was first asked for in evaluation: never an inference tensor.
            with torch.inference_mode(False), torch.no_grad():
                fixed = tokens.clone()
                entry = (key, tokens, (model.text_prefix(fixed, length), length, fixed.argmax(dim=1)))
        self._entries[id(tokens)] = entry
        if len(self._entries) > LARGEST:
            self._entries.pop(next(iter(self._entries)))
        return entry[2]


def _version(tensor: Tensor) -> int:
    """Counts in-place changes; inference tensors do not count them, and are taken as unchanged."""
    return -1 if tensor.is_inference() else tensor._version


def _weights_key(model) -> tuple:
    """Changes when a weight of the text tower is written to, replaced, moved or cast."""
    weights = [*model.clip.token_embedding.parameters(), model.clip.positional_embedding, *model.clip.transformer.parameters()]
    return tuple((w.data_ptr(), w._version, w.dtype, w.device) for w in weights)


def _autocast_key(device: str) -> tuple:
    return (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
