"""What a video file says without decoding: its stream, its packets, when each frame is shown. Imports no torch: children start fast."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

# Codecs with one shown picture in every packet. In others there are packets without one (VP8's hidden frames, packed MPEG-4).
ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1", "qtrle", "png", "gif"}

# Containers that store when each frame is shown. In others (AVI, MPEG) FFmpeg guesses it, and after a seek it guesses differently.
WITH_TIMESTAMPS = {"mov", "mp4", "matroska", "webm"}


class VideoError(Exception):
    """A video that cannot be read; the message is the reason, as it goes into the manifest's status column."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a video, from its packets.

    count: packets that are to be shown. stamps: their timestamps, ascending. keys: numbers of the keyframes, ascending.
    timed: each packet has a time of its own, which the container stores.
    whole_start: it begins with a keyframe and shows nothing before it; what comes earlier has lost what it was predicted from.
    closed: every keyframe is a clean start: no frame after it in the file is shown before it, or needs frames before it.
    cut_off: the file ends within a packet, or a packet has a hole in it, as downloads that broke off have.
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
    """Open for reading. A title that is not UTF-8 does not matter; "file:" keeps a name with a colon from being taken for a protocol."""
    return av.open(f"file:{path}", metadata_errors="replace")


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover image in a music file is none. Decoding is on one thread: workers are the parallel part.

    Raises: VideoError when there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_count = 1
            return stream
    raise VideoError("no video stream")


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets to the end, or to where a cut-off file breaks. The last one is empty: with it a decoder gives what it holds back."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        end = av.Packet()
        end.stream = stream
        yield end


def read_timeline(container: InputContainer, stream: VideoStream) -> Timeline:
    """Read all packets, decode none: a few milliseconds."""
    shown: list[tuple[int | None, bool]] = []  # (time, keyframe?)
    first = key = None  # time of the first packet, and of the keyframe passed last
    begins_with_key = None
    closed, cut_off = True, False
    for packet in packets(container, stream):
        if not packet.size:
            continue
        if begins_with_key is None:
            first, begins_with_key = packet.pts, packet.is_keyframe
        cut_off = cut_off or packet.is_corrupt or not _is_whole(packet, stream)
        key = packet.pts if packet.is_keyframe else key
        closed = closed and not _before(packet.pts, key) and (not packet.is_keyframe or _resets(packet, stream))
        if not packet.is_discard:  # such a packet is decoded, and never shown: it lies before the start of an edit list
            shown.append((packet.pts, packet.is_keyframe))
    stamps = sorted(time for time, _ in shown if time is not None)
    places = {stamp: number for number, stamp in enumerate(stamps)}
    keys = sorted(places[time] for time, is_key in shown if is_key and time is not None)
    timed = not WITH_TIMESTAMPS.isdisjoint(container.format.name.split(",")) and len(places) == len(shown)
    whole_start = bool(begins_with_key) and not any(_before(time, first) for time, _ in shown)
    seekable = timed and whole_start and not cut_off and stream.codec_context.name in ONE_FRAME_A_PACKET
    return Timeline(len(shown), stamps, keys, timed, whole_start, closed, cut_off, seekable)


def lost_its_end(path: str | Path) -> bool:
    """Whether a Matroska or WebM file is shorter than its header says, if only by a byte of the index at its end.

    FFmpeg reads such a file to its last frame; decord, by what is left of the index, lands on other frames.
    Source: RFC 8794 (EBML: an id, a size whose leading zeros give its length, all ones for "unknown") and RFC 9559 (Matroska).
    """
    with Path(path).open("rb") as file:
        head = file.read(4096)
    header, segment = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # the second holds all the rest
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


def _is_whole(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether there are no zeros where data should be.

    H.264 and HEVC in MP4 and Matroska are units with their lengths before them, which must fill the packet: no length is zero.
    """
    header = stream.codec_context.extradata
    place_of_width = {"h264": 4, "hevc": 21}.get(stream.codec_context.name)
    if place_of_width is None or not header or header[0] != 1 or len(header) <= place_of_width:
        return any(memoryview(packet)[:16])
    data, width, place = memoryview(packet), (header[place_of_width] & 3) + 1, 0
    while place + width <= len(data):
        length = int.from_bytes(data[place : place + width], "big")
        if length == 0:
            return False
        place += width + length
    return place == len(data)


def _resets(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether an H.264 keyframe is an IDR picture (units of type 5), not one that refreshes a part, or ends an open group."""
    header = stream.codec_context.extradata
    if stream.codec_context.name != "h264" or not header or header[0] != 1:  # 1: units come with their length, as in MP4 and Matroska
        return True
    data, width, place = memoryview(packet), (header[4] & 3) + 1, 0
    while place + width < len(data):
        if data[place + width] & 31 == 5:
            return True
        place += width + int.from_bytes(data[place : place + width], "big")
    return False


def _before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other
