"""Opening real files: containers and codecs, two decoders that must agree, and files that are broken in every usual way."""

import contextlib
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from numbered_videos import encode, ordinary_priority
from other_decoders import EACH, EACH_FOR_SMALL, needs, package

from m2clip_lib.data.dataset import VideoReader
from m2clip_lib.data.demo.videos import write_video
from m2clip_lib.data.video import decode
from m2clip_lib.data.video.cache import cached_reader
from m2clip_lib.data.video.decode import VideoError, fit_short_side, load_decoder, read_frames
from m2clip_lib.data.video.probe import probe
from m2clip_lib.data.video.transcode import transcode_file
from m2clip_lib.errors import UserError

EXACT = [("a.mp4", "libx264", "h264"), ("a.webm", "libvpx-vp9", "vp9"), ("a.mkv", "libx264", "h264")]
KINDS = [
    *EXACT,
    ("a.avi", "mpeg4", "mpeg4"),
    ("b.avi", "libx264", "h264"),
    ("c.mp4", "mpeg4", "mpeg4"),
    ("d.mpg", "mpeg2video", "mpeg2video"),
]
FRAMES, WIDTH, HEIGHT, FPS = 30, 96, 64, 25
CHOICES = (list(range(FRAMES)), [FRAMES - 1], [0, 0, 7, 7, 7], [3, 11, 12, 13, 25, 29])


