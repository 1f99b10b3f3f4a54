"""One face for the text towers of open_clip's CLIP and CustomTextCLIP, and for their tokenizers."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.errors import UserError


class TextTower:
    """A text tower made of CLIP's blocks, causal or not. It is read, never changed.

    Attributes:
        module: holds the embeddings and the last norm. blocks: with the parts that clip_block runs. width: of the tokens.
        causal: a token sees those before it alone, so that what follows the end of the text has no effect.
    """

    def __init__(self, clip: Any):
        own = self.module = clip if hasattr(clip, "token_embedding") else clip.text
        self.blocks = list(own.transformer.resblocks)
        self.width, self.context_length = own.ln_final.weight.shape[0], own.positional_embedding.shape[0]
        self.causal = own.attn_mask is not None
        self.pool_type = own.text_pool_type if own is clip else own.pool_type
        self.eos_id = getattr(own, "text_eos_id" if own is clip else "eos_id", None)  # since open_clip 3.1

    def length(self, tokens: Int[Tensor, "n l"]) -> int:
        """Positions that can have an effect: those up to the latest end of text, if the tower is causal; else all."""
        read = self.end(tokens)
        return int(read.max()) + 1 if self.causal and len(tokens) else tokens.shape[1]

    def end(self, tokens: Int[Tensor, "n l"]) -> Int[Tensor, "n"]:
        """The position that is read of every text: of the largest id, of the tokenizer's end of text, the first, or the last."""
        if self.pool_type == "argmax":
            return tokens.argmax(dim=1)
        if self.pool_type == "eos":
            return (tokens == self.eos_id).int().argmax(dim=1)
        return torch.full(tokens.shape[:1], 0 if self.pool_type == "first" else tokens.shape[1] - 1, device=tokens.device)

    def mask(self, length: int) -> Tensor | None:
        """The additive attention mask of texts of this length."""
        return self.module.attn_mask[:length, :length] if self.causal else None

    def embed(self, tokens: Int[Tensor, "n l"]) -> Float[Tensor, "n l w"]:
        """Token embeddings with positions."""
        return self.module.token_embedding(tokens) + self.module.positional_embedding[: tokens.shape[1]]

    def pool(self, x: Float[Tensor, "n l w"], end: Int[Tensor, "n"]) -> Float[Tensor, "n e"]:
        """The feature of each text, not normalised. end: which position is read."""
        read = self.module.ln_final(x[torch.arange(x.shape[0], device=x.device), end])
        projection = self.module.text_projection
        if projection is None:
            return read
        return F.linear(read, projection.weight, projection.bias) if isinstance(projection, nn.Linear) else read @ projection

    def weights(self) -> list[Tensor]:
        """Everything that decides what the blocks give."""
        own = self.module
        return [*own.token_embedding.parameters(), own.positional_embedding, *own.transformer.parameters()]


def unfit_text(clip: nn.Module) -> str:
    """Why the adapters do not fit a CLIP's text tower; "" if they do."""
    own = clip if hasattr(clip, "token_embedding") else clip.text
    if not hasattr(own, "token_embedding"):
        return f"a {type(own).__name__} text tower"
    if getattr(own, "cls_emb", None) is not None or getattr(own, "use_pad_mask", False):
        return "a text tower that reads a token of its own at the end (CoCa)"
    return ""


class HubTokenizer:
    """A tokenizer of the Hugging Face hub, as open_clip wraps it, with the methods of CLIP's own."""

    def __init__(self, name: str, context_length: int, **settings: Any):
        """Raises: UserError when transformers is not installed, or the tokenizer can neither be found here nor downloaded."""
        try:
            from open_clip.tokenizer import HFTokenizer

            self.inner = HFTokenizer(name, context_length=context_length, **settings)
        except ImportError as error:
            what = error.name or "sentencepiece"
            raise UserError(f"tokenizer {name}: needs {what}; install it: pip install transformers sentencepiece") from error
        except ValueError as error:
            raise UserError(f"tokenizer {name}: {str(error).splitlines()[0]}; pip install sentencepiece may help") from error
        except OSError as error:
            reason = f"neither in the local cache nor downloaded ({type(error).__name__})"
            raise UserError(f"tokenizer {name}: {reason}; connect once") from error
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without those for start and end."""
        return self.inner.tokenizer.encode(self.inner.clean_fn(text), add_special_tokens=False)

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Ids of texts, with start, end and padding."""
        return self.inner(list(texts), self.context_length)

    @property
    def encoder(self) -> dict[str, int]:
        """Its vocabulary; whole words end as in CLIP's."""
        return {f"{word.removeprefix('▁')}</w>": i for word, i in self.inner.tokenizer.get_vocab().items() if not word.startswith("##")}


def make_tokenizer(text_config: dict, context_length: int) -> Callable[..., Tensor]:
    """The tokenizer that open_clip's text_cfg names: CLIP's byte-pair encoding, or one of the hub. Raises: UserError."""
    from open_clip.tokenizer import SimpleTokenizer

    if name := text_config.get("hf_tokenizer_name"):
        return HubTokenizer(name, context_length, **(text_config.get("tokenizer_kwargs") or {}))
    return SimpleTokenizer(context_length=context_length)


@lru_cache(maxsize=8)
def around(tokenizer: Callable[..., Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer sets before a text's own, and those that follow an empty text: its end, and padding."""
    empty, letter = tokenizer(["", "a"]).tolist()
    start = next(i for i, (one, other) in enumerate(zip(empty, letter, strict=True)) if one != other)
    return tuple(empty[:start]), tuple(empty[start:])
