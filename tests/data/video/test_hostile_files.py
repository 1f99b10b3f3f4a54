"""A dataset of files that are odd or broken in every common way: each gets the right status; the rest is used to train and evaluate."""

import gc
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import odd_videos
import pandas as pd
import pytest
from numbered_videos import HEIGHT, WIDTH, encode, grainy, numbers
from odd_videos import ALL, CORPUS
from other_decoders import EACH, ERRORS, OTHER_FRAMES, package

from m2clip_lib import cli, paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.dataset import VideoReader
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.scan import scan
from m2clip_lib.data.video.container import VideoError, open_video, packets, video_stream
from m2clip_lib.data.video.decode import installed_decoders, read_frames
from m2clip_lib.data.video.probe import decodable_frames, probe
from m2clip_lib.train.loop import train

CUT = "cannot be opened"
REASONS = {  # what prepare says of files without one decodable frame; all others are ok
    "zero bytes.mp4": "empty file",
    "text.mp4": CUT,
    "playlist.mp4": CUT,
    "noise.mp4": CUT,
    "folder.mp4": "not a file but a folder",
    "dangling link.mp4": "missing (dangling link)",
    "link to itself.mp4": "missing (dangling link)",
    "endless.mp4": "not a regular file",
    "pipe.mp4": "not a regular file",
    "audio only.mp4": "no video stream",
    "music with cover.mp4": "no video stream",
    "cut at 10 %.mp4": CUT,
    "cut at 50 %.mp4": CUT,
    "cut at 90 %.mp4": CUT,
    "no such file.mp4": "missing",
}
OK = [name for name in CORPUS if name not in REASONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    odd_videos.make(root)
    return root


@pytest.fixture(scope="module")
def table(folder, tmp_path_factory) -> pd.DataFrame:
    """The corpus, and a file that is not there, as prepare sees them. Row n is name n."""
    rows = [(folder / name, 0, "train") for name in [*CORPUS, "no such file.mp4"]]
    table = scan(Listing(rows, ["a"]), 1, tmp_path_factory.mktemp("journal"), report=lambda line: None)
    return table.set_index(pd.Index([path.name for path, _, _ in rows]))


def test_every_file_gets_its_status_and_its_number_of_frames(table):
    outcomes = {name: row.num_frames if row.status == "ok" else row.status.split(":")[0] for name, row in table.iterrows()}
    assert outcomes == {name: len(shown) for name, (_, shown) in CORPUS.items()} | REASONS
    assert not table.status.str.contains("\n").any()


@pytest.mark.parametrize("name", OK)
def test_every_counted_frame_is_the_right_one_alone_and_in_a_row(table, name):
    shown = CORPUS[name][1]
    reader = VideoReader(table.loc[[name]], "auto")
    assert numbers(reader(0, ALL[: len(shown)], None)[0]) == shown
    assert [numbers(reader(0, [index], 64)[0])[0] for index in range(len(shown))] == shown
    backwards_pairs = [[index, len(shown) - 1] for index in range(len(shown) - 1, -1, -1)]
    assert [numbers(reader(0, pair, 64)[0]) for pair in backwards_pairs] == [[shown[a], shown[b]] for a, b in backwards_pairs]


@pytest.mark.parametrize("decoder", EACH)
def test_the_files_that_other_decoders_read_rightly_are_known(table, decoder):
    """At twice their size, since decord fails at a few small widths."""

    def outcome(row: pd.Series, shown: list[int]) -> str:
        found, places = set(), range(len(shown))
        for chosen in [places, *([place] for place in {*places[3::4], places[-1]})]:
            try:
                frames, _ = read_frames(row.path, chosen, (2 * row.width, 2 * row.height), decoder)
                found.add("right" if numbers(frames) == [shown[place] for place in chosen] else "other frames")
            except VideoError:
                found.add("error")
        return min(found, key=["other frames", "error", "right"].index)

    expected = dict.fromkeys(OK, "right") | dict.fromkeys(ERRORS[package(decoder)], "error")
    expected |= dict.fromkeys(OTHER_FRAMES[package(decoder)], "other frames")
    assert {name: outcome(table.loc[name], CORPUS[name][1]) for name in OK} == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems set priorities otherwise")
def test_making_the_files_leaves_this_process_at_ordinary_priority(tmp_path):
    """SVT-AV1 makes its caller a real-time thread when it runs as root: two such processes once brought CI to a standstill."""
    CORPUS["av1.mp4"][0](tmp_path / "av1.mp4")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_sizes_are_those_of_the_upright_picture(table):
    sizes = table[["width", "height"]].apply(tuple, axis=1)
    odd = {"odd width.mkv": (53, 37), "odd width, lossless.mkv": (53, 37), "16 x 16.mp4": (16, 16), "4000 wide.mp4": (4000, 64)}
    assert sizes[OK].to_dict() == {name: odd.get(name, (WIDTH, HEIGHT)) for name in OK}


@pytest.mark.parametrize(("suffix", "settings"), [(".webm", odd_videos.VP9), (".webm", odd_videos.VP8), (".mkv", {})])
def test_a_file_cut_within_its_last_bytes_shows_the_right_frames(tmp_path, suffix, settings):
    """All frames are there, the index is not."""
    path = tmp_path / f"cut{suffix}"
    encode(path, grainy(), **settings)
    data = path.read_bytes()
    for lost in (1, 4, 22, 40):
        path.write_bytes(data[:-lost])
        info = probe(path)
        assert [numbers(read_frames(path, [index])[0])[0] for index in range(info.num_frames)] == ALL


@pytest.mark.parametrize("lost", [range(12, 24), range(9, 12), range(10, 11)], ids=["the end", "a group", "one frame"])
@pytest.mark.parametrize(("suffix", "settings"), [(".mp4", {}), (".mkv", {}), (".webm", odd_videos.VP9), (".mp4", odd_videos.HEVC)])
def test_packets_of_zeros_are_not_counted_as_frames(tmp_path, suffix, settings, lost):
    """A download whose space was reserved before it broke off: header and index are whole, the pictures are not."""
    path = tmp_path / f"holes{suffix}"
    encode(path, grainy(), **settings)
    with open_video(path) as container:
        places = [(packet.pos, packet.size) for packet in packets(container, video_stream(container)) if packet.size]
    data = bytearray(path.read_bytes())
    for number in lost:
        place, size = places[number]
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    info = probe(path)
    with open_video(path) as container:
        decodable = [f.to_ndarray(format="rgb24") for f in decodable_frames(container, video_stream(container))]
    assert info.num_frames == len(decodable) < len(ALL)
    for known in (info.num_frames, None):
        frames = [read_frames(path, [index], num_frames=known)[0] for index in range(info.num_frames)]
        assert numbers(np.concatenate(frames)) == numbers(np.stack(decodable))


def test_a_relative_name_with_a_colon_is_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)  # "clip:" looks like a protocol
    for decoder in installed_decoders():
        frames, used = read_frames("clip: one.mp4", [5, 9], (192, 128), decoder)
        assert (numbers(frames), used) == ([5, 9], decoder)


