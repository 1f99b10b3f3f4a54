"""M2-CLIP: a frozen CLIP with TED-Adapters or a peer's, text adapters, and the heads of its multi-task decoder.

Axis letters: b clips, t frames, n tokens (CLS first), c visual width, l text tokens, w text width, e embedding, k classes, v words.
Source: M2-CLIP (AAAI 2024); every output is checked against golden values in tests/.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from m2clip_lib.errors import UserError
from m2clip_lib.models.adapters import FrameAdapter, MaskedWordHead, TextAdapter, at_places, visual_adapters
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.blocks import clip_block
from m2clip_lib.models.checkpoint import load_checkpoint, save_checkpoint
from m2clip_lib.models.foreign import export_published
from m2clip_lib.models.losses import cosine_scores
from m2clip_lib.models.text import PrefixCache, text_length, unit

FROZEN = ("clip.", "mlm_block.")


def is_trainable(name: str) -> bool:
    """Whether a parameter of M2CLIP is trained and saved: everything outside CLIP and the copy of its last text block."""
    return not name.startswith(FROZEN)


@dataclass(frozen=True)
class VideoOutput:
    """image_features: mean over frames, not normalised (b, e); frame_features (b, t, e); fc_logits (b, k)."""

    image_features: Tensor
    frame_features: Tensor
    fc_logits: Tensor


@dataclass(frozen=True)
class TextOutput:
    """text_features (n, e), not normalised; text_hidden (n, l, w): the last block's output before ln_final."""

    text_features: Tensor
    text_hidden: Tensor


@dataclass(frozen=True)
class M2CLIPOutput(VideoOutput, TextOutput):
    """Both outputs, the scores logits_per_image (b, n), and the masked-word logits (b, l, v) when n = b."""

    logits_per_image: Tensor
    mlm_logits: Tensor | None = None


