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
from m2clip_lib.models.text import PrefixCache, unit
from m2clip_lib.models.text_tower import TextTower
from m2clip_lib.models.visual_tower import Clips, VisualTower, visual_tower

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
        self.visual, self.text = visual, text = visual_tower(clip.visual), TextTower(clip)
        aim = config.visual_adapter == "aim"
        if aim and visual.rotary:
            reason = f"backbone {backbone.source!r} rotates by place, so its attention cannot run over time"
            raise UserError(f"model.visual_adapter = aim: {reason}; give another")
        made = visual_adapters(config, visual.width)
        self.visual_adapters = _adapters("vision", config.vision_adapter_layers, len(visual.blocks), made, config.vision_adapter_blocks)
        places = [place for place in ("pre_attn", "pre_mlp") if getattr(config, f"text_adapter_{place}")]
        made = dict.fromkeys(places, partial(TextAdapter, text.width, config.text_adapter_width))
        layers = config.text_adapter_layers if config.text_side == "adapters" else 0
        self.text_adapters = _adapters("text", layers, len(text.blocks) + 1, made)  # the last: the MLM block's
        time = {"kernel": config.temporal_kernel, "static": config.static}
        own_frames = config.frame_adapter and config.visual_adapter == "ted"
        self.frame_adapter = FrameAdapter(visual.embed_dim, **time) if own_frames else nn.Identity()
        self.time_embedding = nn.Parameter(torch.zeros(1, config.num_frames, visual.width)) if aim else None
        self.video_norm = copy.deepcopy(visual.norm) if aim else None
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(visual.pooled_width, len(config.class_names))
        self.mlm_block = copy.deepcopy(text.blocks[-1])
        # Words attend to frames: where the embedding is not as wide as the text tower, frames are projected.
        self.mlm_project = nn.Identity() if visual.embed_dim == text.width else nn.Linear(visual.embed_dim, text.width, bias=False)
        self.mlm_head = MaskedWordHead(text.width, len(config.vocabulary))
        self.unfrozen = unfrozen_names(visual, config.unfreeze)
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
        """Names of parameters with no effect: where CLS alone is read after the last block, what reads patches before its MLP is idle."""
        branch = {"ted": "difference.", "st_adapter": ""}.get(self.config.visual_adapter if self.visual.reads_first else "", "none")
        last = f"visual_adapters.{len(self.visual_adapters) - 1}.pre_mlp.{branch}"
        return {name for name, _ in self.named_parameters() if name.startswith(last)}

    def train(self, mode: bool = True) -> "M2CLIP":
        """Set training mode for the heads (dropout); the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        self.mlm_block.eval()
        return self

    def encode_video(self, video: Clips) -> VideoOutput:
        """Encode clips.

        video: RGB, normalised with the backbone's mean and std, h = w = backbone.image_size, any t >= 1; or what trunk() gives for them.
        """
        visual = self.visual
        frames = visual.pool(self.visual_tokens(video, self.shortcuts and visual.reads_first))  # (b, t, c)
        normed = visual.norm(frames) if self.video_norm is None else self.video_norm(frames)
        pooled = visual.norm(frames.mean(dim=1)) if self.video_norm is None else normed.mean(dim=1)  # AIM takes the mean last
        fc_logits = self.classifier(self.dropout(pooled))
        frame_features = self.frame_adapter(visual.project(normed))
        return VideoOutput(frame_features.mean(dim=1), frame_features, fc_logits)

    @property
    def trunk_blocks(self) -> int:
        """Number of visual blocks below the first that is adapted or trained: what they give for a clip never changes."""
        if self.time_embedding is not None or self.config.unfreeze in ("all", "biases_and_norms"):
            return 0
        adapted = [i for i, adapters in enumerate(self.visual_adapters) if len(adapters)]
        return min([*adapted, len(self.visual_adapters) - (0 if self.config.unfreeze == "nothing" else self.config.unfreeze)])

    @torch.no_grad()
    def trunk(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t n c"]:
        """The tokens in front of block number trunk_blocks; after the last block, the first alone where nothing else is read."""
        return self._run_blocks(self._embed(video), range(self.trunk_blocks), self.shortcuts and self.visual.reads_first)

    def visual_tokens(self, video: Clips, first_only: bool = False) -> Float[Tensor, "b t n2 c"]:
        """The tokens of every frame after the last block, CLS first if there is one.

        video: see encode_video. first_only: the first token alone (visual.reads_first).
        """
        if video.dim() == 4:
            return self._run_blocks(video, range(self.trunk_blocks, len(self.visual_adapters)), first_only)
        return self._run_blocks(self._embed(video), range(len(self.visual_adapters)), first_only)

    def _embed(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t n c"]:
        """The tokens in front of the first block."""
        b, _, t, h, w = video.shape
        rows, columns = self.clip.visual.image_size
        if (h, w) != (rows, columns):
            raise ValueError(f"video is {w}x{h} px, the backbone reads {columns}x{rows}")
        positions = None if self.time_embedding is None else self._frame_positions(t).expand(b, -1, -1, -1).flatten(0, 1)
        return self.visual.embed(video.transpose(1, 2).reshape(b * t, 3, h, w), positions).unflatten(0, (b, t))

    def _run_blocks(self, x: Float[Tensor, "b t n c"], blocks: range, first_only: bool) -> Float[Tensor, "b t n2 c"]:
        run_block = self._visual_block
        if self.activation_checkpointing and torch.is_grad_enabled():
            run_block = partial(checkpoint, self._visual_block, use_reentrant=False, preserve_rng_state=False)  # the blocks have no dropout
        for i in blocks:
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
        return at_places(self.visual_adapters[i], self.visual.blocks[i], self.visual.grid)

    def compile_blocks(self) -> None:
        """Let torch.compile fuse the operations between the matrix products of a block; blocks of one kind share the compiled code."""
        # A dozen kinds: with and without adapter, CLS alone, training or not, the smaller last batch of an epoch. The default limit is 8.
        self._clip_block = torch.compile(clip_block, dynamic=False, recompile_limit=64)

    @property
    def frozen_text_blocks(self) -> int:
        """Number of text blocks below the first adapter: for fixed prompts their output is the same at every step."""
        adapted = [i for i, adapters in enumerate(self.text_adapters) if len(adapters)]
        return min([*adapted, len(self.text.blocks)])

    def text_prefix(self, tokens: Int[Tensor, "n l"], length: int) -> Float[Tensor, "n length w"]:
        """Embedding and frozen blocks of the first `length` positions."""
        x = self.text.embed(tokens[:, :length])
        for block in self.text.blocks[: self.frozen_text_blocks]:
            x = clip_block(block, x, mask=self.text.mask(length))
        return x

    def encode_text(self, tokens: Int[Tensor, "n l"], length: int | None = None, fixed: bool = False) -> TextOutput:
        """Encode texts.

        Args:
            tokens: ids as the backbone's tokenizer gives them, with start, end and padding.
            length: positions to compute; by default those that can have an effect (see TextTower.length).
            fixed: the same tensor will be passed again (the prompts of all classes): the frozen part is computed once and cached.
        """
        text = self.text
        if self.shortcuts and fixed and length is None:
            x, length, end = self._prefix_cache.get(self, tokens)
        else:
            length = length or (text.length(tokens) if self.shortcuts else tokens.shape[1])
            x, end = self.text_prefix(tokens, length), text.end(tokens)
        blocks = list(zip(text.blocks, self.text_adapters, strict=False))  # the last adapters belong to the MLM block
        for block, adapters in blocks[self.frozen_text_blocks :]:
            x = clip_block(block, x, mask=text.mask(length), **adapters)
        return TextOutput(text.pool(x, end), x)

    def mlm_logits(self, text_hidden: Float[Tensor, "b l w"], frame_features: Float[Tensor, "b t e"]) -> Float[Tensor, "b l v"]:
        """Score the vocabulary at every text position: words attend to the frames through a frozen copy of the last text block."""
        x = clip_block(self.mlm_block, text_hidden, context=self.mlm_project(frame_features), **self.text_adapters[-1])
        return self.mlm_head(self.text.module.ln_final(x))

    def forward(self, video: Float[Tensor, "b 3 t h w"], tokens: Int[Tensor, "n l"]) -> M2CLIPOutput:
        """Score every clip against every text; also compute masked-word logits when there is one text per clip (n == b)."""
        seen, read = self.encode_video(video), self.encode_text(tokens)
        scores = cosine_scores(unit(seen.image_features), unit(read.text_features), self.clip.logit_scale.exp())
        scores = scores if self.clip.logit_bias is None else scores + self.clip.logit_bias  # of sigmoid losses (SigLIP)
        words = self.mlm_logits(read.text_hidden, seen.frame_features) if len(tokens) == len(video) else None
        return M2CLIPOutput(**vars(read), **vars(seen), logits_per_image=scores, mlm_logits=words)


def unfrozen_names(visual: VisualTower, unfreeze: str | int) -> set[str]:
    """Names in M2CLIP of the visual tower's own parameters that are trained; see the model section's field."""
    names, blocks = [name for name, _ in visual.module.named_parameters()], len(visual.blocks)
    if unfreeze == "biases_and_norms":
        names = [name for name in names if name.endswith("bias") or "ln_" in name or "norm" in name]
    elif isinstance(unfreeze, int):
        last = [visual.block_names.format(i) for i in range(blocks - unfreeze, blocks)]
        names = [name for name in names if name.startswith((*last, *visual.last_names))]
    return set() if unfreeze == "nothing" else {f"clip.visual.{name}" for name in names}


def _adapters(tower: str, layers: int, blocks: int, made: dict[str, Callable[[], nn.Module]], where: str = "last") -> nn.ModuleList:
    """One ModuleDict per block, keyed by the place of the adapter; empty outside the last (or first) n blocks."""
    if made and layers > blocks:
        counted = " (including the masked-word block)" if tower == "text" else ""
        raise UserError(f"model.{tower}_adapter_layers = {layers}: this backbone has {blocks} {tower} blocks{counted}; give 0 to {blocks}")
    adapted = range(blocks - layers, blocks) if where == "last" else range(layers)
    return nn.ModuleList(nn.ModuleDict({place: make() for place, make in made.items() if i in adapted}) for i in range(blocks))