def test_table_in_the_documentation_says_the_same():
    """data/README.md lists what prepare says about odd files, one row per outcome, and what other decoders do, one row each."""
    lines = (paths.ROOT / "data" / "README.md").read_text(encoding="utf-8").partition("## What prepare says")[2].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    said = {name: outcome for names, outcome in rows for name in re.findall("`([^`]+)`", names)}
    counts = {name.replace("\n", "\\n"): len(shown) for name, (_, shown) in CORPUS.items()}
    assert said == {name: f"ok, {count} frame{'s' * (count != 1)}" for name, count in counts.items()} | REASONS
    others = [line.split(" | ") for line in lines if re.match(r"\| \w+ [\d.]+ \|", line)]
    listed = {row[0].split()[1]: [set(re.findall("`([^`]+)`", cell)) for cell in row[1:]] for row in others}
    assert listed == {name: [OTHER_FRAMES[name], ERRORS[name]] for name in ERRORS}


# --- the commands, on all of it ---


@pytest.fixture
def dataset(folder, workspace) -> Path:
    """root/<train, val, test>/<two classes>/<the corpus>: every odd file is in every split, which takes data.trust_list."""
    root = workspace / "hostile"
    for split in ("train", "val", "test"):
        for number, name in enumerate(CORPUS):
            place = root / split / ("left", "right")[number % 2] / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if name in ("folder.mp4", "pipe.mp4"):
                CORPUS[name][0](place)
            else:
                shutil.copy(folder / name, place, follow_symlinks=name == "link.mp4")
    return root


def command(capsys, *arguments: object) -> str:
    """Returns: what it printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert not caught.value.code, err
    return out


def test_prepare_training_and_evaluation_finish_and_count_what_failed(dataset, capsys):
    """Opens 250 files, trains and evaluates on the readable ones: about 15 s."""
    bad = len(CORPUS) - len(OK)
    out = command(capsys, "prepare", "folder", "--folder", dataset, "-o", "data.trust_list=true")
    assert f"{3 * len(OK)} videos ok, {3 * bad} not usable" in out
    experiment = load_experiment("folder", [f"data.root={dataset}"])
    counts = load_manifest(experiment).summary().loc["train"]
    assert counts.to_dict() == {"listed": len(CORPUS), "ok": len(OK), "missing": 2, "unreadable": bad - 2}
    unreadable = pd.read_csv(experiment.prepared / "unreadable.csv")
    assert unreadable.status.str.startswith("missing").sum() == 6
    assert len(unreadable) == 3 * bad

    # since then one file has gone, and one was overwritten
    for split in ("train", "test"):
        next((dataset / split).glob("*/plain.mp4")).unlink()
        next((dataset / split).glob("*/vp9.webm")).write_text("gone")
    at_root = ["-o", f"data.root={dataset}"]
    out = command(capsys, "train", "folder", *at_root)
    assert f"{len(OK)} videos, 2 classes" in out
    assert "  2 videos skipped" in out
    assert "videos were read by: " in (out := command(capsys, "eval", "folder", *at_root))
    assert "; 2 could not be read" in out
    accuracy = pd.read_csv(paths.RESULTS / "folder" / "tables" / "accuracy.csv")
    assert set(accuracy.videos) == {len(OK) - 2}
    assert set(accuracy.failed) == {2}
    failed = json.loads((paths.RESULTS / "folder" / "predictions" / "test.json").read_text())["failed"]
    assert {Path(row["path"]).name: row["reason"].split(":")[0] for row in failed} == {
        "plain.mp4": "cannot be decoded",
        "vp9.webm": "cannot be decoded",
    }


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_from_epoch_to_epoch(dataset, capsys):
    """Four epochs over every readable odd file, in this process: about 13 s. The first two also load what is loaded once."""
    command(capsys, "prepare", "folder", "--folder", dataset, "-o", "data.trust_list=true")
    experiment = load_experiment("folder", [f"data.root={dataset}", "train.epochs=4"])
    after_epoch: list[float] = []
    train(experiment, load_manifest(experiment), "memory", lambda line: line.startswith("epoch") and after_epoch.append(resident_mb()))
    assert len(after_epoch) == 4
    assert after_epoch[3] - after_epoch[1] < 5, after_epoch  # MB; 0.5 was measured, 8.5 where the frames of each clip are kept
