"""Where the objects of the demonstration's videos are: known exactly, since the workbook drew them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m2clip_lib.data.scenes import SHAPES, Scenes
from m2clip_lib.data.synthetic import CLASS_NAMES, SyntheticConfig, draw_scenes, video_rng
from m2clip_lib.errors import UserError

HALF_SIDES = {"circle": 1.0, "square": 0.86, "diamond": 1.2, "ring": 1.03}  # of an outline's box, in radii: see scenes.py
FINE = 32  # points a cell and side on which the share of a box is counted


def video_scenes(path: str | Path, config: SyntheticConfig) -> Scenes:
    """What a video of the demonstration shows, from its place .../<split>/<class name>/<number>.mp4 alone.

    Raises: UserError when the path is not one that make_videos writes.
    """
    path = Path(path)
    split, name, number = path.parent.parent.name, path.parent.name, path.stem
    if split not in ("train", "val", "test") or name not in CLASS_NAMES or not number.isdecimal():
        raise UserError(f"boxes: {path} is not a video of the demonstration (<split>/<class>/<number>.mp4)")
    label = CLASS_NAMES.index(name)
    return draw_scenes(label, video_rng(config.seed, split, label, int(number)), config.num_frames)


def box_shares(scenes: Scenes, grid: tuple[int, int]) -> NDArray[np.float64]:
    """How much of each cell of a grid lies in the boxes of the objects: (n, rows, columns), from 0 to 1.

    A box that leaves the picture comes in again at the other side, as its object does; where the boxes of two objects overlap,
    the cell's share is counted once.
    """
    half = np.array([HALF_SIDES[name] for name in SHAPES])[scenes.shape] * scenes.radius  # (n,) shares of the side
    pixels = [(np.arange(cells * FINE) + 0.5) / (cells * FINE) for cells in grid]
    inside = np.zeros((len(half), grid[0] * FINE, grid[1] * FINE), bool)
    for o in range(scenes.x.shape[1]):
        rows = _near(pixels[0], scenes.y[:, o, None], half[:, None])
        columns = _near(pixels[1], scenes.x[:, o, None], half[:, None])
        inside |= rows[:, :, None] & columns[:, None, :]
    return inside.reshape(len(half), grid[0], FINE, grid[1], FINE).mean(axis=(2, 4))


def _near(points: NDArray, centre: NDArray, half: NDArray) -> NDArray[np.bool_]:
    return np.abs((points[None, :] - centre + 0.5) % 1.0 - 0.5) <= half
