"""One face for the visual towers that open_clip carries: its own ViTs, and timm's (SigLIP, PE-Core, MobileCLIP's).

A tower is read, never changed. It says what the adapters need: tokens of frames, blocks with the parts that clip_block runs, how many
tokens stand before the patches (0 or 1), the grid of the patches, and how the tokens of a frame become one embedding.
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Clips = Float[Tensor, "b 3 t h w"] | Float[Tensor, "b t n c"]  # normalised pixels; or the tokens that M2CLIP.trunk makes of them
PARTS = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")  # of a block, as clip_block reads it


@runtime_checkable
class VisualTower(Protocol):
    """What the model knows of a visual tower.

    Attributes:
        module: the tower itself. blocks: with the attributes PARTS. prefix: tokens before the patches. grid: rows and columns of patches.
        width: of the tokens. pooled_width: of a frame's pooled token. embed_dim: of a frame's embedding.
        reads_first: pooling reads the first token (CLS) alone, so that the last block need not compute the others.
        rotary: positions enter in attention, so that it cannot run over another axis than space.
        stem, norm_pre: modules that make patches of pixels, and that end `embed`. norm: applied to pooled tokens.
        block_names: what the names of the parameters of block {} begin with; last_names: of those after the blocks.
    """

    module: nn.Module
    blocks: list[Any]
    prefix: int
    grid: tuple[int, int]
    width: int
    pooled_width: int
    embed_dim: int
    reads_first: bool
    rotary: bool
    stem: nn.Module
    norm_pre: nn.Module
    norm: nn.Module
    block_names: str
    last_names: tuple[str, ...]

    def embed(self, frames: Float[Tensor, "m 3 h w"], added: Tensor | None = None) -> Float[Tensor, "m n c"]:
        """Tokens in front of the first block. added: to all tokens of a frame, before the norm that precedes the blocks (m, 1, c)."""
        ...

    def pool(self, tokens: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t c2"]:
        """One token per frame, to which `norm` is still to be applied."""
        ...

    def project(self, normed: Float[Tensor, "b t c2"]) -> Float[Tensor, "b t e"]:
        """The embedding of a frame."""
        ...


class OpenClipTower:
    """open_clip's VisionTransformer, with a class token: pooled by it, or as the mean of the patches (CLIPA)."""

    prefix, rotary = 1, False
    block_names, last_names = "transformer.resblocks.{}.", ("ln_post.", "proj")

    def __init__(self, visual: Any):
        self.module, self.blocks = visual, list(visual.transformer.resblocks)
        self.stem, self.norm_pre, self.norm = visual.conv1, visual.ln_pre, visual.ln_post
        self.grid = tuple(visual.grid_size)
        self.width = self.pooled_width = visual.conv1.weight.shape[0]
        self.embed_dim = visual.proj.shape[1]
        self.reads_first = visual.pool_type == "tok"
        self.norm_first = not self.reads_first and not visual.final_ln_after_pool  # for one token the order does not matter
        if self.norm_first:
            self.norm = nn.Identity()

    def embed(self, frames: Float[Tensor, "m 3 h w"], added: Tensor | None = None) -> Float[Tensor, "m n c"]:
        """See VisualTower."""
        visual = self.module
        x = visual.conv1(frames).flatten(2).transpose(1, 2)  # (m, n-1, c)
        cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)  # len() would fix the batch of an export
        x = torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype)
        return visual.ln_pre(x if added is None else x + added)

    def pool(self, tokens: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t c"]:
        """See VisualTower."""
        if self.reads_first:
            return tokens[..., 0, :]
        return (self.module.ln_post(tokens) if self.norm_first else tokens)[..., 1:, :].mean(dim=-2)

    def project(self, normed: Float[Tensor, "b t c"]) -> Float[Tensor, "b t e"]:
        """See VisualTower."""
        return normed @ self.module.proj


class TimmAttention:
    """timm's attention with the names of open_clip's, and the rotation of queries and keys by their place, if it has one."""

    def __init__(self, attn: Any, trunk: Any):
        self.attn, self.trunk, self.num_heads, self.out_proj = attn, trunk, attn.num_heads, attn.proj
        self.rotate = self._rotate if getattr(trunk, "rope", None) is not None else None

    @property
    def in_proj_weight(self) -> Tensor:
        """Query, key and value below one another (3 c, c)."""
        return self.attn.qkv.weight

    @property
    def in_proj_bias(self) -> Tensor | None:
        """Likewise (3 c,)."""
        separate = getattr(self.attn, "q_bias", None) is not None
        return torch.cat([self.attn.q_bias, self.attn.k_bias, self.attn.v_bias]) if separate else self.attn.qkv.bias

    def _rotate(self, y: Float[Tensor, "m heads n d"]) -> Float[Tensor, "m heads n d"]:
        from timm.layers import apply_rot_embed_cat

        first, patches = y.split([self.attn.num_prefix_tokens, y.shape[2] - self.attn.num_prefix_tokens], dim=2)
        turned = apply_rot_embed_cat(patches, self.trunk.rope.get_embed(), half=getattr(self.attn, "rotate_half", False))
        return torch.cat([first, turned], dim=2).type_as(y)


class TimmBlock:
    """A block of timm's VisionTransformer or Eva with the names of open_clip's."""

    def __init__(self, block: Any, trunk: Any):
        self.block, self.attn = block, TimmAttention(block.attn, trunk)
        self.ln_1, self.ln_2, self.mlp = block.norm1, block.norm2, block.mlp
        self.ls_1, self.ls_2 = partial(self._scaled, 1), partial(self._scaled, 2)

    def _scaled(self, number: int, x: Tensor) -> Tensor:
        """LayerScale: timm's two classes keep it as a module or as a parameter."""
        if hasattr(self.block, f"ls{number}"):
            return getattr(self.block, f"ls{number}")(x)
        gamma = getattr(self.block, f"gamma_{number}")
        return x if gamma is None else gamma * x


class TimmTower:
    """open_clip's TimmModel around timm's VisionTransformer or Eva, with or without a class token, pooled by it, by attention or mean."""

    block_names = "trunk.blocks.{}."
    last_names = ("trunk.norm.", "trunk.fc_norm.", "trunk.attn_pool.", "trunk.head.", "head.")

    def __init__(self, visual: Any):
        self.module, self.trunk = visual, visual.trunk
        trunk = self.trunk
        self.blocks = [TimmBlock(block, trunk) for block in trunk.blocks]
        self.prefix, self.grid = trunk.num_prefix_tokens, tuple(trunk.patch_embed.grid_size)
        self.width, self.pooled_width = trunk.embed_dim, trunk.num_features
        last = [module for module in (trunk.head, *visual.head.modules()) if isinstance(module, nn.Linear)]
        self.embed_dim = last[-1].out_features if last else self.pooled_width
        self.rotary = getattr(trunk, "rope", None) is not None
        self.reads_first = trunk.attn_pool is None and trunk.global_pool == "token" and not self.rotary
        self.stem, self.norm_pre = trunk.patch_embed, trunk.norm_pre
        self.norm = trunk.norm if self.reads_first else trunk.fc_norm

    def embed(self, frames: Float[Tensor, "m 3 h w"], added: Tensor | None = None) -> Float[Tensor, "m n c"]:
        """See VisualTower."""
        x = self.trunk._pos_embed(self.trunk.patch_embed(frames))
        x = x[0] if isinstance(x, tuple) else x  # Eva gives the rotation, too
        return self.trunk.norm_pre(x if added is None else x + added)

    def pool(self, tokens: Float[Tensor, "b t n c"]) -> Float[Tensor, "b t c2"]:
        """See VisualTower."""
        if self.reads_first:
            return tokens[..., 0, :]
        return self.trunk.pool(self.trunk.norm(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2])

    def project(self, normed: Float[Tensor, "b t c2"]) -> Float[Tensor, "b t e"]:
        """See VisualTower."""
        normed = self.trunk.fc_norm(normed) if self.reads_first else normed
        return self.module.head(self.trunk.head(normed))


def unfit_visual(visual: nn.Module) -> str:
    """Why the adapters do not fit a visual tower; "" if they do."""
    kind = type(visual).__name__
    if kind == "TimmModel":
        return _unfit_trunk(visual.trunk)
    if kind != "VisionTransformer":
        return f"a {kind} vision tower"
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        return "a vision tower that pools by attention (CoCa)"
    return ""


def _unfit_trunk(trunk: Any) -> str:
    kind = type(trunk).__name__
    if kind not in ("VisionTransformer", "Eva"):
        return f"a {kind} vision tower, which has no fixed grid of patches"
    if trunk.num_prefix_tokens > 1:
        return f"a vision tower with {trunk.num_prefix_tokens} tokens before the patches"
    block = trunk.blocks[0]
    if (block_kind := type(block).__name__) not in ("Block", "EvaBlock"):
        return f"blocks that compute something else than CLIP's ({block_kind})"
    attn, width = block.attn, trunk.embed_dim
    changed = [name for name in ("q_norm", "k_norm", "norm") if not isinstance(getattr(attn, name, nn.Identity()), nn.Identity)]
    if changed or getattr(attn, "gate", None) is not None or getattr(trunk, "rope_mixed", False):
        return f"attention that computes something else than CLIP's ({(changed or ['a gate, or mixed rotations'])[0]})"
    if attn.qkv is None or attn.qkv.weight.shape != (3 * width, width):
        return "attention that keeps query, key and value apart"
    return ""


def visual_tower(visual: Any) -> VisualTower:
    """The face of a visual tower for which unfit_visual has no complaint."""
    return TimmTower(visual) if hasattr(visual, "trunk") else OpenClipTower(visual)
