"""Videos whose frame n shows the number n, so that tests can detect a wrong frame."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES, WIDTH, HEIGHT, FPS = 24, 96, 64, 25
H264 = {"g": "6", "bf": "2", "crf": "12", "preset": "ultrafast", "threads": "1"}


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draw a number as six bright or dark columns; the upper left corner is bright, the upper right dark. (h, w, 3) uint8."""
    bits = (number >> (np.arange(width) * 6 // width)) & 1
    pixels = np.broadcast_to((bits * 200 + 25)[None, :, None], (height, width, 3)).astype(np.uint8)
    pixels[: height // 4] = np.where(np.arange(width) < width // 2, 225, 25)[None, :, None]
    return pixels


def pictures(count: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    return [picture(number, width, height) for number in range(count)]


def grainy(count: int = FRAMES) -> list[np.ndarray]:
    """Pictures with noise in their lower part, so that frames, not headers, make up most of a file."""
    noise = np.random.default_rng(0).integers(0, 256, (count, HEIGHT // 4, WIDTH, 1)).repeat(3, axis=3)
    shown = np.stack(pictures(count))
    shown[:, -HEIGHT // 4 :] = noise
    return list(shown)


def numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers back, at any size; -1 for a frame that is not upright."""
    height, width = frames.shape[1:3]
    bits = frames[:, height * 5 // 8, [int(width * (i + 0.5) / 6) for i in range(6)]].mean(axis=2) > 125
    corners = frames[:, height // 12][:, [width // 5, width * 4 // 5]].mean(axis=2) > 125
    return np.where((corners == [True, False]).all(axis=1), bits @ (1 << np.arange(6)), -1).tolist()


def encode(
    file: Path | io.RawIOBase,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] = H264,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    drop: Iterable[int] = (),
    rotation: int = 0,
    damage: Iterable[int] = (),
    aspect: Fraction | None = None,
    **container: object,
) -> None:
    """Encode RGB frames.

    times: of the frames, in ms; drop: packets to leave out, by index; damage: those to fill with noise, by index; aspect: of a pixel.
    """
    target = str(file) if isinstance(file, Path) else file
    with ordinary_priority(), av.open(target, "w", **container) as output:
        stream = output.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = pixels, options
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        count = 0
        for number, pixels_of_frame in enumerate([*frames, None]):
            frame = None
            if pixels_of_frame is not None:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of_frame), format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            for packet in stream.encode(frame):
                if count in damage:
                    packet.update(np.random.default_rng(count).bytes(packet.size))
                if count not in drop:
                    output.mux(packet)
                count += 1


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does as root: it gives the calling thread real-time priority and never resets it.

    libvpx, whose threads wait for one another without sleeping, then never finishes if two processes encode on two cores.
    """
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def whole(suffix: str, **settings: object) -> bytes:
    """Return the bytes of an encoded file."""
    file = io.BytesIO()
    encode(file, pictures(), **settings, format={".mp4": "mp4", ".mkv": "matroska", ".avi": "avi"}[suffix])
    return file.getvalue()


def slow_video(path: Path, frames: int) -> None:
    """Write a small file that takes long to decode: one picture of 16 megapixels many times, without a duration in the header."""
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width = stream.height = 4096
        stream.pix_fmt = "gray"
        (packet,) = stream.encode(av.VideoFrame.from_ndarray(np.zeros((4096, 4096), np.uint8), format="gray"))
        data = bytes(packet)
        for number in range(frames):
            again = av.Packet(data)
            again.stream, again.pts, again.dts, again.time_base, again.is_keyframe = stream, number, number, Fraction(1, 25), True
            output.mux(again)
