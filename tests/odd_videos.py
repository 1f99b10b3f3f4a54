"""Videos that are odd or broken in the ways real files are.

CORPUS: file name -> (function that makes it, numbers that its frames show; empty if the file is not a video).
"""

import io
import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numbered_videos import FPS, FRAMES, H264, HEIGHT, WIDTH, encode, grainy, picture, pictures, whole

FASTSTART = {"container_options": {"movflags": "faststart"}}


class _Pipe(io.RawIOBase):
    """An unseekable file: the muxer cannot go back to write a duration into the header."""

    def __init__(self, path: Path):
        self.path = path

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        with self.path.open("ab") as file:
            return file.write(bytes(data))

    def seekable(self) -> bool:
        return False


def _video(frames: Callable[[], Sequence[np.ndarray]] = pictures, **settings: object) -> Callable[[Path], None]:
    return lambda path: encode(path, frames(), **settings)


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content()) and None


def _cut(share: float, suffix: str, **settings: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        encode(path, grainy(), **settings)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def _turned(matrix: tuple[int, int, int, int], quarter_turns: int, mirrored: bool = False) -> Callable[[Path], None]:
    """Make an MP4 as phones do: the sensor's picture, and in tkhd the matrix (a, b, c, d) that shows it upright.

    quarter_turns: of the stored picture against the upright one, counter-clockwise; mirrored: left to right after that.
    """

    def make(path: Path) -> None:
        encode(path, [np.rot90(p, quarter_turns)[:, :: -1 if mirrored else 1] for p in pictures()])
        data = bytearray(path.read_bytes())
        place = data.index(b"tkhd") + 44  # version 0: flags, two times, id, duration, layer, volume before it
        assert struct.unpack_from(">9i", data, place) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        a, b, c, d = (value << 16 for value in matrix)
        struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)

    return make


def _edited(*edits: tuple[int, int]) -> Callable[[Path], None]:
    """Make an MP4 as trimmed in a phone's gallery or cut in an editor: all frames are kept, the edit list says what is shown.

    edits: (number of frames, the first of them).
    """

    def make(path: Path) -> None:
        encode(path, pictures(), options=H264 | {"bf": "0"})
        data = bytearray(path.read_bytes())
        per_second, ticks = (struct.unpack_from(">I", data, data.index(box) + 16)[0] for box in (b"mvhd", b"mdhd"))
        entries = (struct.pack(">Iii", count * per_second // FPS, first * ticks // FPS, 1 << 16) for count, first in edits)
        place = data.index(b"elst") - 4  # the boxes around it grow; what they hold lies before them in the file, and stays in place
        (size,) = struct.unpack_from(">I", data, place)
        new = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits)) + b"".join(entries)
        data[place : place + size] = new
        for box in (b"edts", b"trak", b"moov"):
            outer = data.index(box) - 4
            struct.pack_into(">I", data, outer, struct.unpack_from(">I", data, outer)[0] + len(new) - size)
        path.write_bytes(data)

    return make


def joined(path: Path, *parts: Sequence[np.ndarray], **settings: object) -> None:
    """Write recordings one after the other into one file, as `cat` does: the clock of each starts anew."""
    path.touch()
    for part in parts:
        single = path.with_name(f"part of {path.name}")
        encode(single, part, **settings)
        with path.open("ab") as file:
            file.write(single.read_bytes())
        single.unlink()


def _joined(**settings: object) -> Callable[[Path], None]:
    return lambda path: joined(path, pictures()[:12], pictures()[12:], **settings)


