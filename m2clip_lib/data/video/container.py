"""What a video file says without decoding: its stream, its packets, when each frame is shown. Imports no torch: children start fast."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

# Codecs with one shown picture in every packet. Others have packets without one (VP8's hidden frames, packed MPEG-4).
ONE_FRAME_PER_PACKET = {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1", "qtrle", "png", "gif"}

# Containers that store when each frame is shown. For others (AVI, MPEG) FFmpeg guesses, and after a seek it guesses differently.
WITH_TIMESTAMPS = {"mov", "mp4", "matroska", "webm"}


class VideoError(Exception):
    """A video cannot be read; the message is the reason, as it appears in the manifest's status column."""


@dataclass(frozen=True)
class FrameTable:
    """The frames of a video, as its packets describe them.

    count: packets to be shown. stamps: their timestamps, ascending. keys: numbers of the keyframes, ascending.
    timed: every packet has its own time, stored in the container.
    restarts: the clock goes back at a keyframe, as where recordings were joined byte by byte.
    whole: it does not, the video begins with a keyframe and shows nothing before it (earlier frames have lost what they were predicted
        from), and no packet has a hole or is cut off, as in interrupted downloads.
    seekable: frame n can be found by its time.
    """

    count: int
    stamps: list[int]
    keys: list[int]
    timed: bool
    restarts: bool
    whole: bool
    seekable: bool


def open_video(path: str | Path) -> InputContainer:
    """Open a video for reading."""
    # "file:" keeps a name with a colon from being taken for a protocol; titles need not be UTF-8.
    return av.open(f"file:{path}", metadata_errors="replace")


def video_stream(container: InputContainer) -> VideoStream:
    """Return the stream of moving pictures: the one with the most frames, among equals the one marked as default, then the first.

    Raises: VideoError if there is none; the cover image of a music file does not count.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic and s.codec_context is not None]
    if not streams:
        raise VideoError("no video stream")
    frames: Counter[int] = Counter()
    if len(streams) > 1:  # headers need not give their numbers, so packets are counted, in an opening of its own
        with av.open(container.name, metadata_errors="replace") as again, suppress(av.FFmpegError):
            frames.update(p.stream_index for p in again.demux([s.index for s in streams]) if p.size and not p.is_discard)
    stream = max(streams, key=lambda s: (frames[s.index], bool(s.disposition & Disposition.default)))
    stream.thread_count = 1  # several files are decoded in parallel instead
    return stream


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yield packets to the end, or to where a cut-off file breaks. The last one is empty and makes a decoder return what it holds back."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        end = av.Packet()
        end.stream = stream
        yield end


def read_frame_table(container: InputContainer, stream: VideoStream) -> FrameTable:
    """Read all packets and decode none; takes a few milliseconds."""
    shown: list[tuple[int | None, bool]] = []  # (time, keyframe?)
    first, latest, begins_with_key = None, -math.inf, None  # the time of the first packet, and the latest time so far
    restarts = cut_off = False
    for packet in packets(container, stream):
        if not packet.size:
            continue
        if begins_with_key is None:
            first, begins_with_key = packet.pts, packet.is_keyframe
        cut_off = cut_off or packet.is_corrupt or not _is_complete(packet, stream)
        if packet.pts is not None:
            restarts = restarts or (packet.is_keyframe and packet.pts < latest)
            latest = max(latest, packet.pts)
        if not packet.is_discard:  # packets before the start of an edit list are decoded but never shown
            shown.append((packet.pts, packet.is_keyframe))
    stamps = sorted(time for time, _ in shown if time is not None)
    places = {stamp: number for number, stamp in enumerate(stamps)}
    keys = sorted(places[time] for time, is_key in shown if is_key and time is not None)
    timed = not WITH_TIMESTAMPS.isdisjoint(container.format.name.split(",")) and len(places) == len(shown)
    whole = bool(begins_with_key) and (first is None or not stamps or stamps[0] >= first) and not (restarts or cut_off)
    seekable = timed and whole and stream.codec_context.name in ONE_FRAME_PER_PACKET
    return FrameTable(len(shown), stamps, keys, timed, restarts, whole, seekable)


def _is_complete(packet: av.Packet, stream: VideoStream) -> bool:
    """Return whether a packet has no hole.

    H.264 and HEVC in MP4 and Matroska consist of units that fill the packet, each preceded by its length; in a hole the length is zero.
    """
    codec, header = stream.codec_context.name, stream.codec_context.extradata
    place_of_width = {"h264": 4, "hevc": 21}.get(codec)
    if place_of_width is None or not header or header[0] != 1 or len(header) <= place_of_width:
        return any(memoryview(packet)[:16])
    data, width = memoryview(packet), (header[place_of_width] & 3) + 1
    place = 0
    while place + width < len(data) and (length := int.from_bytes(data[place : place + width], "big")):
        place += width + length
    return place == len(data)
