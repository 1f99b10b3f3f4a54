"""Captioned still pictures of the demonstration's shapes: what its small CLIP is trained on. Nothing in them moves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2clip_lib.data.scenes import COLOURS, SHAPES, Scenes, random_looks, render

PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
SIZES = ("small", "medium", "large")
OPACITIES = ("faint", "solid")
ATTRIBUTES = ("x", "y", "radius", "opacity", "separation")


@dataclass(frozen=True)
class Stills:
    """A batch: pictures (n, size, size, 3) uint8 RGB, captions, and what is in them.

    attributes: (n, 5) float32, see ATTRIBUTES; in about [-1, 1], separation to 2.
    words: per picture its colour, shape, size, place, opacity; no place for a picture of two objects.
    """

    pictures: NDArray[np.uint8]
    captions: list[str]
    attributes: NDArray[np.float32]
    words: list[dict[str, str]]


def draw_stills(rng: np.random.Generator, n: int, size: int) -> Stills:
    """Draw n pictures: one object in three of four, two equal objects at some distance in the others."""
    shape, colour, rgb, background = random_looks(rng, n)
    pair = rng.uniform(size=n) < 0.25
    x, y = rng.uniform(0.1, 0.9, size=(2, n))
    radius = np.where(pair, rng.uniform(0.08, 0.11, n), rng.uniform(0.08, 0.30, n))
    alpha = rng.uniform(0.1, 1.0, n)
    half = np.where(pair, rng.uniform(0.10, 0.36, n), 0.0)
    x, y = np.where(pair, 0.4 + 0.25 * (x - 0.1), x), np.where(pair, 0.4 + 0.25 * (y - 0.1), y)
    angle = rng.uniform(0, np.pi, n)
    steps = np.array([[-1.0, 1.0]])
    pictures = render(
        Scenes(
            x=(x[:, None] + half[:, None] * steps * np.cos(angle)[:, None]).astype(np.float32),
            y=(y[:, None] + half[:, None] * steps * np.sin(angle)[:, None]).astype(np.float32),
            radius=radius.astype(np.float32),
            alpha=alpha.astype(np.float32),
            shape=shape,
            colour=rgb,
            background=background,
        ),
        size,
    )
    attributes = np.stack(
        [2 * x - 1, 2 * y - 1, (radius - 0.19) / 0.11, 2 * alpha - 1.1, np.where(pair, (half - 0.1) / 0.13, -1.0)], axis=1
    )
    words, captions = [], []
    for i in range(n):
        word = {
            "colour": list(COLOURS)[colour[i]],
            "shape": SHAPES[shape[i]],
            "size": SIZES[int(np.digitize(radius[i], (0.14, 0.22)))],
            "opacity": OPACITIES[int(alpha[i] > 0.5)],
        }
        look = f"{word['opacity']} {word['colour']} {word['shape']}"
        if pair[i]:
            word["separation"] = "far apart" if half[i] > 0.23 else "close together"
            captions.append(f"two {look} shapes {word['separation']}")
        else:
            word["place"] = PLACES[int(np.digitize(y[i], (0.37, 0.63)))][int(np.digitize(x[i], (0.37, 0.63)))]
            captions.append(f"a {word['size']} {look} at the {word['place']}")
        words.append(word)
    return Stills(pictures, captions, attributes.astype(np.float32), words)
