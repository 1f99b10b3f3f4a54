"""The published way to load a clip, written for comparison: decode every frame of the file, then work on floating-point pictures.

Training converts the frames it needs and resizes them as floats; testing converts, normalises and resizes ALL frames, then crops the views.
"""

from collections.abc import Sequence
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.data.sampling import spatial_offsets
from m2clip_lib.data.transforms import Colours


def decode_all(path: Path) -> list[av.VideoFrame]:
    """Return every frame of a file, in display order."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1  # one core, like the other contestants
        return sorted(container.decode(video=0), key=lambda frame: frame.pts)


def to_floats(frames: Sequence[av.VideoFrame], mean: Colours, std: Colours) -> Tensor:
    """Return the frames as a normalised tensor (t, 3, h, w)."""
    pixels = torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames]).float() / 255
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def resize(clip: Tensor, side: int) -> Tensor:
    """Resize the short side to `side`, bicubic without antialiasing."""
    height, width = clip.shape[2:]
    size = (side, width * side // height) if height <= width else (height * side // width, side)
    return F.interpolate(clip, size, mode="bicubic", align_corners=False)


def train_clip(
    path: Path, indices: Sequence[int], short_side: int, side: int, corner: tuple[int, int], mean: Colours, std: Colours
) -> Tensor:
    """Return one training clip (t, 3, side, side). The random choices are arguments, so that all contestants do the same work."""
    frames = decode_all(path)
    clip = resize(to_floats([frames[i] for i in indices], mean, std), short_side)
    y, x = corner
    return clip[:, :, y : y + side, x : x + side]


def test_views(path: Path, views: Sequence[Sequence[int]], side: int, spatial: int, mean: Colours, std: Colours) -> Tensor:
    """Return all views (v, t, 3, side, side) of one video."""
    video = resize(to_floats(decode_all(path), mean, std), side)
    corners = spatial_offsets(video.shape[2], video.shape[3], side, spatial)
    return torch.stack([video[list(view)][:, :, y : y + side, x : x + side] for view in views for y, x in corners])
