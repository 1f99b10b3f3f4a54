"""What a video file says without decoding: its stream, its packets, when each frame is shown. Imports no torch: children start fast."""

from collections.abc import Iterator
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
    whole_start: the video begins with a keyframe and shows nothing before it; earlier frames have lost what they were predicted from.
    closed: every keyframe is a clean start: no frame after it in the file is shown before it, or needs frames before it.
    cut_off: the file ends within a packet, or a packet has a hole, as in interrupted downloads.
    seekable: frame n can be found by its time.
    """

    count: int
    stamps: list[int]
    keys: list[int]
    timed: bool
    whole_start: bool
    closed: bool
    cut_off: bool
    seekable: bool


def open_video(path: str | Path) -> InputContainer:
    """Open a video for reading."""
    # "file:" keeps a name with a colon from being taken for a protocol; titles need not be UTF-8.
    return av.open(f"file:{path}", metadata_errors="replace")


def video_stream(container: InputContainer) -> VideoStream:
    """Return the first stream of moving pictures, which excludes the cover image of a music file. Raises: VideoError if there is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_count = 1  # several files are decoded in parallel instead
            return stream
    raise VideoError("no video stream")


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
    first = key = begins_with_key = None  # first, key: times of the first packet and of the latest keyframe
    closed, cut_off = True, False
    for packet in packets(container, stream):
        if not packet.size:
            continue
        if begins_with_key is None:
            first, begins_with_key = packet.pts, packet.is_keyframe
        complete, clean_start = _look_into(packet, stream)
        cut_off = cut_off or packet.is_corrupt or not complete
        key = packet.pts if packet.is_keyframe else key
        closed = closed and not _before(packet.pts, key) and (not packet.is_keyframe or clean_start)
        if not packet.is_discard:  # packets before the start of an edit list are decoded but never shown
            shown.append((packet.pts, packet.is_keyframe))
    stamps = sorted(time for time, _ in shown if time is not None)
    places = {stamp: number for number, stamp in enumerate(stamps)}
    keys = sorted(places[time] for time, is_key in shown if is_key and time is not None)
    timed = not WITH_TIMESTAMPS.isdisjoint(container.format.name.split(",")) and len(places) == len(shown)
    whole_start = bool(begins_with_key) and not any(_before(time, first) for time, _ in shown)
    seekable = timed and whole_start and not cut_off and stream.codec_context.name in ONE_FRAME_PER_PACKET
    return FrameTable(len(shown), stamps, keys, timed, whole_start, closed, cut_off, seekable)


def lost_its_end(path: str | Path) -> bool:
    """Return whether a Matroska or WebM file is shorter than its header says, even by one byte of the index at its end.

    FFmpeg reads such a file to its last frame; decord, misled by what remains of the index, returns other frames.
    Source: RFC 8794 (EBML: an id, a size whose leading zeros give its length, all ones for "unknown") and RFC 9559 (Matroska).
    """
    with Path(path).open("rb") as file:
        head = file.read(4096)
    header, segment = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # ids; the segment contains everything after the header
    if not head.startswith(header):
        return False
    place = 0
    for identifier in (header, segment):
        place = head.find(identifier, place)
        if place < 0:
            return False
        place += len(identifier)
        width = 9 - head[place : place + 1].rjust(1, b"\x01")[0].bit_length()
        size = int.from_bytes(head[place : place + width], "big") & ((1 << 7 * width) - 1)
        place += width
    return size != (1 << 7 * width) - 1 and place + size > Path(path).stat().st_size


def _look_into(packet: av.Packet, stream: VideoStream) -> tuple[bool, bool]:
    """Return (whether the packet is complete, whether decoding can start cleanly at it if it is a keyframe).

    H.264 and HEVC in MP4 and Matroska consist of units that fill the packet, each preceded by its length; in a hole the length is zero.
    A clean start of H.264 is an IDR picture (a unit of type 5), not one that refreshes part of the picture or ends an open group.
    """
    codec, header = stream.codec_context.name, stream.codec_context.extradata
    place_of_width = {"h264": 4, "hevc": 21}.get(codec)
    if place_of_width is None or not header or header[0] != 1 or len(header) <= place_of_width:
        return any(memoryview(packet)[:16]), True
    data, width = memoryview(packet), (header[place_of_width] & 3) + 1
    place, kinds = 0, set()
    while place + width < len(data) and (length := int.from_bytes(data[place : place + width], "big")):
        kinds.add(data[place + width] & 31)
        place += width + length
    return place == len(data), codec != "h264" or 5 in kinds


def _before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other