def _streams(*streams: tuple[str, int, Disposition]) -> Callable[[Path], None]:
    """Make a file with several video streams. streams: codec, number of frames, disposition; only the last one shows what is expected."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as output:
            added = [output.add_stream(codec, rate=FPS) for codec, _, _ in streams]
            for stream, (codec, _, disposition) in zip(added, streams, strict=True):
                stream.width, stream.height, stream.disposition = WIDTH, HEIGHT, disposition
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.options = {} if codec == "mjpeg" else dict(H264)
            for stream, (_, count, _) in zip(added, streams, strict=True):
                for number in range(count):
                    shown = picture(number if stream is added[-1] else 63 - number)
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
                output.mux(stream.encode())

    return make


def _sound(cover: bool) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with av.open(str(path), "w") as output:
            sound = output.add_stream("aac", rate=16000)
            picture_stream = output.add_stream("mjpeg", rate=1) if cover else None
            if picture_stream:
                picture_stream.width, picture_stream.height, picture_stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
                picture_stream.disposition = Disposition.attached_pic
                output.mux(picture_stream.encode(av.VideoFrame.from_ndarray(picture(3), format="rgb24")))
            for start in range(0, 8192, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, start
                output.mux(sound.encode(frame))
            for stream in output.streams:
                output.mux(stream.encode(None))

    return make


def _two_streams(path: Path) -> None:
    """Write a small stream, then a large one that some readers prefer."""
    with av.open(str(path), "w") as output:
        streams = []
        for scale in (1, 2):
            stream = output.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH * scale, HEIGHT * scale, "yuv420p", dict(H264)
            streams.append((stream, scale))
        for number in range(FRAMES):
            for stream, scale in streams:
                shown = picture(number if scale == 1 else 63 - number, WIDTH * scale, HEIGHT * scale)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        for stream, _ in streams:
            output.mux(stream.encode())


def _latin1_title(path: Path) -> None:
    """Write metadata that is not UTF-8, as old cameras and editors do."""
    with av.open(str(path), "w", metadata_encoding="latin-1") as output:
        output.metadata["title"] = "Café"
        stream = output.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", {"q": "2"}
        for shown in [*pictures(), None]:
            output.mux(stream.encode(None if shown is None else av.VideoFrame.from_ndarray(shown, format="rgb24")))


def _hidden_frames(path: Path) -> None:
    """Write VP8 as libvpx does at high quality: some packets are decoded but not shown. Here each keyframe but the first is sent twice."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libvpx", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", VP8["options"]
        for shown in [*pictures(), None]:
            for packet in stream.encode(None if shown is None else av.VideoFrame.from_ndarray(shown, format="rgb24")):
                if packet.is_keyframe and packet.pts:
                    data = bytes(packet)
                    hidden = av.Packet(bytes([data[0] & ~0x10]) + data[1:])  # the bit that says "show this frame" (RFC 6386, 9.1)
                    hidden.stream, hidden.time_base = stream, Fraction(1, 1000)
                    hidden.pts = hidden.dts = int(packet.pts * packet.time_base * 1000) - 20
                    output.mux(hidden)
                output.mux(packet)


