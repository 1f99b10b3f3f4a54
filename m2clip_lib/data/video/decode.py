"""Frames of a video as pixels, with decord or PyAV.

decord is the default where its wheel exists; PyAV reads what decord cannot, and everything on other machines. This module owns the
rule that torch is imported before decord (the other order crashes on some CUDA machines).
"""

import functools
import logging
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch  # noqa: F401  (before decord, always)
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from m2clip_lib.data.video.container import open_video, read_timeline, video_stream
from m2clip_lib.data.video.probe import VideoError, decodable_frames, frames_from, orientation, probe, reason

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]


def fit_short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled so that the shorter one is `side`, pixels."""
    if width < height:
        return side, max(side, round(height * side / width))
    return max(side, round(width * side / height)), side


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    size: tuple[int, int] | None = None,
    decoder: Decoder = "auto",
    exact_in_decord: bool | None = None,
    num_frames: int | None = None,
) -> tuple[NDArray[np.uint8], str]:
    """Read chosen frames, upright (rotation metadata is applied).

    Args:
        indices: frame numbers, ascending, repeats allowed.
        size: (width, height) in pixels to resize to inside the decoder; None keeps the video's own.
        exact_in_decord: the manifest's column `decord`; None looks into the file, which takes longer.
        num_frames: the manifest's; a file that has another number of packets is not seeked in, since some cannot be decoded.
    Returns: frames (t, h, w, 3) uint8 RGB, and what decoded them: "decord", "pyav", "pyav, from the start" (a file that cannot be
        seeked), "pyav, after decord failed".
    Raises: VideoError with the reason.
    """
    if decoder == "pyav" or (decoder == "auto" and not has_decord()):
        return read_with_pyav(path, indices, size, num_frames)
    if not has_decord():
        raise VideoError("decord is not installed on this machine: set data.decoder to auto or pyav")
    if exact_in_decord is None:
        info = probe(path)
        exact_in_decord, num_frames = info.decord, info.num_frames
    if not exact_in_decord:
        if decoder == "decord":
            raise VideoError("decord does not return the frames asked for from this kind of file: set data.decoder to auto or pyav")
        return read_with_pyav(path, indices, size, num_frames)
    try:
        return _read_decord(path, indices, size), "decord"
    except VideoError as error:
        if decoder == "decord":
            raise
        log.debug("%s: decord failed (%s), trying PyAV", path, error)
        return read_with_pyav(path, indices, size, num_frames)[0], "pyav, after decord failed"


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
        # A reader is made per item and short-lived: kept ones leak memory and do not survive a fork. The whole path, since what stands
        # before a colon would be taken for a protocol.
        reader = decord.VideoReader(str(Path(path).absolute()), width=width, height=height, num_threads=1)
        if indices[-1] >= len(reader):
            raise VideoError(f"decord: has {len(reader)} frames, frame {indices[-1]} was asked for")
        return reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[-1][:120]}") from error


class _CannotSeekError(Exception):
    """No timestamps, or a frame that did not come: the message says which."""


def read_with_pyav(
    path: str | Path, indices: Sequence[int], size: tuple[int, int] | None, num_frames: int | None = None
) -> tuple[NDArray[np.uint8], str]:
    """See read_frames in video.py. Returns: frames, and "pyav", or "pyav, from the start" where seeking was not possible.

    Raises: VideoError with the reason.
    """
    try:
        with open_video(path) as container:
            try:
                return _seek(container, indices, size, num_frames), "pyav"
            except _CannotSeekError:
                pass
        with open_video(path) as container:
            return _from_the_start(container, indices, size), "pyav, from the start"
    except (av.FFmpegError, ValueError, IndexError, MemoryError) as error:
        raise VideoError(f"cannot be decoded: {reason(error)}") from error


def _seek(container: InputContainer, indices: Sequence[int], size: tuple[int, int] | None, num_frames: int | None) -> NDArray[np.uint8]:
    stream = video_stream(container)
    timeline = read_timeline(container, stream)
    stamps, keys = timeline.stamps, timeline.keys
    if not timeline.seekable:
        raise _CannotSeekError("timestamps do not tell frames apart")
    if indices[-1] >= len(stamps) or (num_frames or len(stamps)) != len(stamps):
        raise _CannotSeekError("some packets cannot be decoded")
    picture = Pictures(size)
    pictures: dict[int, NDArray[np.uint8]] = {}
    needed = {stamps[index] for index in indices}
    frames, position = iter(()), len(stamps)  # position: number of the frame that comes next
    for wanted in sorted(set(indices)):
        before = bisect_right(keys, wanted)
        key = keys[before - 1] if before else 0  # an edit list may hide the first keyframe
        if not position <= wanted or key > position:
            frames = frames_from(container, stream, stamps[key], needed)
        for frame in frames:
            if frame.pts is None or frame.pts > stamps[wanted]:
                raise _CannotSeekError(f"frame {wanted} did not come")
            if frame.pts == stamps[wanted]:
                pictures[wanted] = picture(frame)
                break
        else:
            raise _CannotSeekError(f"frame {wanted} did not come")
        position = wanted + 1
    return np.stack([pictures[index] for index in indices])


def _from_the_start(container: InputContainer, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    picture, wanted = Pictures(size), set(indices)
    pictures: dict[int, NDArray[np.uint8]] = {}
    last = -1
    for last, frame in enumerate(decodable_frames(container, video_stream(container))):
        if last in wanted:
            pictures[last] = picture(frame)
        if last >= indices[-1]:
            break
    if indices[-1] not in pictures:
        raise VideoError(f"frame {indices[-1]} cannot be decoded, the last good one is {last}")
    return np.stack([pictures[index] for index in indices])


class Pictures:
    """Frame -> (h, w, 3) uint8 RGB at a size, upright. One object for all frames of a video: it keeps its scaling context."""

    def __init__(self, size: tuple[int, int] | None):
        self.size, self.scale = size, VideoReformatter().reformat

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """One picture."""
        shown = orientation(frame)
        if self.size is None:  # of the first one for all: recorded calls change it midway
            self.size = (frame.height, frame.width) if shown.sideways else (frame.width, frame.height)
        width, height = reversed(self.size) if shown.sideways else self.size
        return shown.upright(self.scale(frame, width, height, "rgb24", interpolation="BICUBIC").to_ndarray())
