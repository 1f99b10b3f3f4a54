"""Chosen frames of a video with PyAV: seek to the keyframe before a frame where that saves decoding, touch nothing else.

A frame's number is turned into its timestamp by reading the packets without decoding them (a few milliseconds), so variable frame
rates are exact. Where timestamps are missing or a frame does not come, the file is decoded from its start instead.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m2clip_lib.data.probe import VideoError, decodable_frames, has_timestamps, reason, video_stream


class _CannotSeekError(Exception):
    """No timestamps, or a frame that did not come: the message says which."""


def read_with_pyav(path: str | Path, indices: Sequence[int], size: tuple[int, int] | None) -> tuple[NDArray[np.uint8], str]:
    """See read_frames in video.py. Returns: frames, and "pyav", or "pyav, from the start" where seeking was not possible.

    Raises: VideoError with the reason.
    """
    try:
        with av.open(str(path)) as container:
            try:
                return _seek(container, indices, size), "pyav"
            except _CannotSeekError:
                pass
        with av.open(str(path)) as container:
            return _from_the_start(container, indices, size), "pyav, from the start"
    except (av.FFmpegError, ValueError, IndexError, MemoryError) as error:
        raise VideoError(f"cannot be decoded: {reason(error)}") from error


def _seek(container: InputContainer, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    stream = video_stream(container)
    picture = Pictures(size)
    stamps, keys = _timestamps(container, stream)
    if indices[-1] >= len(stamps):
        raise _CannotSeekError(f"frame {indices[-1]} of {len(stamps)}")
    pictures: dict[int, NDArray[np.uint8]] = {}
    needed = {stamps[index] for index in indices}
    frames, position = iter(()), len(stamps)  # position: number of the frame that comes next
    for wanted in sorted(set(indices)):
        key = keys[max(0, bisect_right(keys, wanted) - 1)] if keys else 0
        if not position <= wanted or key > position:
            frames = _frames_from(container, stream, stamps[key], needed)
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


def _frames_from(container: InputContainer, stream: VideoStream, stamp: int, needed: set[int]) -> Iterator[VideoFrame]:
    try:
        container.seek(stamp, stream=stream)
    except av.FFmpegError as error:
        raise _CannotSeekError(reason(error)) from error
    return decodable_frames(container, stream, needed)


def _timestamps(container: InputContainer, stream: VideoStream) -> tuple[list[int], list[int]]:
    """(timestamp of every frame as shown, numbers of the keyframes). Raises: _CannotSeekError where timestamps cannot tell frames apart."""
    if not has_timestamps(container):
        raise _CannotSeekError("no timestamps")
    stamps, at_keys = [], []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None:
            raise _CannotSeekError("no timestamps")
        stamps.append(packet.pts)
        if packet.is_keyframe:
            at_keys.append(packet.pts)
    stamps.sort()
    places = {stamp: number for number, stamp in enumerate(stamps)}
    if len(places) < len(stamps):
        raise _CannotSeekError("two frames with one timestamp")
    return stamps, sorted(places[stamp] for stamp in at_keys)


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
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        width, height = self.size or (None, None)
        if turns % 2:
            width, height = height, width
        pixels = self.scale(frame, width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        return np.rot90(pixels, turns) if turns else pixels