def _growing(path: Path) -> None:
    """Change the frame size midway, as in recorded calls."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number in range(FRAMES):
            scale = 1 + (number >= FRAMES // 2)
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = WIDTH * scale, HEIGHT * scale, "yuvj420p"
            encoder.time_base = Fraction(1, FPS)
            frame = av.VideoFrame.from_ndarray(picture(number, WIDTH * scale, HEIGHT * scale), format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            for packet in encoder.encode(frame):
                packet.stream = stream
                output.mux(packet)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ALL = list(range(FRAMES))
MPEG4 = {"codec": "mpeg4", "options": {"q": "2", "g": "6", "bf": "2", "threads": "3"}}  # as many slices on every machine
VP9 = {"codec": "libvpx-vp9", "options": {"g": "6", "deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}}
VP8 = {"codec": "libvpx", "options": {"g": "12", "crf": "4", "b": "2M", "cpu-used": "4"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "8", "crf": "8", "g": "6", "svtav1-params": "lp=1"}}
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:keyint=6:bframes=2:crf=12"}}
OPEN_GOP = H264 | {"x264-params": "open-gop=1:b-pyramid=normal:scenecut=0:keyint=8:bframes=3:ref=3:b-adapt=0"}
UNEVEN = [int(n * 40 + (n % 5) * 7 + (n > 10) * 900) for n in range(FRAMES)]  # ms
FRAGMENTED = {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}

CORPUS: dict[str, tuple[Callable[[Path], object], list[int]]] = {
    # contains no video
    "zero bytes.mp4": (lambda path: path.touch(), []),
    "text.mp4": (lambda path: path.write_text("this is not a video\n" * 50), []),
    "playlist.mp4": (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nplain.mp4\n#EXT-X-ENDLIST\n"), []),
    "noise.mp4": (_bytes(lambda: np.random.default_rng(0).bytes(5000)), []),
    "folder.mp4": (lambda path: path.mkdir(), []),
    "dangling link.mp4": (_link("gone.mp4"), []),
    "link to itself.mp4": (_link("link to itself.mp4"), []),
    "endless.mp4": (_link("/dev/zero"), []),
    "pipe.mp4": (lambda path: os.mkfifo(path), []),
    "audio only.mp4": (_sound(cover=False), []),
    "music with cover.mp4": (_sound(cover=True), []),
    "cut at 10 %.mp4": (_cut(0.1, ".mp4"), []),
    "cut at 50 %.mp4": (_cut(0.5, ".mp4"), []),
    "cut at 90 %.mp4": (_cut(0.9, ".mp4"), []),
    # cut off, but readable from the front
    "cut at 10 %, index first.mp4": (_cut(0.1, ".mp4", **FASTSTART), [0]),
    "cut at 50 %, index first.mp4": (_cut(0.5, ".mp4", **FASTSTART), ALL[:10]),
    "cut at 90 %, index first.mp4": (_cut(0.9, ".mp4", **FASTSTART), [*ALL[:19], 21]),
    "cut at 10 %.mkv": (_cut(0.1, ".mkv"), [0]),
    "cut at 50 %.mkv": (_cut(0.5, ".mkv"), ALL[:10]),
    "cut at 90 %.mkv": (_cut(0.9, ".mkv"), [*ALL[:19], 21]),
    "cut at 50 %.webm": (_cut(0.5, ".webm", **VP9), ALL[:11]),
    "cut at 50 %, fragmented.mp4": (_cut(0.5, ".mp4", **FRAGMENTED), ALL[:10]),
    "cut at 50 %.avi": (_cut(0.5, ".avi", **MPEG4), ALL[:7]),
    # odd, not broken
    "plain.mp4": (_video(), ALL),
    "link.mp4": (_link("plain.mp4"), ALL),
    "one frame.mp4": (_video(lambda: pictures(1)), ALL[:1]),
    "in truth matroska.avi": (_bytes(lambda: whole(".mkv")), ALL),
    "in truth avi.mp4": (_bytes(lambda: whole(".avi", **MPEG4)), ALL),
    "odd width.mkv": (_video(lambda: pictures(width=53, height=37), pixels="yuv444p"), ALL),
    "odd width, lossless.mkv": (_video(lambda: pictures(width=53, height=37), codec="ffv1", options={}, pixels="yuv420p"), ALL),
    "16 x 16.mp4": (_video(lambda: pictures(width=16, height=16)), ALL),
    "4000 wide.mp4": (_video(lambda: pictures(4, 4000, 64)), ALL[:4]),
    "turned by 90.mp4": (_turned((0, 1, -1, 0), 1), ALL),
    "turned by 180.mp4": (_turned((-1, 0, 0, -1), 2), ALL),
    "turned by 270.mp4": (_turned((0, -1, 1, 0), 3), ALL),
    "mirrored.mp4": (_turned((-1, 0, 0, 1), 0, mirrored=True), ALL),
    "mirrored and upside down.mp4": (_turned((1, 0, 0, -1), 2, mirrored=True), ALL),
    "rows and columns exchanged.mp4": (_turned((0, 1, 1, 0), 3, mirrored=True), ALL),
    "turned by 90 (FFmpeg).mp4": (_video(lambda: [np.rot90(p, 1) for p in pictures()], rotation=-90), ALL),
    "turned by 90.mkv": (_video(lambda: [np.rot90(p, 1) for p in pictures()], rotation=-90), ALL),
    "uneven frame rate.mp4": (_video(times=UNEVEN), ALL),
    "uneven frame rate.mkv": (_video(times=UNEVEN), ALL),
    "starts late.mkv": (_video(times=[5000 + 40 * n for n in range(FRAMES)]), ALL),
    "no duration.mkv": (lambda path: encode(_Pipe(path), pictures(), format="matroska"), ALL),
    "no duration.webm": (lambda path: encode(_Pipe(path), pictures(), format="webm", **VP9), ALL),
    "fragmented.mp4": (_video(**FRAGMENTED), ALL),
    "uneven frame rate.webm": (_video(times=UNEVEN, **VP8), ALL),
    "joined.ts": (_joined(), ALL),
    "joined.mpg": (_joined(codec="mpeg2video", options={"q": "2", "g": "6", "bf": "2"}), ALL),
    "joined.mkv": (_joined(), ALL),
    "edit list.mp4": (_edited((16, 8)), ALL[8:]),
    "edit list, a part twice.mp4": (_edited((12, 0), (12, 0)), [*ALL[:12], *ALL[:12]]),
    "edit list, halves exchanged.mp4": (_edited((12, 12), (12, 0)), [*ALL[12:], *ALL[:12]]),
    "edit list, parts exchanged.mp4": (_edited((8, 16), (8, 0), (8, 8)), [*ALL[16:], *ALL[:16]]),
    "edit list, a part three times.mp4": (_edited((8, 8), (8, 8), (8, 8)), 3 * ALL[8:16]),
    "still before the video.mp4": (_streams(("mjpeg", 1, Disposition.default), ("libx264", FRAMES, Disposition.default)), ALL),
    "still before the video.mkv": (_streams(("mjpeg", 1, Disposition.default), ("libx264", FRAMES, Disposition.default)), ALL),
    "preview before the video.mkv": (_streams(("libx264", 5, Disposition.default), ("libx264", FRAMES, Disposition(0))), ALL),
    "second stream is the default.mkv": (_streams(("libx264", FRAMES, Disposition(0)), ("libx264", FRAMES, Disposition.default)), ALL),
    "wide pixels.mp4": (_video(lambda: pictures(width=WIDTH // 2), aspect=Fraction(2)), ALL),
    "wide pixels.mkv": (_video(lambda: pictures(width=WIDTH // 2), aspect=Fraction(2)), ALL),
    "narrow pixels.mp4": (_video(lambda: pictures(width=WIDTH * 2), aspect=Fraction(1, 2)), ALL),
    "narrow pixels.ts": (_video(lambda: pictures(width=WIDTH * 2), aspect=Fraction(1, 2)), ALL),
    "wide pixels, turned by 90.mp4": (
        _video(lambda: [np.rot90(p, 1)[:, ::2] for p in pictures()], aspect=Fraction(2), rotation=-90),
        ALL,
    ),
    "starts without keyframe.mkv": (_video(options=H264 | {"bf": "0"}, drop=[0]), ALL[6:]),
    "starts within open GOP.mkv": (_video(options=OPEN_GOP, drop=range(5)), ALL[8:]),
    "damaged at the start.mkv": (_video(options=H264 | {"bf": "0"}, damage=[0]), ALL[6:]),
    "open GOP, pyramid.mp4": (_video(options=OPEN_GOP), ALL),
    "two video streams.mp4": (_two_streams, ALL),
    "av1.mp4": (_video(**AV1), ALL),
    "av1.webm": (_video(**AV1), ALL),
    "cut at 50 %, av1.mkv": (
        _cut(0.5, ".mkv", **AV1),
        ALL[:11],
    ),
    "vp9.webm": (_video(**VP9), ALL),
    "vp8.webm": (_video(**VP8), ALL),
    "vp8, hidden frames.webm": (_hidden_frames, ALL),
    "hevc.mp4": (_video(**HEVC), ALL),
    "hevc.mkv": (_video(**HEVC), ALL),
    "mpeg4.avi": (_video(**MPEG4), ALL),
    "mpeg4.mp4": (_video(**MPEG4), ALL),
    "h264.avi": (_video(), ALL),
    "mpeg2.mpg": (_video(codec="mpeg2video", options={"q": "2", "g": "6", "bf": "2"}), ALL),
    "h264.ts": (_video(), ALL),
    "mjpeg.avi": (_video(codec="mjpeg", options={"q": "3"}, pixels="yuvj420p"), ALL),
    "flash.flv": (_video(codec="flv", options={"q": "2"}), ALL),
    "10 bit.mp4": (_video(pixels="yuv420p10le"), ALL),
    "10 bit hevc.mp4": (_video(**HEVC, pixels="yuv420p10le"), ALL),
    "alpha.webm": (_video(**VP9 | {"pixels": "yuva420p"}), ALL),
    "alpha.mov": (_video(codec="qtrle", options={}, pixels="argb"), ALL),
    "title in latin-1.avi": (_latin1_title, ALL),
    "size changes.avi": (_growing, ALL),
    # names
    "with  spaces .mp4": (_video(), ALL),
    "'quotes' \"and\" more.mp4": (_video(), ALL),
    "#1 100% ?a=b&c.mp4": (_video(), ALL),
    "%03d.mp4": (_video(), ALL),
    "clip: one.mp4": (_video(), ALL),
    "two\nlines.mp4": (_video(), ALL),
    "滑雪 éü.mp4": (_video(), ALL),
    "🎿.mp4": (_video(), ALL),
    "-leading dash.mp4": (_video(), ALL),
    "back\\slash \\x41.mp4": (_video(), ALL),
}


def make(folder: Path) -> None:
    """Write the whole corpus into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (maker, _) in CORPUS.items():
        maker(folder / name)
