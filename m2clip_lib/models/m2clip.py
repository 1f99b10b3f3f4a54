"""M2-CLIP: a frozen CLIP with TED-Adapters, text adapters and the heads of its multi-task decoder.

Axis letters: b clips, t frames, n tokens (CLS first), c visual width, l text tokens, w text width, e embedding, k classes, v words.
Source: M2-CLIP (AAAI 2024); every output is checked against golden values in tests/.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from m2clip_lib.errors import UserError
from m2clip_lib.models.adapters import FrameAdapter, MaskedWordHead, TEDAdapter, TextAdapter
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.blocks import clip_block
from m2clip_lib.models.checkpoint import load_checkpoint, save_checkpoint
from m2clip_lib.models.foreign import export_published
from m2clip_lib.models.text import PrefixCache, text_length

FROZEN = ("clip.", "mlm_block.")


def is_trainable(name: str) -> bool:
    """THE predicate: a parameter of M2CLIP is trained, and saved, unless it belongs to CLIP or to the copy of its last text block."""
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
    """Everything, and the scores logits_per_image (b, n)."""

    logits_per_image: Tensor
    mlm_logits: Tensor | None = None


class M2CLIP(nn.Module):
    """See the module's docstring. Parameters: `clip.*` and `mlm_block.*` frozen, all others trainable."""

    def __init__(self, backbone: Backbone, config: M2CLIPConfig):
        """Raises: UserError when the configuration does not fit the backbone."""
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.shortcuts = True  # exact ways to compute less: see encode_video and encode_text
        self.activation_checkpointing = False  # compute the visual blocks again in the backward pass
        self._clip_block = clip_block
        self._prefix_cache = PrefixCache()
        clip = self.clip = backbone.clip
        width, text_width, embed_dim = clip.visual.conv1.out_channels, clip.ln_final.weight.shape[0], clip.visual.proj.shape[1]
        blocks, text_blocks = len(clip.visual.transformer.resblocks), len(clip.transformer.resblocks) + 1
        _check_layers("vision_adapter_layers", config.vision_adapter_layers, blocks)
        _check_layers("text_adapter_layers", config.text_adapter_layers, text_blocks)
        if embed_dim != text_width:
            raise UserError(
                f"backbone {backbone.source!r}: embedding {embed_dim} and text width {text_width} differ; "
                "the masked-word head attends from words to frames and needs them equal"
            )

        def visual_adapter() -> TEDAdapter:
            return TEDAdapter(
                width,
                config.vision_adapter_width,
                enhancement=config.enhancement,
                difference=config.difference,
                kernel=config.temporal_kernel,
            )

        self.visual_adapters = nn.ModuleList(
            _adapters(
                visual_adapter,
                config.vision_adapter_pre_attn and i >= blocks - config.vision_adapter_layers,
                config.vision_adapter_pre_mlp and i >= blocks - config.vision_adapter_layers,
            )
            for i in range(blocks)
        )
        self.text_adapters = nn.ModuleList(
            _adapters(
                lambda: TextAdapter(text_width, config.text_adapter_width),
                config.text_adapter_pre_attn and i >= text_blocks - config.text_adapter_layers,
                config.text_adapter_pre_mlp and i >= text_blocks - config.text_adapter_layers,
            )
            for i in range(text_blocks)
        )
        self.frame_adapter = FrameAdapter(embed_dim, config.temporal_kernel) if config.frame_adapter else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, len(config.class_names))
        self.mlm_block = copy.deepcopy(clip.transformer.resblocks[-1])
        self.mlm_head = MaskedWordHead(text_width, len(config.vocabulary))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trainable(name))

    @classmethod
    def from_checkpoint(cls, path: str | Path, backbone: Backbone, num_frames: int | None = None) -> "M2CLIP":
        """Rebuild a model from our .safetensors, the official adapter-only .pth, or the replicate's full .pt.

        num_frames: clip length; ours say theirs, files of others get 8 unless told.
        Raises: UserError when the file is none of these or fits another backbone (it names the first differing tensor).
        """
        return load_checkpoint(cls, path, backbone, num_frames)

    def save(self, path: str | Path, **extra: object) -> None:
        """Write the trainable tensors and all that is needed to use them (class names, prompts, preprocessing)."""
        save_checkpoint(self, path, **extra)

    def export_official(self, path: str | Path) -> None:
        """Write the adapter-only file that the authors' code reads."""
        export_published(self, path)

    def trainable_state(self) -> dict[str, Tensor]:
        """Name -> tensor of all that is trained, the dead difference branch included (published files have it)."""
        return {name: value for name, value in self.state_dict().items() if is_trainable(name)}

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: all that is trained, and a masked-word block that the backbone cannot give back."""
        own = {f"mlm_block.{n}": v for n, v in self.mlm_block.state_dict().items()} if self.config.own_mlm_block else {}
        return self.trainable_state() | own

    def dead_parameters(self) -> set[str]:
        """Names that nothing downstream reads: patches are dropped after the last block, so its pre-MLP difference branch is idle."""
        last = f"visual_adapters.{len(self.visual_adapters) - 1}.pre_mlp.difference."
        return {name for name, _ in self.named_parameters() if name.startswith(last)}

    def train(self, mode: bool = True) -> "M2CLIP":
        """Training mode for the heads (dropout); the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        self.mlm_block.eval()
        return self

    def encode_video(self, video: Float[Tensor, "b 3 t h w"]) -> VideoOutput:
        """video: RGB, normalised with the backbone's mean and std, h = w = backbone.image_size, any t >= 1."""
        visual = self.clip.visual
        b, _, t, h, w = video.shape
        if (h, w) != tuple(visual.image_size):
            raise ValueError(f"video is {w}x{h} px, the backbone reads {visual.image_size[1]}x{visual.image_size[0]}")
        x = visual.conv1(video.transpose(1, 2).reshape(b * t, 3, h, w)).flatten(2).transpose(1, 2)  # (b*t, n-1, c)
        cls = visual.class_embedding.to(x.dtype).expand(b * t, 1, -1)
        x = torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype)
        x = visual.ln_pre(x).unflatten(0, (b, t))  # (b, t, n, c)
        for i in range(len(self.visual_adapters)):
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._visual_block, i, x, use_reentrant=False, preserve_rng_state=False)  # no dropout in there
            else:
                x = self._visual_block(i, x)
        cls = x[:, :, 0]  # (b, t, c)
        fc_logits = self.classifier(self.dropout(visual.ln_post(cls.mean(dim=1))))
        frame_features = self.frame_adapter(visual.ln_post(cls) @ visual.proj)
        return VideoOutput(frame_features.mean(dim=1), frame_features, fc_logits)

    def _visual_block(self, i: int, x: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t n2 c"]:
        """One block of the visual tower with its adapters."""
        adapters, grid = self.visual_adapters[i], self.clip.visual.grid_size
        x = adapters["pre_attn"](x, grid) if "pre_attn" in adapters else x
        pre_mlp = adapters["pre_mlp"] if "pre_mlp" in adapters else None
        return self._clip_block(
            self.clip.visual.transformer.resblocks[i],
            x,
            first_only=self.shortcuts and i == len(self.visual_adapters) - 1,  # only CLS is read after the last block
            lean=self.shortcuts,
            before_mlp=None if pre_mlp is None else lambda y: pre_mlp(y, grid),
        )

    def compile_blocks(self) -> None:
        """Let torch.compile fuse what stands between the matrix products of a block; blocks of one kind share the code."""
        # A dozen kinds: with and without adapter, CLS alone, training or not, the smaller last batch of a pass. The default limit is 8.
        self._clip_block = torch.compile(clip_block, dynamic=False, recompile_limit=64)

    @property
    def frozen_text_blocks(self) -> int:
        """Text blocks below the first adapter: for fixed prompts they compute the same at every step."""
        adapted = [i for i, adapters in enumerate(self.text_adapters) if len(adapters)]
        return min([*adapted, len(self.clip.transformer.resblocks)])

    def text_prefix(self, tokens: Int[Tensor, "n l"], length: int) -> Float[Tensor, "n length w"]:
        """Embedding and frozen blocks of the first `length` positions."""
        clip = self.clip
        x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
        for block in clip.transformer.resblocks[: self.frozen_text_blocks]:
            x = clip_block(block, x, mask=mask)
        return x

    def encode_text(self, tokens: Int[Tensor, "n l"], length: int | None = None, fixed: bool = False) -> TextOutput:
        """tokens: zero-padded ids ending in the largest id (end of text).

        length: compute this many positions; by default up to the longest end-of-text (the tower is causal: the rest changes nothing).
        fixed: the same tensor will come again (the prompts of all classes): what is frozen is computed once and kept.
        """
        clip = self.clip
        if self.shortcuts and fixed and length is None:
            x, length, eot = self._prefix_cache.get(self, tokens)
        else:
            length = length or (text_length(tokens) if self.shortcuts else tokens.shape[1])
            x, eot = self.text_prefix(tokens, length), tokens.argmax(dim=1)
        mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
        blocks = list(zip(clip.transformer.resblocks, self.text_adapters, strict=False))  # the last adapters belong to the MLM block
        for block, adapters in blocks[self.frozen_text_blocks :]:
            x = adapters["pre_attn"](x) if "pre_attn" in adapters else x
            x = clip_block(block, x, mask=mask, before_mlp=adapters["pre_mlp"] if "pre_mlp" in adapters else None)
        pooled = clip.ln_final(x[torch.arange(len(x), device=x.device), eot])
        projection = clip.text_projection
        features = projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
        return TextOutput(features, x)

    def mlm_logits(self, text_hidden: Float[Tensor, "b l w"], frame_features: Float[Tensor, "b t e"]) -> Float[Tensor, "b l v"]:
        """The masked words' scores: each word looks at the frames through a frozen copy of the last text block."""
        adapters = self.text_adapters[-1]
        x = adapters["pre_attn"](text_hidden) if "pre_attn" in adapters else text_hidden
        pre_mlp = adapters["pre_mlp"] if "pre_mlp" in adapters else None
        x = clip_block(self.mlm_block, x, context=frame_features, before_mlp=pre_mlp)
        return self.mlm_head(self.clip.ln_final(x))

    def forward(self, video: Float[Tensor, "b 3 t h w"], tokens: Int[Tensor, "n l"]) -> M2CLIPOutput:
        """Scores of each clip against each text; masked-word logits too where there is one text a clip (n == b)."""
        seen, read = self.encode_video(video), self.encode_text(tokens)
        scores = self.clip.logit_scale.exp() * F.normalize(seen.image_features, dim=-1) @ F.normalize(read.text_features, dim=-1).T
        words = self.mlm_logits(read.text_hidden, seen.frame_features) if len(tokens) == len(video) else None
        return M2CLIPOutput(**vars(read), **vars(seen), logits_per_image=scores, mlm_logits=words)


def _adapters(make, before_attention: bool, before_mlp: bool) -> nn.ModuleDict:
    places = {"pre_attn": before_attention, "pre_mlp": before_mlp}
    return nn.ModuleDict({place: make() for place, wanted in places.items() if wanted})


def _check_layers(field: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise UserError(f"model.{field} = {value}: this backbone has {most} blocks there (the MLM block counted); give 0 to {most}")
