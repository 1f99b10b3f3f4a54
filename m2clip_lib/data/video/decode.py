"""Frames of a video as pixels, with PyAV, or with decord or torchcodec for those who ask for it.

These two exist for some machines only, and return other frames of some files without an error (data/README.md; `m2clip bench data
--videos DIR`). They are imported only here, and after torch: decord before torch crashes on some CUDA machines.
"""

import functools
import importlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import ModuleType

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m2clip_lib.data.video.container import open_video, read_frame_table, video_stream
from m2clip_lib.data.video.probe import VideoError, decodable_frames, frames_from, orientation, reason, shown_size
from m2clip_lib.errors import UserError

Size = tuple[int, int] | None  # (width, height) in pixels; None: the video's own


def fit_short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """Return (width, height) in pixels, scaled so that the shorter one is `side`."""
    if width < height:
        return side, max(side, round(height * side / width))
    return max(side, round(width * side / height)), side


def read_frames(
    path: str | Path, indices: Sequence[int], size: Size = None, decoder: str = "auto", num_frames: int | None = None
) -> tuple[NDArray[np.uint8], str]:
    """Read the chosen frames, upright (rotation metadata is applied) and with square pixels.

    Args:
        indices: frame numbers, ascending; repeats are allowed.
        size: (width, height) in pixels to which the decoder resizes; None keeps the size as shown.
        decoder: "auto" is PyAV, as is "pyav". One of OTHERS may return other frames, and leaves some turned or (size None) not square.
        num_frames: the manifest's; a file with a different number of packets is not seeked in, since some cannot be decoded.
    Returns: frames (t, h, w, 3) uint8 RGB, and what decoded them: the name of the decoder, or "pyav, from the start" (a file that cannot
        be seeked).
    Raises: VideoError with the reason. UserError if the decoder cannot be used on this machine.
    """
    if decoder not in OTHERS:
        return next(read_clips(path, [indices], size, num_frames))
    module = load_decoder(decoder)
    try:
        # One reader per call: readers that are kept leak memory and do not survive a fork. The path is absolute, since in "clip: one.mp4"
        # the part before the colon would be taken for a protocol.
        count, read = OTHERS[decoder][0](module, str(Path(path).absolute()), size)
        if indices[-1] >= count:
            raise VideoError(f"{decoder}: has {count} frames, frame {indices[-1]} was requested")
        return read(list(indices)), decoder
    except (getattr(module, "DECORDError", RuntimeError), RuntimeError, ValueError, IndexError) as error:
        words = re.split(r"\.c(?:c|pp):\d+[:,] ", str(error))[-1].split()  # those after the places in the decoder's source
        raise VideoError(f"{decoder}: {' '.join(words)[:120]}") from error


Reader = tuple[int, Callable[[list[int]], NDArray[np.uint8]]]  # the number of frames; frame numbers -> (t, h, w, 3) RGB


def _decord(decord: ModuleType, path: str, size: Size) -> Reader:
    decord.logging.set_level(decord.logging.QUIET)
    width, height = size or (-1, -1)
    reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
    return len(reader), lambda indices: reader.get_batch(indices).asnumpy()


def _torchcodec(torchcodec: ModuleType, path: str, size: Size) -> Reader:
    resize = [torchcodec.transforms.Resize(size[::-1])] if size else None
    reader = torchcodec.decoders.VideoDecoder(path, dimension_order="NHWC", device="cpu", transforms=resize)
    return len(reader), lambda indices: reader.get_frames_at(indices).data.numpy()


# Decoders beside PyAV, by the name of their package: how they read, how to install them.
OTHERS = {
    "decord": (_decord, "pip install decord (decord2 where it has no wheel)"),
    "torchcodec": (_torchcodec, "pip install torchcodec, and install FFmpeg 4 to 9 (apt or conda: ffmpeg)"),
}