class M2CLIP(nn.Module):
    """The model of the module's docstring. Parameters `clip.*` and `mlm_block.*` are frozen, all others trainable."""

    source = "model"  # the file it was loaded from, for messages

    def __init__(self, backbone: Backbone, config: M2CLIPConfig):
        """Raises: UserError when the configuration does not fit the backbone."""
        super().__init__()
        self.config, self.backbone = config, backbone
        self.shortcuts = True  # compute less, exactly: see encode_video and encode_text
        self.activation_checkpointing = False  # recompute the visual blocks in the backward pass
        self._clip_block = clip_block
        self._prefix_cache = PrefixCache()
        clip = self.clip = backbone.clip if config.unfreeze == "nothing" else copy.deepcopy(backbone.clip)  # others use the backbone's
        width, text_width, embed_dim = clip.visual.conv1.out_channels, clip.ln_final.weight.shape[0], clip.visual.proj.shape[1]
        made = visual_adapters(config, width)
        layers, blocks = config.vision_adapter_layers, len(clip.visual.transformer.resblocks)
        self.visual_adapters = _adapters("vision", layers, blocks, made, config.vision_adapter_blocks)
        places = [place for place in ("pre_attn", "pre_mlp") if getattr(config, f"text_adapter_{place}")]
        made = dict.fromkeys(places, partial(TextAdapter, text_width, config.text_adapter_width))
        layers = config.text_adapter_layers if config.text_side == "adapters" else 0
        self.text_adapters = _adapters("text", layers, len(clip.transformer.resblocks) + 1, made)  # the last: the MLM block's
        time = {"kernel": config.temporal_kernel, "static": config.static}
        own_frames = config.frame_adapter and config.visual_adapter == "ted"
        self.frame_adapter = FrameAdapter(embed_dim, **time) if own_frames else nn.Identity()
        aim = config.visual_adapter == "aim"
        self.time_embedding = nn.Parameter(torch.zeros(1, config.num_frames, width)) if aim else None
        self.video_norm = copy.deepcopy(clip.visual.ln_post) if aim else None
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, len(config.class_names))
        self.mlm_block = copy.deepcopy(clip.transformer.resblocks[-1])
        # Words attend to frames: where the embedding is not as wide as the text tower, frames are projected.
        self.mlm_project = nn.Identity() if embed_dim == text_width else nn.Linear(embed_dim, text_width, bias=False)
        self.mlm_head = MaskedWordHead(text_width, len(config.vocabulary))
        self.unfrozen = unfrozen_names(clip.visual, config.unfreeze)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trainable(name) or name in self.unfrozen)

    from_checkpoint = classmethod(load_checkpoint)
    save = save_checkpoint
    export_official = export_published

    def trainable_state(self) -> dict[str, Tensor]:
        """All trained tensors by name, including the dead difference branch (published files have it)."""
        return {name: value for name, value in self.state_dict().items() if is_trainable(name) or name in self.unfrozen}

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint: all trained ones, and a masked-word block that cannot be rebuilt from the backbone."""
        own = {f"mlm_block.{n}": v for n, v in self.mlm_block.state_dict().items()} if self.config.own_mlm_block else {}
        return self.trainable_state() | own

    def dead_parameters(self) -> set[str]:
        """Names of parameters with no effect: patches are dropped after the last block, so what reads them alone before its MLP is idle."""
        branch = {"ted": "difference.", "st_adapter": ""}.get(self.config.visual_adapter, "none")
        last = f"visual_adapters.{len(self.visual_adapters) - 1}.pre_mlp.{branch}"
        return {name for name, _ in self.named_parameters() if name.startswith(last)}

    def train(self, mode: bool = True) -> "M2CLIP":
        """Set training mode for the heads (dropout); the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        self.mlm_block.eval()
        return self

    def encode_video(self, video: Float[Tensor, "b 3 t h w"]) -> VideoOutput:
        """Encode clips. video: RGB, normalised with the backbone's mean and std, h = w = backbone.image_size, any t >= 1."""
        visual, cls = self.clip.visual, self.visual_tokens(video, self.shortcuts)[:, :, 0]  # (b, t, c)
        normed = visual.ln_post(cls) if self.video_norm is None else self.video_norm(cls)
        pooled = visual.ln_post(cls.mean(dim=1)) if self.video_norm is None else normed.mean(dim=1)  # AIM takes the mean last
        fc_logits = self.classifier(self.dropout(pooled))
        frame_features = self.frame_adapter(normed @ visual.proj)
        return VideoOutput(frame_features.mean(dim=1), frame_features, fc_logits)

    def visual_tokens(self, video: Float[Tensor, "b 3 t h w"], first_only: bool = False) -> Float[Tensor, "b t n c"]:
        """The tokens of every frame after the last block, CLS first. first_only: CLS alone, which is all that the heads read."""
        visual = self.clip.visual
        b, _, t, h, w = video.shape
        if (h, w) != tuple(visual.image_size):
            raise ValueError(f"video is {w}x{h} px, the backbone reads {visual.image_size[1]}x{visual.image_size[0]}")
        x = visual.conv1(video.transpose(1, 2).reshape(b * t, 3, h, w)).flatten(2).transpose(1, 2)  # (b*t, n-1, c)
        cls = visual.class_embedding.to(x.dtype).expand(b * t, 1, -1)
        x = torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype)
        x = x.unflatten(0, (b, t))
        x = visual.ln_pre(x if self.time_embedding is None else x + self._frame_positions(t))  # (b, t, n, c)
        run_block = self._visual_block
        if self.activation_checkpointing and torch.is_grad_enabled():
            run_block = partial(checkpoint, self._visual_block, use_reentrant=False, preserve_rng_state=False)  # the blocks have no dropout
        for i in range(len(self.visual_adapters)):
            x = run_block(i, x, first_only and i == len(self.visual_adapters) - 1)
        return x

    def _frame_positions(self, frames: int) -> Float[Tensor, "1 t 1 c"]:
        """AIM's embedding of time; of clips of another length than it was made for, interpolated."""
        own = self.time_embedding
        if frames != own.shape[1]:
            own = F.interpolate(own.transpose(1, 2), frames, mode="linear", align_corners=True).transpose(1, 2)
        return own[:, :, None]

    def _visual_block(self, i: int, x: Float[Tensor, "b t n c"], first_only: bool) -> Float[Tensor, "b t n2 c"]:
        """One block of the visual tower with its adapters."""
        block, calls = self.visual_block(i)
        return self._clip_block(block, x, first_only=first_only, lean=self.shortcuts, **calls)

    def visual_block(self, i: int) -> tuple[Any, dict[str, Callable[[Tensor], Tensor]]]:
        """A block of the visual tower as it is run, and its adapters as clip_block calls them."""
        visual = self.clip.visual
        return at_places(self.visual_adapters[i], visual.transformer.resblocks[i], visual.grid_size)

    def compile_blocks(self) -> None:
        """Let torch.compile fuse the operations between the matrix products of a block; blocks of one kind share the compiled code."""
        # A dozen kinds: with and without adapter, CLS alone, training or not, the smaller last batch of an epoch. The default limit is 8.
        self._clip_block = torch.compile(clip_block, dynamic=False, recompile_limit=64)

    @property
    def frozen_text_blocks(self) -> int:
        """Number of text blocks below the first adapter: for fixed prompts their output is the same at every step."""
        adapted = [i for i, adapters in enumerate(self.text_adapters) if len(adapters)]
        return min([*adapted, len(self.clip.transformer.resblocks)])

    def text_prefix(self, tokens: Int[Tensor, "n l"], length: int) -> Float[Tensor, "n length w"]:
        """Embedding and frozen blocks of the first `length` positions."""
        clip = self.clip
        x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        for block in clip.transformer.resblocks[: self.frozen_text_blocks]:
            x = clip_block(block, x, mask=clip.attn_mask[:length, :length])
        return x

    def encode_text(self, tokens: Int[Tensor, "n l"], length: int | None = None, fixed: bool = False) -> TextOutput:
        """Encode texts.

        Args:
            tokens: zero-padded ids ending in the largest id (end of text).
            length: positions to compute; by default up to the latest end-of-text (the tower is causal: the rest has no effect).
            fixed: the same tensor will be passed again (the prompts of all classes): the frozen part is computed once and cached.
        """
        clip = self.clip
        if self.shortcuts and fixed and length is None:
            x, length, eot = self._prefix_cache.get(self, tokens)
        else:
            length = length or (text_length(tokens) if self.shortcuts else tokens.shape[1])
            x, eot = self.text_prefix(tokens, length), tokens.argmax(dim=1)
        blocks = list(zip(clip.transformer.resblocks, self.text_adapters, strict=False))  # the last adapters belong to the MLM block
        for block, adapters in blocks[self.frozen_text_blocks :]:
            x = clip_block(block, x, mask=clip.attn_mask[:length, :length], **adapters)
        pooled = clip.ln_final(x[torch.arange(len(x), device=x.device), eot])
        return TextOutput(pooled @ clip.text_projection, x)

    def mlm_logits(self, text_hidden: Float[Tensor, "b l w"], frame_features: Float[Tensor, "b t e"]) -> Float[Tensor, "b l v"]:
        """Score the vocabulary at every text position: words attend to the frames through a frozen copy of the last text block."""
        x = clip_block(self.mlm_block, text_hidden, context=self.mlm_project(frame_features), **self.text_adapters[-1])
        return self.mlm_head(self.clip.ln_final(x))

    def forward(self, video: Float[Tensor, "b 3 t h w"], tokens: Int[Tensor, "n l"]) -> M2CLIPOutput:
        """Score every clip against every text; also compute masked-word logits when there is one text per clip (n == b)."""
        seen, read = self.encode_video(video), self.encode_text(tokens)
        scores = cosine_scores(unit(seen.image_features), unit(read.text_features), self.clip.logit_scale.exp())
        words = self.mlm_logits(read.text_hidden, seen.frame_features) if len(tokens) == len(video) else None
        return M2CLIPOutput(**vars(read), **vars(seen), logits_per_image=scores, mlm_logits=words)


