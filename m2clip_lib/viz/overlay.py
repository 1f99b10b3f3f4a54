"""Attention maps drawn over the real frames, as a picture and as a film.

Patches are coarse (4 x 4 in the demonstration, 14 x 14 in ViT-B/16): maps are interpolated to be easier to read, and pictures say so.
"""

import math
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import matplotlib as mpl
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from m2clip_lib.attention.maps import PatchMap
from m2clip_lib.data.demo.videos import write_video
from m2clip_lib.data.video.container import open_video, video_stream
from m2clip_lib.data.video.decode import Pictures
from m2clip_lib.data.video.probe import decodable_frames, shown_size
from m2clip_lib.data.video.transcode import stamps
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import TestViews
from m2clip_lib.files import write_atomically
from m2clip_lib.viz.style import CARDS

HEAT = "inferno"
FILM_SIDE = 256  # least side of a film, pixels
FILM_FPS = 4  # a clip is a few frames: slow enough to follow


def smooth(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(t, rows, columns) -> (t, height, width), bicubic, never below 0."""
    return F.interpolate(torch.from_numpy(values)[:, None], size=(height, width), mode="bicubic")[:, 0].clamp(min=0).numpy()


def overlay(frames: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the frames in grey under the map in colour, (t, h, w, 3) uint8 RGB; the greatest value has the brightest colour.

    frames: (t, h, w, 3) uint8 RGB. values: (t, rows, columns), >= 0.
    """
    heat = smooth(values.astype(np.float32), *frames.shape[1:3])
    colours = 255 * mpl.colormaps[HEAT](heat / (heat.max() or 1.0))[..., :3]
    grey = frames.mean(axis=3, keepdims=True)
    return np.rint(0.4 * grey + 0.6 * colours).astype(np.uint8)


def plot_overlay(axes: tuple[Axes, Axes], frames: np.ndarray, found: PatchMap, seconds: list[float] | None = None) -> tuple[Axes, Axes]:
    """Frames on the upper axes, and the same frames under the map on the lower ones.

    frames: (t, h, w, 3) uint8 RGB. seconds: when each frame was taken; with None the frames are numbered.
    """
    upper, lower = axes
    t, height, width = frames.shape[:3]
    upper.imshow(np.hstack(list(frames)))
    lower.imshow(np.hstack(list(overlay(frames, found.values))))
    top = float(smooth(found.values, height, width).max()) or 1.0
    unit = "\n".join(" ".join(half) for half in np.array_split(found.unit.split(), 2))
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, top), HEAT)
    lower.figure.colorbar(scale, ax=list(axes), label=unit, shrink=0.9, aspect=12)
    for ax in axes:
        for i in range(1, t):
            ax.axvline(i * width - 0.5, color="white", linewidth=3)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.set_anchor("W")  # titles start where the frames do
    lower.set_xticks([(i + 0.5) * width for i in range(t)], range(1, t + 1) if seconds is None else _times(seconds))
    rows, columns = found.values.shape[1:]
    lower.set_xlabel(f"{'frame of the clip' if seconds is None else 'time in the video'}  ({rows} x {columns} patches, interpolated)")
    upper.set_title(found.title)
    return axes


def write_film(path: Path, frames: np.ndarray, found: PatchMap | None = None, fps: int = FILM_FPS) -> None:
    """Write an enlarged MP4 of the frames, a few per second; with a map, also of the same frames under it, beside them (see overlay)."""
    times = max(1, round(FILM_SIDE / frames.shape[1]))
    film = frames.repeat(times, axis=1).repeat(times, axis=2)
    if found is not None:
        film = np.concatenate([film, overlay(film, found.values)], axis=2)
    film = film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]  # 4:2:0 needs even sides
    write_video(path, film, fps)


def film_bytes(frames: np.ndarray, found: PatchMap | None = None, fps: int = FILM_FPS) -> bytes:
    """The content of the file that write_film makes, to put into a page."""
    with tempfile.TemporaryDirectory() as folder:
        write_film(file := Path(folder) / "film.mp4", frames, found, fps)
        return file.read_bytes()


