"""Fast copies: the same frames under the same numbers, in files that seek well; stopping at any moment never leaves half a file."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import odd_videos
import pandas as pd
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numbered_videos import FPS, FRAMES, encode, numbers, picture, pictures
from odd_videos import CORPUS

from m2clip_lib import cli, paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.manifest import write_manifest
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.data.scan import scan
from m2clip_lib.data.video.container import open_video, read_frame_table, video_stream
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import VideoError, probe
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.video.transcode import copy_path, transcode, transcode_file
from m2clip_lib.errors import UserError

OK = [name for name, (_, shown) in CORPUS.items() if shown]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    odd_videos.make(root)
    return root


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def make_dataset(root: Path, count: int, classes: tuple[str, ...] = ("left", "right")) -> Path:
    """root/<class>/<number>.mp4, small files that differ."""
    for number in range(count):
        path = root / classes[number % len(classes)] / f"{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, pictures(6 + number, 64, 48))
    return root


def manifest_of(root: Path, folder: Path):
    rows = [(path, 0, "train") for path in sorted(root.rglob("*.*"))]
    return write_manifest(scan(Listing(rows, ["a"]), 1, folder), ["a"], folder, root, "")


# --- one file ---


@pytest.mark.parametrize("name", OK)
def test_frame_n_of_the_copy_is_frame_n_of_the_original(corpus, tmp_path, name):
    shown, copy = CORPUS[name][1], tmp_path / "copy.mp4"
    assert transcode_file(corpus / name, copy) == len(shown)
    info = probe(copy)
    assert (info.num_frames, info.codec) == (len(shown), "h264")
    frames, used = read_frames(copy, range(len(shown)), decoder="pyav")
    assert used == "pyav"  # by seeking
    assert numbers(frames) == shown
    assert [numbers(read_frames(copy, [index])[0])[0] for index in range(len(shown))] == shown


@pytest.mark.parametrize("name", ["plain.mp4", "uneven frame rate.mkv", "mpeg4.avi", "open GOP, pyramid.mp4"])
def test_copy_has_a_keyframe_exactly_every_twelve_frames(corpus, tmp_path, name):
    transcode_file(corpus / name, tmp_path / "copy.mp4")
    with open_video(tmp_path / "copy.mp4") as container:
        table = read_frame_table(container, video_stream(container))
    assert table.keys == list(range(0, FRAMES, 12))
    assert table.seekable


def test_a_cut_of_the_scene_makes_no_other_keyframe(tmp_path):
    frames = [np.full((48, 64, 3), 230 * (number // 5 % 2), np.uint8) for number in range(30)]
    encode(tmp_path / "cuts.mp4", frames)
    transcode_file(tmp_path / "cuts.mp4", tmp_path / "copy.mp4")
    with open_video(tmp_path / "copy.mp4") as container:
        assert read_frame_table(container, video_stream(container)).keys == [0, 12, 24]


@pytest.mark.parametrize(
    ("name", "end"),
    [("uneven frame rate.mkv", 1.888), ("uneven frame rate.webm", 1.888), ("starts late.mkv", 0.96)]
    + [(f"joined.{suffix}", 0.96) for suffix in ("ts", "mpg", "mkv")]
    + [("h264.avi", 0.96), ("mpeg4.avi", 0.96)],
)
def test_times_of_the_frames_are_kept(corpus, tmp_path, name, end):
    transcode_file(corpus / name, tmp_path / "copy.mp4")
    original, copy = (frame_times(probe(path).times) for path in (corpus / name, tmp_path / "copy.mp4"))
    np.testing.assert_allclose(copy, original, atol=1e-3)
    assert copy[-1] == pytest.approx(end, abs=2e-3)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((400, 300), (340, 256)), ((300, 400), (256, 340)), ((90, 60), (90, 60)), ((53, 37), (52, 36)), ((256, 256), (256, 256))],
)
def test_short_side_is_256_or_what_it_was_and_sides_are_even(tmp_path, size, fitted):
    # 400 * 256 / 300 = 341.3, rounded to 341, made even by leaving one out
    encode(tmp_path / "a.mkv", pictures(2, *size), pixels="yuv444p")
    transcode_file(tmp_path / "a.mkv", tmp_path / "copy.mp4")
    info = probe(tmp_path / "copy.mp4")
    assert (info.width, info.height) == fitted


PATCHES = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240), (5, 5, 5)]


def patches(frame: np.ndarray) -> np.ndarray:
    """The colour in the middle of each of five columns, (5, 3)."""
    height, width = frame.shape[:2]
    return frame[height // 2, [int(width * (i + 0.5) / len(PATCHES)) for i in range(len(PATCHES))]].astype(int)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "matrix", "levels"),
    [
        (".mp4", "libx264", "yuv420p", None, None),
        (".mp4", "libx264", "yuv420p", Colorspace.ITU709, None),
        (".mp4", "libx264", "yuv420p", None, ColorRange.JPEG),
        (".mp4", "libx264", "yuv420p", Colorspace.ITU709, ColorRange.JPEG),
        (".avi", "mjpeg", "yuvj420p", None, None),
        (".mov", "qtrle", "argb", None, None),
    ],
    ids=["plain", "BT.709", "full range", "BT.709, full range", "mjpeg", "rgb"],
)
def test_colours_of_the_copy_are_those_of_the_original(tmp_path, suffix, codec, pixels, matrix, levels):
    drawn = np.repeat(np.repeat(np.array(PATCHES, np.uint8)[None], 64, axis=0), 40, axis=1)
    with av.open(str(tmp_path / f"a{suffix}"), "w") as output:
        stream = output.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 200, 64, pixels
        if codec == "libx264":
            stream.options = {"crf": "4", "preset": "ultrafast", "threads": "1"}
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if levels is not None:
            stream.codec_context.color_range = levels
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            output.mux(stream.encode(frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=levels)))
        output.mux(stream.encode())
    transcode_file(tmp_path / f"a{suffix}", tmp_path / "copy.mp4")
    original = patches(read_frames(tmp_path / f"a{suffix}", [2], decoder="pyav")[0][0])
    np.testing.assert_allclose(original, PATCHES, atol=8)
    for decoder in ("pyav", "auto"):
        np.testing.assert_allclose(patches(read_frames(tmp_path / "copy.mp4", [2], decoder=decoder)[0][0]), original, atol=5)


@pytest.mark.parametrize("letter", ["x", "é", "滑"])
def test_a_name_that_leaves_no_room_for_a_temporary_file_is_shortened(tmp_path, letter):
    long = tmp_path / "in" / "a" / (letter * (246 // len(letter.encode())) + ".mp4")
    long.parent.mkdir(parents=True)
    encode(long, pictures(2))
    copy = copy_path(str(long), tmp_path / "in", tmp_path / "out")
    assert transcode_file(long, copy) == 2
    assert copy.parent == tmp_path / "out" / "videos" / "a"
    assert copy != copy_path(str(long.with_name(letter * 80 + ".mp4")), tmp_path / "in", tmp_path / "out")


def test_sound_is_left_out(tmp_path):
    with av.open(str(tmp_path / "talk.mp4"), "w") as output:
        sound, stream = output.add_stream("aac", rate=16000), output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(6):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        output.mux(sound.encode(frame))
        for each in (stream, sound):
            output.mux(each.encode(None))
    transcode_file(tmp_path / "talk.mp4", tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert numbers(read_frames(tmp_path / "copy.mp4", range(6))[0]) == list(range(6))


@pytest.mark.parametrize("name", ["text.mp4", "audio only.mp4", "cut at 50 %.mp4", "no such file.mp4"])
def test_failure_is_a_reason_and_leaves_no_file(corpus, tmp_path, name):
    with pytest.raises(VideoError, match=r"cannot be encoded|no video stream"):
        transcode_file(corpus / name, tmp_path / "copy.mp4")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_message_about_the_disk_not_about_the_video(corpus, tmp_path, monkeypatch):
    opened = av.open
    monkeypatch.setattr(av, "open", lambda file, *mode, **options: opened("/dev/full" if mode else file, *mode, **options))
    with pytest.raises(UserError, match="the disk is full"):
        transcode_file(corpus / "plain.mp4", tmp_path / "copy.mp4")


def test_copies_keep_their_place_and_two_never_share_one():
    root, folder = Path("/videos"), Path("/fast")
    assert copy_path("/videos/a/1.avi", root, folder) == Path("/fast/videos/a/1.avi.mp4")
    assert copy_path("/videos/a/1.mp4", root, folder) == Path("/fast/videos/a/1.mp4.mp4")
    outside = {copy_path(path, root, folder) for path in ("/other/1.mp4", "/third/1.mp4", "/videos/../other/1.mp4")}
    assert len(outside) == 3
    assert all(path.is_relative_to(folder / "videos") for path in outside)


# --- a dataset ---


def test_rows_describe_the_copies_and_keep_the_reasons(tmp_path):
    root = make_dataset(tmp_path / "videos", 2)
    (root / "left" / "text.mp4").write_text("no")
    originals = manifest_of(root, tmp_path / "prepared")
    gone = Path(originals.table.path[2])
    assert gone.name == "01.mp4"
    gone.unlink()
    table = transcode(originals, root, tmp_path / "fast", 1, 60, lambda line: None)
    assert table.path.tolist() == [str(copy_path(path, root, tmp_path / "fast")) for path in originals.table.path]
    assert table.status.tolist() == [
        "ok",
        "cannot be opened: Invalid data found when processing input",
        "transcode: No such file or directory",
    ]
    assert table.num_frames.tolist() == [6, 0, 0]
    assert table[["label", "split"]].equals(originals.table[["label", "split"]])
    assert probe(table.path[0]).num_frames == 6


def test_cost_and_gain_are_reported_before_the_bulk_and_finished_work_is_not_repeated(tmp_path):
    root = make_dataset(tmp_path / "videos", 12)
    originals = manifest_of(root, tmp_path / "prepared")
    videos, done_when_said, lines = tmp_path / "fast" / "videos", [], []

    def report(line: str) -> None:
        lines.append(line)
        done_when_said.append(len(list(videos.rglob("*.mp4"))))

    first = transcode(originals, root, tmp_path / "fast", 1, 60, report)
    assert len(lines) == 1
    assert lines[0].startswith("transcode: 6 more videos take about ")
    assert "times as fast" in lines[0]
    assert done_when_said == [6]
    times = {path: path.stat().st_mtime_ns for path in videos.rglob("*.mp4")}
    assert len(times) == 12
    victim = sorted(times)[0]
    victim.unlink()
    second = transcode(originals, root, tmp_path / "fast", 1, 60, report)
    assert lines[1:] == ["transcode: 11 files are done or not usable, 1 are to be done"]
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == {victim}
    pd.testing.assert_frame_equal(first, second)


def test_full_disk_stops_it_before_it_starts_and_before_the_bulk(tmp_path, monkeypatch):
    root = make_dataset(tmp_path / "videos", 10)
    originals = manifest_of(root, tmp_path / "prepared")
    usage = namedtuple("usage", "total used free")
    size = sum(path.stat().st_size for path in root.rglob("*.mp4"))
    for free, copies in ((10, 0), (size, 5)):
        looks = iter([size * (free > 10)])  # bytes that are free at the first look; later none
        monkeypatch.setattr(shutil, "disk_usage", lambda place, looks=looks: usage(0, 0, next(looks, 10)))
        with pytest.raises(UserError, match=r"transcode: needs about .* free some space"):
            transcode(originals, root, tmp_path / "fast", 1, 60, lambda line: None)
        assert len(list((tmp_path / "fast").rglob("*.mp4"))) == copies


def test_video_that_takes_too_long_gets_a_status_and_leaves_no_file(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    encode(root / "long.mp4", pictures(64, 640, 480) * 4)
    originals = manifest_of(root, tmp_path / "prepared")
    originals.table["duration_s"] = 0.0
    table = transcode(originals, root, tmp_path / "fast", 1, 0.2, lambda line: None)
    assert table.status.tolist() == ["transcode: took more than 0.2 s"]
    assert [path for path in (tmp_path / "fast").rglob("*.*") if path.parent.name == "videos"] == []


@pytest.mark.slow
def test_work_that_is_killed_is_continued(workspace):
    """A separate process, killed once the first copies exist: about 10 s."""
    root = make_dataset(workspace / "many", 20)
    folder = workspace / "prepared"
    overrides = [f"data.root={root}", f"data.prepared={folder}", "data.transcode=true"]
    command = [sys.executable, "-m", "m2clip_lib", "prepare", "folder", *[word for o in overrides for word in ("-o", o)]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    videos = folder / "transcoded" / "videos"
    while process.poll() is None and len(list(videos.rglob("*.mp4.mp4"))) < 10:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # children too, in the middle of a file
    process.communicate(timeout=60)
    (videos / "left" / ".00.mp4.mp4.77.tmp").write_bytes(b"half")  # had it been killed in that one
    (videos / "left" / "00.mp4.mp4").unlink()
    lines: list[str] = []
    manifest = prepare_data(load_experiment("folder", overrides), lines.append)
    assert (manifest.table.status == "ok").all()
    assert len(manifest.table) == 20
    assert any("files are done or not usable" in line for line in lines)
    assert unfinished(videos) == []
    assert sorted(manifest.table.path) == sorted(str(path) for path in videos.rglob("*.mp4"))


def test_copies_are_made_again_when_an_original_changes_or_a_copy_is_deleted(workspace):
    root = make_dataset(workspace / "few", 4)
    experiment = load_experiment("folder", [f"data.root={root}", "data.transcode=true"])
    first = prepare_data(experiment, lambda line: None)
    lines: list[str] = []
    prepare_data(experiment, lines.append)
    assert [line.split(":")[0] for line in lines if "up to date" in line] == ["manifest", "transcode"]
    assert not [line for line in lines if "more videos" in line or "opening" in line]
    changed = root / "left" / "00.mp4"
    encode(changed, pictures(6, 64, 48)[::-1])  # as many frames as before
    second = prepare_data(experiment, lambda line: None)
    copy = next(path for path in second.table.path if path.endswith("left/00.mp4.mp4"))
    assert numbers(read_frames(copy, range(6))[0]) == [5, 4, 3, 2, 1, 0]
    Path(copy).unlink()
    assert (prepare_data(experiment, lambda line: None).table.status == "ok").all()
    assert Path(copy).is_file()
    assert first.class_names == second.class_names


def test_prepare_train_and_eval_work_on_copies(workspace, video_folder, capsys):
    """The three commands in this process: about 10 s."""

    def command(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert not caught.value.code, err
        return out

    out = command("prepare", "folder", "--transcode")
    assert "next: m2clip train folder -o data.transcode=true" in out
    manifest = load_manifest(load_experiment("folder", ["data.transcode=true"]))
    assert set(manifest.table.codec) == {"h264"}
    assert all("transcoded" in path for path in manifest.table.path)
    assert "skipped" not in command("train", "folder", "-o", "data.transcode=true")
    command("eval", "folder", "-o", "data.transcode=true")
    accuracy = pd.read_csv(paths.RESULTS / "folder" / "tables" / "accuracy.csv")
    assert accuracy.failed.tolist() == [0, 0, 0]
    originals = load_manifest(load_experiment("folder"))
    assert originals.table.num_frames.tolist() == manifest.table.num_frames.tolist()
    assert originals.class_names == manifest.class_names
