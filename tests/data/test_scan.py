"""The scan: it continues after being stopped at any moment, opens only what has changed, and no file holds it up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from numbered_videos import encode, pictures, slow_video

from m2clip_lib.config import load_experiment
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.prepare import prepare_data
from m2clip_lib.data.scan import JOURNAL_FILE, scan


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("one") / "video.mp4"
    encode(path, pictures(6, 32, 32))
    return path


def listing(paths: list[Path]) -> Listing:
    return Listing([(path, 0, "train") for path in paths], ["a"])


def copies(video: Path, folder: Path, count: int) -> list[Path]:
    """Many names of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.mp4" for number in range(count)]
    for path in paths:
        path.hardlink_to(video)
    return paths


def journal_rows(folder: Path) -> list[dict]:
    """Complete lines of a journal."""
    file = folder / JOURNAL_FILE
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}}")]


def test_second_scan_opens_nothing_and_finds_the_same(video, tmp_path):
    paths = copies(video, tmp_path / "videos", 3)
    (tmp_path / "text.mp4").write_text("no")
    lines: list[str] = []
    first, second = (scan(listing([*paths, tmp_path / "text.mp4"]), 2, tmp_path, report=lines.append) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert first.status.tolist() == ["ok", "ok", "ok", "cannot be opened: Invalid data found when processing input"]
    assert len(journal_rows(tmp_path)) == 4
    assert lines == []


def test_only_changed_and_new_files_are_opened(video, tmp_path):
    paths = copies(video, tmp_path / "videos", 3)
    scan(listing(paths), 1, tmp_path)
    paths[1].unlink()
    encode(paths[1], pictures(4, 32, 32))
    encode(tmp_path / "new.mp4", pictures(5, 32, 32))
    lines: list[str] = []
    table = scan(listing([*paths, tmp_path / "new.mp4"]), 1, tmp_path, report=lines.append)
    assert table.num_frames.tolist() == [6, 4, 6, 5]
    assert lines == ["manifest: 2 files are known from before, 2 are to be opened"]
    assert [Path(row["path"]).name for row in journal_rows(tmp_path)[3:]] == ["0001.mp4", "new.mp4"]


def test_deleted_file_is_missing_even_if_the_journal_knows_it(video, tmp_path):
    (path,) = copies(video, tmp_path / "videos", 1)
    scan(listing([path]), 1, tmp_path)
    path.unlink()
    assert scan(listing([path]), 1, tmp_path).status.tolist() == ["missing"]


def test_path_listed_twice_is_opened_once_and_has_two_rows(video, tmp_path):
    rows = [(video, 0, "train"), (video, 1, "val")]
    table = scan(Listing(rows, ["a", "b"]), 2, tmp_path)
    assert table[["label", "class_name", "split", "num_frames"]].values.tolist() == [[0, "a", "train", 6], [1, "b", "val", 6]]
    assert len(journal_rows(tmp_path)) == 1


def test_names_that_no_file_can_have_are_rows(tmp_path):
    table = scan(listing([tmp_path / ("long" * 100 + ".mp4"), tmp_path / "zero\0byte.mp4"]), 1, tmp_path)
    assert table.status.tolist() == ["cannot be opened: File name too long", "missing"]


def test_six_hundred_files_are_opened_in_a_few_seconds(video, tmp_path):
    """The limit catches a loop over all rows for every row."""
    paths = copies(video, tmp_path / "videos", 600)
    start = time.perf_counter()
    table = scan(listing(paths), 2, tmp_path)
    first = time.perf_counter() - start
    assert (table.num_frames == 6).all()
    start = time.perf_counter()
    scan(listing(paths), 2, tmp_path)
    assert time.perf_counter() - start < 2
    assert first < 20


def test_file_that_keeps_the_decoder_busy_gets_a_status_and_is_not_in_the_journal(video, tmp_path):
    slow_video(tmp_path / "slow.mkv", 200)
    files = [tmp_path / "slow.mkv", video]
    table = scan(listing(files), 1, tmp_path, limit_s=0.5)
    assert table.status.tolist() == ["took more than 0.5 s", "ok"]
    assert [row["path"] for row in journal_rows(tmp_path)] == [str(video)]


# --- stopped, and continued ---


def hear_ctrl_c() -> None:
    """Undo that a test run in the background ignores Ctrl-C, as its children then would."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_prepare_continues_where_it_was_stopped(workspace, video, stop):
    """A separate process, stopped once the first files are in its journal: about 5 s."""
    root, folder = workspace / "many", workspace / "prepared"
    for name in ("left", "right"):
        copies(video, root / name, 150)
    overrides = [f"data.root={root}", f"data.prepared={folder}"]
    command = [sys.executable, "-m", "m2clip_lib", "prepare", "folder", *[word for o in overrides for word in ("-o", o)]]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    journal = folder / JOURNAL_FILE
    while process.poll() is None and len(journal_rows(folder)) < 20:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    (os.kill if stop == signal.SIGKILL else os.killpg)(process.pid, stop)  # Ctrl-C reaches the children too
    out, _ = process.communicate(timeout=60)  # returns when the children have closed their end of the pipe as well
    assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130), out
    assert "Traceback" not in out, out
    said = [line.split(":")[0] for line in out.splitlines()]
    assert said[:3] == ["labels", "texts", "manifest"]
    if stop == signal.SIGINT:  # after SIGKILL Python itself reports the semaphores that it cleans up
        assert said[3:] == ["m2clip"]
        assert out.endswith("m2clip: interrupted\n")
    done = len(journal_rows(folder))
    assert 20 <= done < 300
    assert not (folder / "manifest.parquet").exists()

    lines: list[str] = []
    continued = prepare_data(load_experiment("folder", overrides), lines.append)
    assert f"manifest: {done:,} files are known from before, {300 - done:,} are to be opened" in lines
    assert len(journal_rows(folder)) == 300
    assert len({row["path"] for row in journal_rows(folder)}) == 300
    afresh = prepare_data(load_experiment("folder", [overrides[0], f"data.prepared={workspace / 'afresh'}"]), lines.append)
    assert continued.sha256 == afresh.sha256
    pd.testing.assert_frame_equal(continued.table, afresh.table)
    assert journal.is_file()
