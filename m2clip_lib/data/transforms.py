"""From decoded frames to model input. Clips stay uint8 until they are on the device, which saves three quarters of the traffic."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from m2clip_lib.data.sampling import spatial_offsets

Colours = tuple[float, float, float]  # one value per channel: red, green, blue


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training clips; every draw is made once per clip and applies to all its frames.

    short_side: (least, most) pixels the short side is resized to before a random crop.
    random_resized_crop: crop a random area (8 % to 100 %) instead. rand_augment: 4 operations of magnitude 7 (SSv2 recipe).
    mirror: flip left and right with probability 1/2; never for labels that name left or right.
    """

    short_side: tuple[int, int]
    random_resized_crop: bool = False
    rand_augment: bool = False
    mirror: bool = False


def augment(clip: UInt8[Tensor, "t 3 h w"], side: int, how: Augmentation, seed: int) -> UInt8[Tensor, "t 3 s s"]:
    """Cut one training crop of `side` pixels. seed: determines all random draws."""
    steps: list[v2.Transform] = [v2.RandAugment(num_ops=4, magnitude=7)] if how.rand_augment else []
    steps.append(v2.RandomResizedCrop(side, scale=(0.08, 1.0), antialias=True) if how.random_resized_crop else v2.RandomCrop(side))
    if how.mirror:
        steps.append(v2.RandomHorizontalFlip())
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also prepares those of GPUs, which takes longer than the crop
        return v2.Compose(steps)(clip)


def exact_resize(clip: UInt8[Tensor, "t 3 h w"], side: int, mean: Colours, std: Colours) -> Float[Tensor, "t 3 h2 w2"]:
    """Normalise, then resize the short side to `side`, in the published order: bicubic without antialiasing.

    Videos much larger than `side` are aliased, as the published weights were trained on. Checked against golden values.
    """
    pixels = clip.float() / 255
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    height, width = clip.shape[2:]
    size = (side, width * side // height) if height <= width else (height * side // width, side)
    return F.interpolate(pixels, size, mode="bicubic", align_corners=False)


def test_crops(
    clip: UInt8[Tensor, "t 3 h w"] | Float[Tensor, "t 3 h w"], side: int, views: int
) -> UInt8[Tensor, "v t 3 s s"] | Float[Tensor, "v t 3 s s"]:
    """Cut the square crops of an evaluation; the clip's short side equals `side`."""
    corners = spatial_offsets(clip.shape[2], clip.shape[3], side, views)
    return torch.stack([clip[:, :, y : y + side, x : x + side] for y, x in corners])


def frames_to_clip(frames: np.ndarray) -> UInt8[Tensor, "t 3 h w"]:
    """Turn frames (t, h, w, 3) uint8 RGB, as decoders return them, into torch's layout."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()


def to_model_input(
    clips: UInt8[Tensor, "b t 3 h w"] | Float[Tensor, "b t 3 h w"], mean: Colours, std: Colours
) -> Float[Tensor, "b 3 t h w"]:
    """Turn uint8 RGB in [0, 255] into normalised floats, channels before time, on the clips' device.

    Floating-point clips are already normalised (exact_resize).
    """
    if clips.is_floating_point():
        return clips.transpose(1, 2)
    scale = torch.tensor([1 / (255 * s) for s in std], device=clips.device)[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=clips.device)[:, None, None]
    return (clips.float() * scale + shift).transpose(1, 2)
