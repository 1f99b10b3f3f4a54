"""What is in a video file: looks, decodes as little as it can, changes nothing. Imports no torch: a scan's children start fast."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

EXTENSIONS = {
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob"),
    *(".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".ogv", ".ogg", ".gif", ".mxf", ".y4m", ".h264", ".hevc", ".ivf"),
}

# Codecs with one shown picture in every packet. Others (VP8's hidden frames, packed MPEG-4) are counted by decoding.
ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1", "qtrle", "png", "gif"}

# For these decord's frames were found to be the ones asked for (tests/test_video.py). With mpeg4 its seeking lands elsewhere, silently;
# other pixel formats and rotated files come out wrong or sideways.
EXACT_IN_DECORD = {"h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9"}
PLAIN_PIXELS = {"yuv420p", "yuvj420p"}

# Decoders that can be told, packet by packet, not to decode a picture that no other one is predicted from.
SKIPS_FRAMES = {"h264", "hevc"}

# Containers that store when each frame is shown. In others (AVI, MPEG) FFmpeg guesses it, and after a seek it guesses differently.
WITH_TIMESTAMPS = {"mov", "mp4", "matroska", "webm"}


class VideoError(Exception):
    """A video that cannot be read; the message is the reason, as it goes into the manifest's status column."""


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


def probe(path: str | Path) -> VideoInfo:
    """Count the frames that can be decoded, and measure the first.

    Packets are counted where header and packets agree on their number; anything odd is decoded to its end.
    Raises: VideoError with the reason.
    """
    path = check_file(path)
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container)
            packets = [p for p in _packets(container, stream) if p.size and not p.is_discard]
            stamps = sorted(p.pts for p in packets if p.pts is not None)
            honest = _header_agrees(container, stream, len(packets), stamps)
        with av.open(str(path)) as container:
            stream = video_stream(container)
            codec = stream.codec_context.name
            frames = decodable_frames(container, stream)
            first = next(frames, None)
            if first is None:
                raise VideoError("no frame can be decoded")
            count = len(packets) if honest and codec in ONE_FRAME_A_PACKET else 1 + sum(1 for _ in frames)
            fps, duration = _times(stream, count, stamps)
            width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
            stamped = has_timestamps(container) and len(set(stamps)) == len(packets)
            decord = codec in EXACT_IN_DECORD and first.format.name in PLAIN_PIXELS and not first.rotation and stamped and honest
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


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover image in a music file is none. Decoding is on one thread: workers are the parallel part.

    Raises: VideoError when there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_count = 1
            return stream
    raise VideoError("no video stream")


def has_timestamps(container: InputContainer) -> bool:
    """Whether this kind of container tells frames apart by their time."""
    return not WITH_TIMESTAMPS.isdisjoint(container.format.name.split(","))


def decodable_frames(container: InputContainer, stream: VideoStream, wanted: Container[int] | None = None) -> Iterator[VideoFrame]:
    """Frames in the order they are shown; damaged packets are stepped over. Frame number n of a video is the n-th of these.

    wanted: timestamps; frames with others may be left out, and are where nothing else is predicted from them.
    """
    may_skip = wanted is not None and stream.codec_context.name in SKIPS_FRAMES
    for packet in _packets(container, stream):
        if may_skip:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue


def reason(error: Exception) -> str:
    """FFmpeg's words for an error, without its numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets to the end, or to where a cut-off file breaks."""
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.InvalidDataError, av.EOFError):
            return


def _header_agrees(container: InputContainer, stream: VideoStream, packets: int, stamps: list[int]) -> bool:
    """Whether the header promises what the file holds. Silence is no promise."""
    if stream.frames:
        return stream.frames == packets
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
