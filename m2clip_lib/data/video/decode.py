"""Frames of a video as pixels, with decord or PyAV.

decord is the default where its wheel exists; PyAV reads what decord cannot, and everything on other machines. decord is imported only
here, and after torch: the other order crashes on some CUDA machines.
"""

import functools
import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from m2clip_lib.data.video.container import open_video, read_frame_table, video_stream
from m2clip_lib.data.video.probe import VideoError, decodable_frames, frames_from, orientation, probe, reason

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]


def fit_short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """Return (width, height) in pixels, scaled so that the shorter one is `side`."""
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
    """Read the chosen frames, upright (rotation metadata is applied).

    Args:
        indices: frame numbers, ascending; repeats are allowed.
        size: (width, height) in pixels to which the decoder resizes; None keeps the video's own.
        exact_in_decord: the manifest's column `decord`; if None, the file is probed, which takes longer.
        num_frames: the manifest's; a file with a different number of packets is not seeked in, since some cannot be decoded.
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
            raise VideoError("decord does not return the requested frames of this kind of file: set data.decoder to auto or pyav")
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
    """Return whether decord is installed (its wheel exists for Linux x86_64 only)."""
    import torch  # noqa: F401  (before decord, always; late, so that child processes that only need PyAV start without it)

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
        # One reader per call: readers that are kept leak memory and do not survive a fork. The path is absolute, since in "clip: one.mp4"
        # the part before the colon would be taken for a protocol.
        reader = decord.VideoReader(str(Path(path).absolute()), width=width, height=height, num_threads=1)
        if indices[-1] >= len(reader):
            raise VideoError(f"decord: has {len(reader)} frames, frame {indices[-1]} was requested")
        return reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[-1][:120]}") from error


def read_with_pyav(
    path: str | Path, indices: Sequence[int], size: tuple[int, int] | None, num_frames: int | None = None
) -> tuple[NDArray[np.uint8], str]:
    """Read frames as read_frames does, with PyAV. Returns: frames, and "pyav" or "pyav, from the start" (a file that cannot be seeked).

    Raises: VideoError with the reason.
    """
    try:
        with open_video(path) as container:
            frames = _seek(container, indices, size, num_frames)
        if frames is not None:
            return frames, "pyav"
        with open_video(path) as container:
            return _from_the_start(container, indices, size), "pyav, from the start"
    except (av.FFmpegError, ValueError, IndexError, MemoryError) as error:
        raise VideoError(f"cannot be decoded: {reason(error)}") from error


def _seek(
    container: InputContainer, indices: Sequence[int], size: tuple[int, int] | None, num_frames: int | None
) -> NDArray[np.uint8] | None:
    """Return None if frames cannot be found by their time, or some packets cannot be decoded."""
    stream = video_stream(container)
    table = read_frame_table(container, stream)
    stamps, keys = table.stamps, table.keys
    if not table.seekable or indices[-1] >= len(stamps) or (num_frames or len(stamps)) != len(stamps):
        return None
    picture = Pictures(size)
    pictures: dict[int, NDArray[np.uint8]] = {}
    needed = {stamps[index] for index in indices}
    frames, position = iter(()), len(stamps)  # position: number of the frame that comes next
    for wanted in sorted(set(indices)):
        before = bisect_right(keys, wanted)
        key = keys[before - 1] if before else 0  # an edit list may hide the first keyframe
        if not position <= wanted or key > position:
            frames = frames_from(container, stream, stamps[key], needed)
        frame = next((frame for frame in frames if frame.pts is None or frame.pts >= stamps[wanted]), None)
        if frame is None or frame.pts != stamps[wanted]:
            return None
        pictures[wanted] = picture(frame)
        position = wanted + 1
    return np.stack([pictures[index] for index in indices])


def _from_the_start(container: InputContainer, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    picture, wanted = Pictures(size), set(indices)
    pictures: dict[int, NDArray[np.uint8]] = {}
    last = -1
    for last, frame in enumerate(islice(decodable_frames(container, video_stream(container)), indices[-1] + 1)):
        if last in wanted:
            pictures[last] = picture(frame)
    if indices[-1] not in pictures:
        raise VideoError(f"frame {indices[-1]} cannot be decoded, the last good one is {last}")
    return np.stack([pictures[index] for index in indices])


class Pictures:
    """Frame -> (h, w, 3) uint8 RGB at a size, upright. Use one object for all frames of a video: it keeps its scaling context."""

    def __init__(self, size: tuple[int, int] | None):
        self.size, self.scale = size, VideoReformatter().reformat

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert one frame."""
        shown = orientation(frame)
        self.size = self.size or shown.size(frame.width, frame.height)  # recorded calls change it midway: the first frame decides
        return shown.upright(self.scale(frame, *shown.size(*self.size), "rgb24", interpolation="BICUBIC").to_ndarray())
