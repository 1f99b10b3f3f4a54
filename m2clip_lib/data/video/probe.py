"""What is in a video file: looks, decodes as little as it can, changes nothing. Imports no torch: a scan's children start fast."""

import math
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m2clip_lib.data.video.container import (
    ONE_FRAME_A_PACKET,
    Timeline,
    VideoError,
    lost_its_end,
    open_video,
    packets,
    read_timeline,
    video_stream,
)

# For these decord's frames were found to be the ones asked for (tests/test_video.py). With mpeg4, and with open groups of pictures, its
# seeking lands elsewhere, silently; other pixel formats and rotated files come out wrong or sideways; of two streams it may take the other.
EXACT_IN_DECORD = {"h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9"}
PLAIN_PIXELS = {"yuv420p", "yuvj420p"}

# Decoders that can be told, packet by packet, not to decode a picture that no other one is predicted from.
SKIPS_FRAMES = {"h264", "hevc"}


@dataclass(frozen=True)
class VideoInfo:
    """What prepare writes down of a readable video. Sizes in pixels as shown (rotation applied), duration in seconds.

    decord: whether decord returns the frames that are asked for: by codec, pixel format, rotation and timestamps.
    """

    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    codec: str
    decord: bool


EMPTY = VideoInfo(num_frames=0, fps=0.0, duration_s=0.0, width=0, height=0, codec="", decord=False)


def bad_row(status: str) -> dict:
    """The row of a file that cannot be used."""
    return asdict(EMPTY) | {"status": status}


def probe(path: str | Path) -> VideoInfo:
    """Count the frames that can be decoded, and measure the first.

    Packets are counted where header and packets agree on their number and the first can be decoded; anything odd is decoded to its end.
    Raises: VideoError with the reason.
    """
    path = check_file(path)
    try:
        with open_video(path) as container:
            stream = video_stream(container)
            timeline = read_timeline(container, stream)
            honest = (
                timeline.whole_start and not timeline.cut_off and not lost_its_end(path) and _header_agrees(container, stream, timeline)
            )
            alone = len(container.streams.video) == 1
        with open_video(path) as container:
            stream = video_stream(container)
            codec = stream.codec_context.name
            frames = decodable_frames(container, stream)
            first = next(frames, None)
            if first is None:
                raise VideoError("no frame can be decoded")
            honest = honest and (not timeline.timed or first.pts == timeline.stamps[0])
            count = timeline.count if honest and codec in ONE_FRAME_A_PACKET else 1 + sum(1 for _ in frames)
            fps, duration = _times(stream, count, timeline.stamps)
            width, height = (first.height, first.width) if orientation(first).sideways else (first.width, first.height)
            plain = first.format.name in PLAIN_PIXELS and orientation(first) == AS_STORED
            found = timeline.timed and timeline.closed and honest and alone and count == timeline.count
            decord = codec in EXACT_IN_DECORD and plain and found
            return VideoInfo(count, fps, duration, width, height, codec, decord)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise VideoError(f"cannot be opened: {reason(error)}") from error


def check_file(path: str | Path) -> Path:
    """Raises: VideoError for what is no file, or an empty one."""
    path = Path(path)
    if not path.exists():
        raise VideoError("missing (dangling link)" if path.is_symlink() else "missing")
    if not path.is_file():
        raise VideoError("not a file but a folder" if path.is_dir() else "not a regular file")
    if path.stat().st_size == 0:
        raise VideoError("empty file")
    return path


def decodable_frames(container: InputContainer, stream: VideoStream, wanted: Set[int] | None = None) -> Iterator[VideoFrame]:
    """Frames in the order they are shown; damaged packets are stepped over. Frame number n of a video is the n-th of these.

    wanted: timestamps; frames with others may be left out, and are where nothing else is predicted from them.
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
    """Seek to the keyframe shown at `stamp` and decode from there; wanted: see decodable_frames.

    Gives nothing where a decoder cannot begin there: "keyframes" of intra refresh hold a part of the picture, the rest may come out green.
    """
    try:
        container.seek(stamp, stream=stream)
    except av.FFmpegError:
        return
    begun = False
    for frame in decodable_frames(container, stream, wanted | {stamp}):
        if not begun and (frame.pts is None or frame.pts >= stamp):  # earlier ones belong to the group before
            if frame.pts != stamp:
                return
            begun = True
        if begun:
            yield frame


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes the one that is shown: mirrored left to right, then turned counter-clockwise by quarters."""

    mirrored: bool = False
    turns: int = 0

    @property
    def sideways(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) as stored -> as shown."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)


AS_STORED = Orientation()


def orientation(frame: VideoFrame) -> Orientation:
    """From the display matrix that a phone writes: x' = a x + c y, y' = b x + d y, y downwards (ISO 14496-12, 6.2.2)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    mirrored = a * d - b * c < 0
    clockwise = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    return Orientation(mirrored, round(-clockwise / 90) % 4)


def reason(error: Exception) -> str:
    """FFmpeg's words for an error, without its numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _header_agrees(container: InputContainer, stream: VideoStream, timeline: Timeline) -> bool:
    """Whether the header promises what the file holds. Silence is no promise."""
    stamps = timeline.stamps
    if stream.frames:
        return stream.frames == timeline.count
    if container.duration is None or len(stamps) < 2:
        return False
    start = container.start_time or 0  # microseconds, as the duration
    end = float(stamps[-1] * stream.time_base) * 1e6
    frame = (end - float(stamps[0] * stream.time_base) * 1e6) / (len(stamps) - 1)
    return abs(start + container.duration - end) < 2.5 * frame


def _times(stream: VideoStream, count: int, stamps: list[int]) -> tuple[float, float]:
    """(frames per second, duration in seconds), from the timestamps where there are any."""
    said = float(stream.average_rate or stream.guessed_rate or 0)
    span = float((stamps[-1] - stamps[0]) * stream.time_base) if len(stamps) > 1 else 0.0
    if span > 0:
        return said or (len(stamps) - 1) / span, span * count / (len(stamps) - 1)
    return said, count / said if said else 0.0
