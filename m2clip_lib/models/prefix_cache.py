"""Keep what the frozen text blocks compute for prompts that come again: exact, and most of the text tower's cost."""

import torch
from torch import Tensor

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
