"""What a video file contains, found by decoding as little as possible. Imports no torch: a scan's children start fast."""

import math
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass
from itertools import dropwhile
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m2clip_lib.data.video.container import (
    ONE_FRAME_PER_PACKET,
    FrameTable,
    VideoError,
    open_video,
    packets,
    read_frame_table,
    video_stream,
)
from m2clip_lib.data.video.times import describe_times, frame_times

NOT_UTF_8 = "file name is not UTF-8: rename it"
# Decoders that can skip, packet by packet, a picture from which no other one is predicted.
SKIPS_FRAMES = {"h264", "hevc"}


@dataclass(frozen=True)
class VideoInfo:
    """What the manifest holds about a readable video.

    fps: frames per second on average. duration_s: seconds from the first frame to the end of the last.
    width, height: pixels as shown: rotation is applied, and pixels that are not square are made so.
    times: when each frame is shown (see times.py).
    """

    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    codec: str
    times: str


EMPTY = VideoInfo(num_frames=0, fps=0.0, duration_s=0.0, width=0, height=0, codec="", times="")


def bad_row(status: str) -> dict:
    """Return the manifest's fields for a file that cannot be used."""
    return asdict(EMPTY) | {"status": status}


def probe_row(path: str) -> dict:
    """Return the manifest's fields for one file."""
    try:
        return asdict(probe(path)) | {"status": "ok"}
    except VideoError as error:
        return bad_row(str(error))
    except OSError as error:
        return bad_row(f"cannot be opened: {error.strerror}")


def probe(path: str | Path) -> VideoInfo:
    """Count the frames that can be decoded, and measure the first.

    Packets give number and times if the header agrees with their number and the first frame can be decoded; other files are decoded to
    the end.
    Raises: VideoError with the reason.
    """
    path = check_file(path)
    try:
        with open_video(path) as container:
            stream = video_stream(container)
            table = read_frame_table(container, stream)
            honest = table.whole and _header_agrees(container, stream, table)
        with open_video(path) as container:
            stream = video_stream(container)
            codec = stream.codec_context.name
            frames = decodable_frames(container, stream)
            first = next(frames, None)
            if first is None:
                raise VideoError("no frame can be decoded")
            honest = honest and (not table.timed or first.pts == table.stamps[0])
            if honest and codec in ONE_FRAME_PER_PACKET and len(table.stamps) in (0, table.count):
                stamps = table.stamps or [None] * table.count
            else:
                stamps = [first.pts, *(frame.pts for frame in frames)]
                if not table.restarts:  # AVI counts packets, whose order is not that of the frames
                    known = iter(sorted(stamp for stamp in stamps if stamp is not None))
                    stamps = [None if stamp is None else next(known) for stamp in stamps]
            times = describe_times(container, stream, stamps)
            duration = float(frame_times(times)[-1])
            width, height = shown_size(first, stream)
            return VideoInfo(len(stamps), len(stamps) / duration if duration else 0.0, duration, width, height, codec, times)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise VideoError(f"cannot be opened: {reason(error)}") from error


def check_file(path: str | Path) -> Path:
    """Return the path. Raises: VideoError if it is not a file, or an empty one, or its name cannot be stored as text."""
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise VideoError(NOT_UTF_8) from error
    if not path.exists():
        raise VideoError("missing (dangling link)" if path.is_symlink() else "missing")
    if not path.is_file():
        raise VideoError("not a file but a folder" if path.is_dir() else "not a regular file")
    if path.stat().st_size == 0:
        raise VideoError("empty file")
    return path


def decodable_frames(container: InputContainer, stream: VideoStream, wanted: Set[int] | None = None) -> Iterator[VideoFrame]:
    """Yield frames in the order they are shown, skipping damaged packets. Frame number n of a video is the n-th of these.

    wanted: timestamps; other frames are left out where nothing else is predicted from them.
    """
    may_skip = wanted is not None and stream.codec_context.name in SKIPS_FRAMES
    for packet in packets(container, stream):
        if may_skip:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def frames_from(container: InputContainer, stream: VideoStream, stamp: int, wanted: Set[int]) -> Iterator[VideoFrame]:
    """Seek to the keyframe shown at `stamp` and decode from there; wanted: see decodable_frames (it holds `stamp`).

    Yields nothing if decoding cannot start there: "keyframes" of intra refresh hold only part of the picture, the rest may come out green.
    """
    try:
        container.seek(stamp, stream=stream)
    except av.FFmpegError:
        return
    frames = decodable_frames(container, stream, wanted)
    frames = dropwhile(lambda frame: frame.pts is not None and frame.pts < stamp, frames)  # those of the previous group
    first = next(frames, None)
    if first is not None and first.pts == stamp:
        yield first
        yield from frames


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes the one that is shown: mirrored left to right, then turned counter-clockwise by quarters."""

    mirrored: bool = False
    turns: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Turn (width, height) as the picture is turned, or back."""
        return (height, width) if self.turns % 2 else (width, height)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) as stored -> as shown."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)


AS_STORED = Orientation()


def orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix that a phone writes: x' = a x + c y, y' = b x + d y, y downwards (ISO 14496-12, 6.2.2)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    mirrored = a * d - b * c < 0
    clockwise = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    return Orientation(mirrored, round(-clockwise / 90) % 4)


def shown_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Return (width, height) at which a frame is shown upright with square pixels, in pixels."""
    width = frame.width * (stream.sample_aspect_ratio or 1)
    return orientation(frame).size(max(1, round(width)), frame.height)


def reason(error: Exception) -> str:
    """Return FFmpeg's words for an error, without its numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _header_agrees(container: InputContainer, stream: VideoStream, table: FrameTable) -> bool:
    """Return whether the header promises what the file holds; a header without figures promises nothing."""
    stamps = table.stamps
    if stream.frames:
        return stream.frames == table.count
    if container.duration is None or len(stamps) < 2:
        return False
    start = container.start_time or 0  # microseconds, like the duration
    end = float(stamps[-1] * stream.time_base) * 1e6
    frame = (end - float(stamps[0] * stream.time_base) * 1e6) / (len(stamps) - 1)
    return abs(start + container.duration - end) < 2.5 * frame
