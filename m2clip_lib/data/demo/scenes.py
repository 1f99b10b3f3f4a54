"""Scenes of coloured shapes on a plain background: drawn from arrays of numbers, and captioned stills of them.

The videos of the demonstration (videos.py) are drawn here too; its small CLIP is trained on the stills, in which nothing moves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTLINES = {  # distance to the outline, < 0 inside; x, y: distances from the centre, r: radius
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(x, y) - 0.86 * r,
    "diamond": lambda x, y, r: (x + y - 1.2 * r) * np.float32(np.sqrt(0.5)),
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.75 * r) - 0.28 * r,
}
SHAPES = tuple(OUTLINES)
COLOURS = {  # RGB in [0, 255]
    "red": (225, 45, 45),
    "green": (50, 175, 70),
    "blue": (50, 90, 230),
    "yellow": (240, 215, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 205, 215),
    "pink": (245, 130, 185),
}
BACKGROUNDS = ((20, 20, 24), (70, 70, 74), (235, 235, 230), (40, 50, 75))  # RGB in [0, 255]


@dataclass(frozen=True)
class Scenes:
    """n pictures of o equal objects each. Lengths are fractions of the picture's side; (0, 0) is the top left corner.

    Attributes:
        x, y: centres (n, o); they wrap around at 1.
        radius: (n,). alpha: opacity (n,) in [0, 1].
        shape: index into SHAPES (n,). colour, background: RGB (n, 3) in [0, 255].
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    radius: NDArray[np.float32]
    alpha: NDArray[np.float32]
    shape: NDArray[np.int64]
    colour: NDArray[np.float32]
    background: NDArray[np.float32]


def render(scenes: Scenes, size: int) -> NDArray[np.uint8]:
    """Draw with soft one-pixel edges -> (n, size, size, 3) uint8 RGB."""
    pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
    coverage = np.zeros((len(scenes.x), size, size), np.float32)
    for o in range(scenes.x.shape[1]):
        dx = np.abs((pixels[None, :] - scenes.x[:, o, None] + 0.5) % 1.0 - 0.5)[:, None, :]  # (n, 1, size)
        dy = np.abs((pixels[None, :] - scenes.y[:, o, None] + 0.5) % 1.0 - 0.5)[:, :, None]  # (n, size, 1)
        distance = _distance(dx, dy, scenes.radius[:, None, None], scenes.shape)  # to the outline, < 0 inside
        coverage = np.maximum(coverage, np.clip(0.5 - distance * size, 0.0, 1.0))
    weight = (coverage * scenes.alpha[:, None, None])[..., None]  # (n, size, size, 1)
    background = scenes.background[:, None, None, :].astype(np.float32)
    picture = background + weight * (scenes.colour[:, None, None, :].astype(np.float32) - background)
    return np.rint(picture).astype(np.uint8)


def _distance(dx: np.ndarray, dy: np.ndarray, radius: np.ndarray, shape: np.ndarray) -> np.ndarray:
    out = np.empty(np.broadcast_shapes(dx.shape, dy.shape), np.float32)
    for index, outline in enumerate(OUTLINES.values()):
        rows = shape == index
        out[rows] = outline(dx[rows], dy[rows], radius[rows])
    return out


def random_looks(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw n looks: shape index (n,), colour index (n,), colour RGB (n, 3), background RGB (n, 3)."""
    shape = rng.integers(len(SHAPES), size=n)
    colour = rng.integers(len(COLOURS), size=n)
    rgb = np.asarray(list(COLOURS.values()), np.float32)[colour]
    background = np.asarray(BACKGROUNDS, np.float32)[rng.integers(len(BACKGROUNDS), size=n)]
    return shape, colour, rgb, background


PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
SIZES = ("small", "medium", "large")
OPACITIES = ("faint", "solid")
ATTRIBUTES = ("x", "y", "radius", "opacity", "separation")


@dataclass(frozen=True)
class Stills:
    """A batch of pictures (n, size, size, 3) uint8 RGB, their captions, and what they show.

    attributes: (n, 5) float32, see ATTRIBUTES; in about [-1, 1], separation to 2.
    words: colour, shape, size, place and opacity of each picture; a picture of two objects has no place.
    """

    pictures: NDArray[np.uint8]
    captions: list[str]
    attributes: NDArray[np.float32]
    words: list[dict[str, str]]


def draw_stills(rng: np.random.Generator, n: int, size: int) -> Stills:
    """Draw n pictures: three in four show one object, the others two equal objects at some distance."""
    shape, colour, rgb, background = random_looks(rng, n)
    pair = rng.uniform(size=n) < 0.25
    x, y = rng.uniform(0.1, 0.9, size=(2, n))
    radius = np.where(pair, rng.uniform(0.08, 0.11, n), rng.uniform(0.08, 0.30, n))
    alpha = rng.uniform(0.1, 1.0, n)
    half = np.where(pair, rng.uniform(0.10, 0.36, n), 0.0)
    x, y = np.where(pair, 0.4 + 0.25 * (x - 0.1), x), np.where(pair, 0.4 + 0.25 * (y - 0.1), y)
    angle = rng.uniform(0, np.pi, n)
    steps = np.array([[-1.0, 1.0]])
    dx, dy = half[:, None] * steps * np.cos(angle)[:, None], half[:, None] * steps * np.sin(angle)[:, None]
    places_and_sizes = map(np.float32, (x[:, None] + dx, y[:, None] + dy, radius, alpha))
    pictures = render(Scenes(*places_and_sizes, shape, rgb, background), size)
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