def counting_frames(count: int = FRAMES) -> np.ndarray:
    """Frame i carries i as six dark or bright columns: a decoded frame says its own number. (t, h, w, 3) uint8."""
    bits = (np.arange(count)[:, None] >> np.arange(6)) & 1
    row = np.repeat(bits * 200 + 25, WIDTH // 6, axis=1).astype(np.uint8)
    return np.broadcast_to(row[:, None, :, None], (count, HEIGHT, WIDTH, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers back, at any size."""
    width = frames.shape[2] / 6
    columns = [int(width * (i + 0.5)) for i in range(6)]
    bits = frames[:, frames.shape[1] // 2, columns].mean(axis=2) > 125
    return (bits @ (1 << np.arange(6))).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for name, codec, _ in KINDS:
        # keyframes 12 apart and two B-frames: seeking and reordering are part of the test
        write_video(root / name, counting_frames(), FPS, codec, {"g": "12", "bf": "2"} if codec != "libvpx-vp9" else {"g": "12"})
    return root


@pytest.mark.parametrize(("name", "codec", "codec_name"), KINDS)
def test_probe_counts_frames_and_names_size_rate_and_codec(folder, name, codec, codec_name):
    info = probe(folder / name)
    assert (info.num_frames, info.width, info.height) == (FRAMES, WIDTH, HEIGHT)
    assert info.fps == pytest.approx(FPS)
    assert info.duration_s == pytest.approx(1.2)
    assert info.codec in {codec_name, f"lib{codec_name}", f"libvpx-{codec_name}"}


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize(("name", "codec", "codec_name"), KINDS)
def test_every_requested_frame_is_the_one_returned(folder, name, codec, codec_name, decoder):
    for wanted in CHOICES:
        frames, _ = read_frames(folder / name, wanted, decoder=decoder)
        assert frames.dtype == np.uint8
        assert frames.shape == (len(wanted), HEIGHT, WIDTH, 3)
        assert numbers(frames) == wanted


@pytest.mark.parametrize("name", ["a.avi", "b.avi", "d.mpg"])
def test_wrong_extension_does_not_lead_to_wrong_frames(folder, tmp_path, name):
    path = tmp_path / "in truth another container.mp4"
    path.write_bytes((folder / name).read_bytes())
    for wanted in CHOICES:
        assert numbers(read_frames(path, wanted)[0]) == wanted


def test_auto_is_pyav(folder):
    assert {read_frames(folder / name, [3, 9])[1].split(",")[0] for name, _, _ in KINDS} == {"pyav"}


@pytest.mark.parametrize("decoder", decode.OTHERS)
@pytest.mark.parametrize(
    ("content", "lack"),
    [
        (None, "is not installed"),
        ("raise RuntimeError('Could not load libtorchcodec. Likely causes:\\n  1. FFmpeg')", "finds no FFmpeg"),
        ("raise OSError('libavutil.so.60: cannot open shared object file')", "finds no FFmpeg"),
        ("ffmpeg_major_version = None", "finds no FFmpeg"),  # torchcodec 0.17 can be imported without
    ],
)
def test_a_decoder_that_cannot_be_used_is_an_error_of_one_line(tmp_path, monkeypatch, decoder, content, lack):
    monkeypatch.setattr(decode, "load_decoder", load_decoder.__wrapped__)  # which remembers nothing
    monkeypatch.setitem(sys.modules, decoder, None)  # as where it is not installed
    if content:
        monkeypatch.delitem(sys.modules, decoder)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / f"{decoder}.py").write_text(content)
    with pytest.raises(UserError, match=rf"^data.decoder {decoder}: {decoder} {lack}.*; pip install .* set data.decoder to auto$") as error:
        read_frames("a.mp4", [0], decoder=decoder)
    assert "\n" not in str(error.value)
    assert decoder not in decode.installed_decoders()
    sys.modules.pop(decoder, None)


@pytest.mark.parametrize("decoder", EACH_FOR_SMALL)
@pytest.mark.parametrize(("name", "codec", "codec_name"), EXACT)
@pytest.mark.parametrize("size", [None, (64, 42)])
def test_other_decoders_give_the_pixels_of_pyav(folder, name, codec, codec_name, size, decoder):
    wanted = [0, 5, 13, 29]
    one, _ = read_frames(folder / name, wanted, size, decoder)
    other, _ = read_frames(folder / name, wanted, size, "pyav")
    assert one.shape == other.shape == (4, *reversed(size or (WIDTH, HEIGHT)), 3)
    difference = np.abs(one.astype(int) - other.astype(int))
    assert difference.mean() < 2  # of 255: rounding of the colour conversion in two versions of FFmpeg; torchcodec resizes bilinearly
    assert np.percentile(difference, 99) <= 20  # at hard edges, from resizing


@pytest.mark.parametrize("decoder", [*EACH_FOR_SMALL, "pyav"])
def test_colours_are_red_green_blue_in_this_order(tmp_path, decoder):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[..., 0], frames[..., 1] = 220, 120
    write_video(tmp_path / "orange.mp4", frames)
    found = read_frames(tmp_path / "orange.mp4", [2], decoder=decoder)[0].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found, [220, 120, 0], atol=12)


@pytest.mark.parametrize(
    ("size", "side", "fitted"),
    [
        ((340, 256), 224, (298, 224)),
        ((256, 340), 224, (224, 298)),
        ((80, 80), 64, (64, 64)),
        ((1000, 10), 32, (3200, 32)),
        ((64, 65), 64, (64, 65)),
    ],
)
def test_short_side_is_fitted_and_the_aspect_kept(size, side, fitted):
    assert fit_short_side(*size, side) == fitted  # 340 * 224 / 256 = 297.5, rounded half to even: 298


@pytest.mark.parametrize("width", [24, 48, 72])
def test_widths_at_which_decord_fails_are_read_nevertheless(folder, width):
    frames, _ = read_frames(folder / "a.mp4", [3, 9], (width, 32))
    assert frames.shape == (2, 32, width, 3)
    assert numbers(frames) == [3, 9]


# --- broken files ---


def broken_file(kind: str, folder, tmp_path):
    """Make one; returns its path."""
    path = tmp_path / "bad.mp4"
    whole = (folder / "a.mp4").read_bytes()
    match kind:
        case "zero bytes":
            path.touch()
        case "text":
            path.write_text("this is not a video\n" * 100)
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])  # an MP4's index is at its end: nothing can be opened
        case "random bytes":
            path.write_bytes(np.random.default_rng(0).bytes(5000))
        case "directory":
            path.mkdir()
        case "broken link":
            path.symlink_to(tmp_path / "gone.mp4")
        case "audio only":
            with av.open(str(path), "w") as container:
                stream = container.add_stream("aac", rate=16000)
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 16000
                container.mux(stream.encode(frame))
                container.mux(stream.encode())
    return path


BROKEN = {
    "zero bytes": "empty file",
    "text": "cannot be opened",
    "truncated": "cannot be opened",
    "random bytes": "cannot be opened",
    "directory": "not a file",
    "missing": "missing",
    "broken link": "missing",
    "audio only": "no video stream",
}


@pytest.mark.parametrize(("kind", "reason"), BROKEN.items())
def test_broken_file_is_an_error_with_its_reason(folder, tmp_path, kind, reason):
    path = broken_file(kind, folder, tmp_path)
    with pytest.raises(VideoError, match=f"^{reason}") as error:
        probe(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decoder", [*EACH, "pyav", "auto"])
@pytest.mark.parametrize("kind", BROKEN)
def test_reading_a_broken_file_is_a_video_error_and_no_other(folder, tmp_path, kind, decoder):
    with pytest.raises(VideoError) as error:
        read_frames(broken_file(kind, folder, tmp_path), [0, 1], (32, 32), decoder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decoder", [*EACH, "pyav", "auto"])
def test_frame_beyond_the_end_is_an_error_that_names_it(folder, decoder):
    with pytest.raises(VideoError, match=f"frame {FRAMES}"):
        read_frames(folder / "a.mp4", [0, FRAMES], decoder=decoder)


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_frames_that_probe_counts_in_a_cut_off_file_can_be_read(folder, tmp_path, share):
    # Matroska has no index at the end: half a file is a shorter video, and the last packet may be half a packet
    whole = (folder / "a.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: int(len(whole) * share)])
    info = probe(path)
    assert 0 < info.num_frames < FRAMES
    frames, _ = read_frames(path, range(info.num_frames))
    assert len(frames) == info.num_frames
    assert numbers(frames[:3]) == [0, 1, 2]


def test_damage_inside_a_video_never_ends_the_process(folder, tmp_path):
    """Twenty damaged copies: each is read or is a VideoError."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer((folder / "a.mp4").read_bytes(), np.uint8)
    for number in range(20):
        damaged = whole.copy()
        places = rng.integers(40, len(whole), size=40)
        damaged[places] = rng.integers(0, 256, size=40)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged.tobytes())
        for attempt in (lambda p=path: probe(p), lambda p=path: read_frames(p, [0, 15, 29])):
            with contextlib.suppress(VideoError):
                attempt()


# --- files that are odd, not broken ---


def test_single_frame_is_a_video(tmp_path):
    write_video(tmp_path / "one.mp4", counting_frames(1))
    assert probe(tmp_path / "one.mp4").num_frames == 1
    assert read_frames(tmp_path / "one.mp4", [0, 0, 0])[0].shape == (3, HEIGHT, WIDTH, 3)


def test_extension_and_name_do_not_matter(folder, tmp_path):
    path = tmp_path / "滑雪 é 'quoted' #1.avi"
    path.write_bytes((folder / "a.webm").read_bytes())
    assert probe(path).num_frames == FRAMES
    assert numbers(read_frames(path, [4, 9])[0]) == [4, 9]


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_odd_sizes_are_scaled_to_the_requested_size(tmp_path, decoder):
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 53, 37, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((37, 53, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    info = probe(tmp_path / "odd.mkv")
    assert (info.width, info.height) == (53, 37)
    frames, _ = read_frames(tmp_path / "odd.mkv", [0], (46, 32), decoder)
    assert frames.shape == (1, 32, 46, 3)
    np.testing.assert_allclose(frames, 90, atol=3)


@needs("decord")
@pytest.mark.skipif(package("decord") == "decord2", reason="decord2 reads AV1")
def test_what_decord_cannot_open_is_an_error_that_names_it(tmp_path):
    with ordinary_priority():
        write_video(tmp_path / "new.mp4", counting_frames(6), codec="libsvtav1", options={"preset": "12"})  # AV1
    with pytest.raises(VideoError, match="decord"):
        read_frames(tmp_path / "new.mp4", [0], decoder="decord")
    frames, used = read_frames(tmp_path / "new.mp4", [1, 4])
    assert used == "pyav"
    assert numbers(frames) == [1, 4]
    assert probe(tmp_path / "new.mp4").num_frames == 6


@pytest.mark.slow
def test_torch_is_imported_before_decord():
    code = (
        "import sys; from m2clip_lib.data.video.decode import installed_decoders; installed_decoders(); "
        "names = list(sys.modules); assert 'torch' in names; "
        "assert 'decord' not in names or names.index('torch') < names.index('decord')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- pixels that are not square, and several streams ---


def disc(width: int, height: int, aspect: Fraction) -> np.ndarray:
    """A white disc that is round where pixels are `aspect` times as wide as high. (h, w, 3) uint8."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = ((x - width / 2) * float(aspect)) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("suffix", "stored", "aspect", "rotation", "shown"),
    [
        (".mp4", (80, 120), Fraction(2), 0, (160, 120)),
        (".mkv", (80, 120), Fraction(2), 0, (160, 120)),
        (".ts", (320, 120), Fraction(1, 2), 0, (160, 120)),
        (".avi", (180, 144), Fraction(64, 45), 0, (256, 144)),  # a quarter of PAL, shown as 16:9
        (".mkv", (180, 120), Fraction(8, 9), 0, (160, 120)),  # a quarter of NTSC, shown as 4:3
        (".mp4", (160, 120), Fraction(1), 0, (160, 120)),
        (".mp4", (80, 120), Fraction(2), -90, (120, 160)),
        (".mkv", (320, 120), Fraction(1, 2), 90, (120, 160)),
    ],
)
def test_a_disc_is_round_at_every_size_and_in_every_way_of_reading(tmp_path, suffix, stored, aspect, rotation, shown):
    path = tmp_path / "videos" / f"a{suffix}"
    path.parent.mkdir()
    codec = {"codec": "mpeg4", "options": {"q": "2"}} if suffix == ".avi" else {}
    encode(path, [disc(*stored, aspect)] * 3, aspect=aspect, rotation=rotation, **codec)
    info = probe(path)
    assert (info.width, info.height) == shown
    row = pd.DataFrame([{"path": str(path), **asdict(info)}])
    size = fit_short_side(*shown, 60)
    found = {
        "at its size": read_frames(path, [1])[0][0],
        "resized": VideoReader(row, "auto")(0, [1], 60)[0][0],
        "from the cache": cached_reader(row, tmp_path / "cache", 60, "auto", 1)(0, [1], 60)[0][0],
    }
    transcode_file(path, tmp_path / "copy.mp4")
    copy = probe(tmp_path / "copy.mp4")
    assert (copy.width, copy.height) == shown
    found["copy"] = read_frames(tmp_path / "copy.mp4", [1], size)[0][0]
    for frame in found.values():
        assert frame.shape[1::-1] in (size, shown)
        white = frame.mean(axis=2) > 128
        across, down = white.any(axis=0).sum(), white.any(axis=1).sum()
        assert across == pytest.approx(down, abs=2)
        assert down == pytest.approx(2 / 3 * min(frame.shape[:2]), abs=2)
    assert np.array_equal(found["resized"], found["from the cache"])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
@pytest.mark.parametrize("stills", [1, 3])
def test_a_still_in_front_of_the_video_is_not_the_video(tmp_path, suffix, stills):
    """Phones and downloaders put a preview first, and not all mark it as one."""
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as output:
        cover, stream = output.add_stream("mjpeg", rate=FPS), output.add_stream("mpeg4", rate=FPS)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", {"q": "2", "g": "6"}
        for _ in range(stills):
            output.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")))
        for frame in [*(av.VideoFrame.from_ndarray(f, format="rgb24") for f in counting_frames(12)), None]:
            output.mux(stream.encode(frame))
        output.mux(cover.encode())
    info = probe(path)
    assert (info.num_frames, info.codec, info.width, info.height) == (12, "mpeg4", WIDTH, HEIGHT)
    assert numbers(read_frames(path, [2, 7, 11])[0]) == [2, 7, 11]
    transcode_file(path, tmp_path / "copy.mp4")
    assert numbers(read_frames(tmp_path / "copy.mp4", range(12))[0]) == list(range(12))
