"""Opening videos: what is in a file, and its frames as pixels.

decord is the default where its wheel exists; PyAV reads what decord cannot, and everything on other machines. This module owns the
rule that torch is imported before decord (the other order crashes on some CUDA machines).
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch  # noqa: F401  (before decord, always)
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]
EXTENSIONS = {".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts", ".ogv"}


# Codecs for which decord's frames were found to be the ones asked for (tests/test_video.py).
# With mpeg4 its seeking lands elsewhere, silently.
DECORD_EXACT = {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9"}
NO_TIMESTAMP = -3600.0  # seconds; decord gives far smaller ones where a container has none (AVI, MPEG), and then seeks wrongly too


class VideoError(Exception):
    """A video that cannot be read; the message is the reason, as it goes into the manifest's status column."""


@dataclass(frozen=True)
class VideoInfo:
    """What prepare writes down of a readable video. Sizes in pixels, duration in seconds."""

    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    codec: str


def probe(path: str | Path) -> VideoInfo:
    """Count the frames (from the packets: headers lie) and decode the first one.

    Raises: VideoError with the reason.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise VideoError("missing" if not path.exists() else "not a file")
    if path.stat().st_size == 0:
        raise VideoError("empty file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("no video stream")
            stream = container.streams.video[0]
            packets = sum(1 for packet in container.demux(stream) if packet.size)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None or not packets:
                raise VideoError("no frame can be decoded")
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            codec = stream.codec_context.name if stream.codec_context else ""
            return VideoInfo(packets, fps, packets / fps if fps else 0.0, frame.width, frame.height, codec)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def fit_short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled so that the shorter one is `side`, pixels."""
    if width < height:
        return side, max(side, round(height * side / width))
    return max(side, round(width * side / height)), side


def read_frames(
    path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None, decoder: Decoder = "auto", codec: str = ""
) -> tuple[NDArray[np.uint8], str]:
    """Read chosen frames.

    Args:
        indices: frame numbers, ascending, repeats allowed.
        size: (width, height) in pixels to resize to inside the decoder; None keeps the video's own.
        codec: as the manifest names it; "" looks into the file.
    Returns: frames (t, h, w, 3) uint8 RGB, and the decoder that was used ("decord" or "pyav").
    Raises: VideoError with the reason.
    """
    if decoder == "decord" and not has_decord():
        raise VideoError("decord is not installed on this machine: set data.decoder to auto or pyav")
    exact = decoder != "pyav" and (codec or _codec(path)) in DECORD_EXACT
    if decoder == "decord" and not exact:
        raise VideoError("decord returns other frames than asked for with this codec: set data.decoder to auto or pyav")
    if decoder == "pyav" or not has_decord() or not exact:
        return _read_pyav(path, indices, size), "pyav"
    try:
        return _read_decord(path, indices, size), "decord"
    except VideoError as error:
        if decoder == "decord":
            raise
        log.debug("%s: decord failed (%s), trying PyAV", path, error)
        return _read_pyav(path, indices, size), "pyav"


def _codec(path: str | Path) -> str:
    """Name of the video codec, read from the header; "" when there is none to read."""
    import av

    try:
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context if container.streams.video else None
            return context.name if context else ""
    except (av.FFmpegError, ValueError):
        return ""


@functools.cache
def has_decord() -> bool:
    """Whether decord's wheel is here (Linux x86_64 only)."""
    try:
        import decord
    except ImportError:
        return False
    decord.logging.set_level(decord.logging.QUIET)
    return True


def _read_decord(path: str | Path, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    import decord

    width, height = size or (-1, -1)
    try:
        # A reader is made per item and short-lived: kept ones leak memory and do not survive a fork.
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
        if reader.get_frame_timestamp(0)[0] < NO_TIMESTAMP:
            raise VideoError(
                "decord: no timestamps in this container, frames would not be the ones asked for: set data.decoder to auto or pyav"
            )
        if indices[-1] >= len(reader):
            raise VideoError(f"has {len(reader)} frames, frame {indices[-1]} was asked for")
        return reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[-1][:120]}") from error


def _read_pyav(path: str | Path, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    import av
    from av.video.reformatter import VideoReformatter

    wanted = set(indices)
    width, height = size or (None, None)
    scale = VideoReformatter().reformat  # one for all frames: it keeps its scaling context
    pictures: dict[int, NDArray[np.uint8]] = {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    pictures[number] = scale(frame, width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
                if number >= indices[-1]:
                    break
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise VideoError(f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from error
    if indices[-1] not in pictures:
        raise VideoError(f"frame {indices[-1]} cannot be decoded, the last good one is {max(pictures, default=None)}")
    return np.stack([pictures[index] for index in indices])