@functools.cache
def load_decoder(name: str) -> ModuleType:
    """Import one of OTHERS. Raises: UserError, in one line, if it is not installed or finds no FFmpeg."""
    import torch  # before decord, always; late, so that child processes that only need PyAV start without it

    try:
        module = importlib.import_module(name)
        if getattr(module, "ffmpeg_major_version", name) is None:  # torchcodec notices the lack of FFmpeg when it reads
            raise RuntimeError
    except (ImportError, OSError, RuntimeError) as error:
        broken = f"finds no FFmpeg, or does not fit torch {torch.__version__}"
        lack = "is not installed" if isinstance(error, ModuleNotFoundError) else broken
        raise UserError(f"data.decoder {name}: {name} {lack}; {OTHERS[name][1]}, or set data.decoder to auto") from error
    return module


def installed_decoders() -> list[str]:
    """Return the names of the decoders that work on this machine, PyAV first."""
    found = ["pyav"]
    for name in OTHERS:
        with suppress(UserError):
            load_decoder(name)
            found.append(name)
    return found


def read_clips(
    path: str | Path, clips: Sequence[Sequence[int]], size: Size = None, num_frames: int | None = None
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Yield each clip's frames with PyAV in one pass through the file, and how they were read; see read_frames.

    clips: frame numbers, ascending; so are the clips' first ones and last ones. Frames of several clips are decoded once.
    Raises: VideoError with the reason, at the first clip that cannot be read.
    """
    done, last = 0, -1
    try:
        for how, decode in (("pyav", _seek), ("pyav, from the start", _from_the_start)):
            wanted = {index for clip in clips[done:] for index in clip}
            with open_video(path) as container:
                stream = video_stream(container)
                pictures, picture = {}, Pictures(stream, size)
                for last, frame in decode(container, stream, sorted(wanted), num_frames):
                    if last in wanted:
                        pictures[last] = picture(frame)
                    while clips[done][-1] <= last:
                        yield np.stack([pictures[index] for index in clips[done]]), how
                        done += 1
                        if done == len(clips):
                            return
                        pictures = {index: kept for index, kept in pictures.items() if index >= clips[done][0]}
        raise VideoError(f"frame {clips[done][-1]} cannot be decoded, the last good one is {last}")
    except (av.FFmpegError, ValueError, IndexError, MemoryError) as error:
        raise VideoError(f"cannot be decoded: {reason(error)}") from error


def _seek(
    container: InputContainer, stream: VideoStream, wanted: Sequence[int], num_frames: int | None
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames with their numbers; stop early if they cannot be found by their time, or some packets cannot be decoded."""
    table = read_frame_table(container, stream)
    stamps, keys = table.stamps, table.keys
    if not table.seekable or wanted[-1] >= len(stamps) or (num_frames or len(stamps)) != len(stamps):
        return
    needed = {stamps[index] for index in wanted}
    frames, position = iter(()), len(stamps)  # position: number of the frame that comes next
    for index in wanted:
        before = bisect_right(keys, index)
        key = keys[before - 1] if before else 0  # an edit list may hide the first keyframe
        if not position <= index or key > position:
            needed.add(stamps[key])
            frames = frames_from(container, stream, stamps[key], needed)
        frame = next((frame for frame in frames if frame.pts is None or frame.pts >= stamps[index]), None)
        if frame is None or frame.pts != stamps[index]:
            return
        yield index, frame
        position = index + 1


def _from_the_start(
    container: InputContainer, stream: VideoStream, wanted: Sequence[int], _: int | None
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield every frame with its number, to the last wanted one."""
    return enumerate(islice(decodable_frames(container, stream), wanted[-1] + 1))


class Pictures:
    """Frame -> (h, w, 3) uint8 RGB at a size, upright. Use one object for all frames of a video: it keeps its scaling context."""

    def __init__(self, stream: VideoStream, size: Size):
        self.stream, self.size, self.scale = stream, size, VideoReformatter().reformat

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert one frame."""
        shown = orientation(frame)
        self.size = self.size or shown_size(frame, self.stream)  # recorded calls change it midway: the first frame decides
        return shown.upright(self.scale(frame, *shown.size(*self.size), "rgb24", interpolation="BICUBIC").to_ndarray())
