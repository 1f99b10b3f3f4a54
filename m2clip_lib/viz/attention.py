"""Where the class token looks: attention of the visual blocks, recorded without changing what the model computes."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from m2clip_lib.models import M2CLIP
from m2clip_lib.models.blocks import project_heads


class ClsAttentionRecorder:
    """Context manager: records the CLS-to-token attention of one visual block at every encode_video inside it.

    It listens to the block's first LayerNorm and computes the attention weights a second time beside the model (whose fused
    attention never forms them), so the model's own results are the same to the bit. Nothing stays behind on exit.
    """

    def __init__(self, model: M2CLIP, block: int):
        blocks = model.clip.visual.transformer.resblocks
        if not 0 <= block < len(blocks):
            raise ValueError(f"block = {block}, this backbone has blocks 0 to {len(blocks) - 1}")
        self.block = blocks[block]
        self.attention: Float[Tensor, "b t heads n"] | None = None

    def __enter__(self) -> "ClsAttentionRecorder":
        self._hook = self.block.ln_1.register_forward_hook(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    @torch.no_grad()
    def _record(self, _module: torch.nn.Module, _inputs: tuple, normed: Tensor) -> None:
        b, t = normed.shape[:2]
        queries = project_heads(normed[..., :1, :], self.block.attn, 0)  # (b*t, heads, 1, d)
        keys = project_heads(normed, self.block.attn, 1)  # (b*t, heads, n, d)
        weights = (queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)
        self.attention = weights[:, :, 0].unflatten(0, (b, t))


@torch.inference_mode()
def cls_patch_maps(model: M2CLIP, clip: Float[Tensor, "1 3 t h w"], block: int) -> np.ndarray:
    """Attention from CLS to every patch, mean over heads: (t, rows, columns), each frame divided by its sum over patches."""
    with ClsAttentionRecorder(model, block) as recorder:
        model.encode_video(clip)
    patches = recorder.attention[0].mean(dim=1)[:, 1:]  # (t, rows * columns)
    patches = patches / patches.sum(dim=-1, keepdim=True)
    return patches.unflatten(1, model.clip.visual.grid_size).cpu().numpy()


def plot_attention(axes: tuple[Axes, Axes], frames: np.ndarray, maps: np.ndarray, block: int) -> tuple[Axes, Axes]:
    """Frames above, the same with attention over them below.

    frames: (t, h, w, 3) uint8 RGB. maps: (t, rows, columns) of cls_patch_maps; smoothed to pixels for the eye (the grid is coarse).
    """
    top, bottom = axes
    t, height, width = frames.shape[:3]
    strip = np.concatenate(list(frames), axis=1)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size=(height, width), mode="bicubic")[:, 0].clamp(min=0)
    heat = np.concatenate(list(smooth.numpy()), axis=1)
    top.imshow(strip)
    bottom.imshow(strip.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    shown = bottom.imshow(heat, cmap="inferno", alpha=0.6)
    rows, columns = maps.shape[1:]
    bottom.figure.colorbar(shown, ax=list(axes), label="share of attention", shrink=0.8)
    for ax in axes:
        for i in range(1, t):
            ax.axvline(i * width - 0.5, color="white", linewidth=3)
        ax.set_yticks([])
        ax.set_xticks([(i + 0.5) * width for i in range(t)], [str(i + 1) for i in range(t)])
        ax.grid(False)
    top.set_xticks([])
    bottom.set_xlabel(f"frame of the clip (attention on {rows} x {columns} patches, interpolated)")
    share = maps.max(axis=(1, 2)).mean()
    top.set_title(
        f"Block {block + 1}: the strongest patch holds {100 * share:.0f} % of the attention (even: {100 / (rows * columns):.0f} %)"
    )
    return axes