def burn_label(video: Path, copy: Path, text: str) -> None:
    """Write a copy of a video as H.264 in MP4, upright, without sound, with the same times and a line of text in its top left corner."""
    write_atomically(copy, lambda place: _burn(video, place, text))


def _burn(video: Path, copy: Path, text: str) -> None:
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 24)
    with open_video(video) as source, av.open(f"file:{copy}", "w", format="mp4") as target:
        stream, out, picture = video_stream(source), None, None
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or 1 / rate
        ticks = stamps(video, time_base)
        for frame in decodable_frames(source, stream):
            if out is None:
                width, height = (max(2, side // 2 * 2) for side in shown_size(frame, stream))  # 4:2:0 needs even sides
                out, picture = target.add_stream("libx264", rate=rate), Pictures(stream, (width, height))
                out.width, out.height, out.pix_fmt = width, height, "yuv420p"
                out.time_base = out.codec_context.time_base = time_base  # in that of the rate, frames of uneven length would share a time
                font = font.font_variant(size=max(8, height // 12))
            image = Image.fromarray(picture(frame))
            draw = ImageDraw.Draw(image)
            draw.text((2, 2), text, "white", font, stroke_width=max(1, height // 120), stroke_fill="black")
            shown = av.VideoFrame.from_image(image)
            shown.pts, shown.time_base = next(ticks), time_base
            target.mux(out.encode(shown))
        target.mux(out.encode() if out else ())


def _times(seconds: Sequence[float]) -> list[str]:
    """Write times with as many decimals as it takes to tell one frame from the next, three at most."""
    steps = [abs(b - a) for a, b in pairwise(seconds) if a != b]
    decimals = 0 if not steps or min(steps) >= 1 else min(3, math.ceil(-math.log10(min(steps))) + 1)
    return [f"{s:.{decimals}f} s" for s in seconds]


def films_of(views: TestViews, rows: Sequence[int], most: int = 3) -> str:
    """HTML that plays the first view of up to `most` videos, each above the name of its folder and file. rows: of the table of views."""
    return CARDS.films([(_film_of(views, row), "/".join(Path(views.table.path[row]).parts[-2:])) for row in rows[:most]])


def _film_of(views: TestViews, row: int) -> bytes:
    return film_bytes(views[row].clip[0].permute(0, 2, 3, 1).numpy())


def example_films(views: TestViews, found: Predictions, most: int = 4) -> str:
    """HTML that plays what the model is surest of: right answers, and mistakes; at most one video of each class, `most` of a kind."""
    said, sure, groups = found.best.argmax(axis=1), found.best.max(axis=1), []
    right = found.right
    for title, chosen in (("Right, and sure of it", right), ("Wrong, and sure of it", ~right)):
        of_class: dict[int, int] = {}
        for i in np.flatnonzero(chosen)[np.argsort(-sure[chosen], kind="stable")]:
            of_class.setdefault(int(found.labels[i]), int(i))
        pairs = []
        for i in list(of_class.values())[:most]:
            labels = [found.labels[i]] if found.targets is None else np.flatnonzero(found.targets[i])
            truth = "" if right[i] else f"; in truth {' and '.join(found.class_names[label] for label in labels)}"
            pairs.append((_film_of(views, found.rows[i]), f"{found.class_names[said[i]]}, {100 * sure[i]:.0f}\u00a0%{truth}"))
        groups.append((title, pairs))
    return CARDS.examples([group for group in groups if group[1]])


def show_mistakes(views: TestViews, found: Predictions, true_class: str, taken_for: str) -> None:
    """Show, in a notebook, films of a few videos of one class that were taken for another."""
    from IPython.display import HTML, display

    true, said = map(found.class_names.index, (true_class, taken_for))
    wrong = (found.labels == true) & (found.best.argmax(axis=1) == said)
    display(HTML(films_of(views, np.array(found.rows)[wrong].tolist())))
