"""Chosen frames of a video with PyAV: seek to the keyframe before a frame where that saves decoding, touch nothing else.

A frame's number is turned into its timestamp by reading the packets without decoding them (a few milliseconds), so variable frame
rates are exact. Where timestamps are missing or a frame does not come, the file is decoded from its start instead.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from m2clip_lib.data.packets import VideoError, open_video, read_timeline, video_stream
from m2clip_lib.data.probe import decodable_frames, frames_from, orientation, reason


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
