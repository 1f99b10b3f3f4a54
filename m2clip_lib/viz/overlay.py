"""Maps laid over the real frames: as a picture, and as a film.

Patches are coarse (4 x 4 in the demonstration, 14 x 14 in ViT-B/16): the maps are interpolated for the eye, and the pictures say so.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from torch.nn import functional as F

from m2clip_lib.attention.maps import PatchMap
from m2clip_lib.data.demo.videos import write_video

HEAT = "inferno"
FILM_SIDE = 256  # least side of a film, pixels
FILM_FPS = 4  # a clip is a few frames: slow enough to follow


def smooth(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(t, rows, columns) -> (t, height, width), bicubic, never below 0."""
    return F.interpolate(torch.from_numpy(values)[:, None], size=(height, width), mode="bicubic")[:, 0].clamp(min=0).numpy()


def overlay(frames: np.ndarray, values: np.ndarray, top: float | None = None) -> np.ndarray:
    """The frames in grey under the map in colour: (t, h, w, 3) uint8 RGB.

    frames: (t, h, w, 3) uint8 RGB. values: (t, rows, columns), >= 0. top: value of the brightest colour; None: the greatest.
    """
    heat = smooth(values.astype(np.float32), *frames.shape[1:3])
    top = top or float(heat.max()) or 1.0
    colours = 255 * mpl.colormaps[HEAT](np.clip(heat / top, 0, 1))[..., :3]
    grey = frames.mean(axis=3, keepdims=True)
    return np.rint(0.4 * grey + 0.6 * colours).astype(np.uint8)


def plot_overlay(axes: tuple[Axes, Axes], frames: np.ndarray, found: PatchMap, seconds: list[float] | None = None) -> tuple[Axes, Axes]:
    """Frames above, the same under the map below.

    frames: (t, h, w, 3) uint8 RGB. seconds: when each frame was taken; None counts them.
    """
    upper, lower = axes
    t, height, width = frames.shape[:3]
    upper.imshow(np.concatenate(list(frames), axis=1))
    heat = smooth(found.values, height, width)
    lower.imshow(np.concatenate(list(overlay(frames, found.values)), axis=1))
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, float(heat.max()) or 1.0), HEAT)
    lower.figure.colorbar(scale, ax=list(axes), label=_two_lines(found.unit), shrink=0.9, aspect=12)
    for ax in axes:
        for i in range(1, t):
            ax.axvline(i * width - 0.5, color="white", linewidth=3)
        ax.set_yticks([])
        names = [str(i + 1) for i in range(t)] if seconds is None else _times(seconds)
        ax.set_xticks([(i + 0.5) * width for i in range(t)], names)
        ax.grid(False)
        ax.set_anchor("W")  # titles start where the frames do
    upper.set_xticks([])
    rows, columns = found.values.shape[1:]
    lower.set_xlabel(f"{'frame of the clip' if seconds is None else 'time in the video'}  ({rows} x {columns} patches, interpolated)")
    upper.set_title(found.title)
    return axes


def write_film(path: Path, frames: np.ndarray, found: PatchMap) -> None:
    """An MP4 of the frames beside the same frames under the map, a few frames a second; see overlay for the arguments."""
    times = max(1, round(FILM_SIDE / frames.shape[1]))
    large = frames.repeat(times, axis=1).repeat(times, axis=2)
    film = np.concatenate([large, overlay(large, found.values)], axis=2)
    film = film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]  # 4:2:0 wants even sides
    write_video(path, film, fps=FILM_FPS)


def _two_lines(text: str) -> str:
    words = text.split()
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _times(seconds: Sequence[float]) -> list[str]:
    """With as many decimals as it takes to tell one frame from the next, three at most."""
    steps = [abs(b - a) for a, b in pairwise(seconds) if a != b]
    decimals = 0 if not steps or min(steps) >= 1 else min(3, math.ceil(-math.log10(min(steps))) + 1)
    return [f"{s:.{decimals}f} s" for s in seconds]