def unfrozen_names(visual: nn.Module, unfreeze: str | int) -> set[str]:
    """Names in M2CLIP of the visual tower's own parameters that are trained; see the model section's field."""
    names, blocks = [name for name, _ in visual.named_parameters()], len(visual.transformer.resblocks)
    if unfreeze == "biases_and_norms":
        names = [name for name in names if name.endswith("bias") or "ln_" in name]
    elif isinstance(unfreeze, int):
        last = tuple(f"transformer.resblocks.{i}." for i in range(blocks - unfreeze, blocks))
        names = [name for name in names if name.startswith((*last, "ln_post.", "proj"))]
    return set() if unfreeze == "nothing" else {f"clip.visual.{name}" for name in names}


def _adapters(tower: str, layers: int, blocks: int, made: dict[str, Callable[[], nn.Module]], where: str = "last") -> nn.ModuleList:
    """One ModuleDict per block, keyed by the place of the adapter; empty outside the last (or first) n blocks."""
    if made and layers > blocks:
        counted = " (including the masked-word block)" if tower == "text" else ""
        raise UserError(f"model.{tower}_adapter_layers = {layers}: this backbone has {blocks} {tower} blocks{counted}; give 0 to {blocks}")
    adapted = range(blocks - layers, blocks) if where == "last" else range(layers)
    return nn.ModuleList(nn.ModuleDict({place: make() for place, make in made.items() if i in adapted}) for i in range(blocks))
