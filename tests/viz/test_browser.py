"""The browser's table, filters and orders on a made manifest; its films; what it reads and writes in a trained run."""

import dataclasses
import io
import shutil
from collections.abc import Iterator

import av
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numbered_videos import FRAMES, encode, numbers, pictures

from m2clip_lib import paths
from m2clip_lib.curate.findings import COLUMNS
from m2clip_lib.data.listing.corrections import Correction, read_corrections
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.runs import Run
from m2clip_lib.viz import browser
from m2clip_lib.viz.browser import UNDECIDED, Browser, Filter, captions, chosen, confusions, film, video_table

NAMES = ["up", "down"]
VIDEOS = [  # name, class, split, seconds, status
    ("train/a.mp4", "up", "train", 3.0, "ok"),
    ("test/broken.mp4", "up", "test", 0.0, "missing"),
    ("test/b.mp4", "up", "test", 1.0, "ok"),
    ("test/c.mp4", "down", "test", 2.0, "ok"),
    ("test/d <i>.mp4", "down", "test", 4.0, "ok"),
]


def finding(kind: str, path: str, score: float, other: str = "", suggestion: str = "") -> dict:
    return dict.fromkeys(COLUMNS, "") | {"kind": kind, "path": path, "score": score, "with": other, "suggestion": suggestion}


@pytest.fixture
def table() -> pd.DataFrame:
    """test/b.mp4 is taken for down with 0.9, test/c.mp4 for down with 0.6, test/d <i>.mp4 could not be read."""
    rows = pd.DataFrame(VIDEOS, columns=["path", "class_name", "split", "duration_s", "status"])
    manifest = Manifest(rows.assign(label=rows.class_name.map(NAMES.index), num_frames=8, times="1/8 8x1"), NAMES, paths.DATA, "")
    scores = np.float32([[0.1, 0.9], [0.4, 0.6]])
    found = Predictions(scores, None, np.array([0, 1]), [0, 1], NAMES, failed=[(2, "broken")], protocol=Protocol("test", 4, 0))
    findings = pd.DataFrame(
        [
            finding("leak", "train/a.mp4", 0.9, "test/c.mp4"),
            finding("label", "test/b.mp4", 0.7, suggestion="relabel: down"),
            finding("label", "gone.mp4", 0.8, suggestion="relabel: up"),
            finding("short", "test/d <i>.mp4", 0.5),
        ]
    )
    corrections = {"test/d <i>.mp4": Correction("test/d <i>.mp4", "relabel", "up", "seen")}
    return video_table(manifest, [row[0] for row in VIDEOS], [found], findings, corrections)


def test_the_table_joins_what_is_known_about_each_video(table):
    shown = table.set_index("name")
    assert shown.predicted.tolist() == ["", "", "down", "down", ""]
    assert shown.answer.tolist() == ["", "", "wrong", "right", ""]
    assert shown.confidence.tolist()[2:4] == pytest.approx([0.9, 0.6])
    assert shown.confidence.isna().tolist() == [True, True, False, False, True]
    assert shown.group.dropna().to_dict() == {"train/a.mp4": 1, "test/c.mp4": 1}
    assert shown.likelier.tolist() == ["", "", "down", "", ""]
    assert shown.suspicion.dropna().to_dict() == {"test/b.mp4": 0.7}
    assert shown.loc["test/d <i>.mp4", ["action", "relabel", "note"]].tolist() == ["relabel", "up", "seen"]


def test_a_segment_plays_from_its_start_to_its_end_and_any_of_its_classes_is_right():
    """Two seconds at four frames per second: all of it, and frames 2 to 5."""
    row = {"path": "a.mp4", "class_name": "up", "label": 0, "split": "val", "status": "ok", "times": "1/4 8x1", "file_frames": 8}
    rows = [row | {"labels": [0, 1], "start_frame": 0, "num_frames": 8, "duration_s": 2.0}]
    rows += [row | {"labels": [0], "start_frame": 2, "num_frames": 4, "duration_s": 1.0}]
    scores, targets = np.float32([[0.4, 0.6], [0.4, 0.6]]), np.array([[True, True], [True, False]])
    found = Predictions(scores, None, np.array([0, 0]), [0, 1], NAMES, protocol=Protocol("val", 4, 0), targets=targets)
    manifest = Manifest(pd.DataFrame(rows), NAMES, paths.DATA, "")
    table = video_table(manifest, ["a.mp4"] * 2, [found], pd.DataFrame(columns=list(COLUMNS)), {})
    assert table.classes.tolist() == [("up", "down"), ("up",)]
    assert table.answer.tolist() == ["right", "wrong"]
    assert table.frames.tolist() == [(0, 8), (2, 4)]
    assert table[["start_s", "end_s"]].to_numpy().tolist() == [[0, np.inf], [0.5, 1.5]]
    assert chosen(table, Filter(class_name="down")).index.tolist() == [0]
    assert captions(table.loc[0]) == ["up, down", "right, 60 %"]


CASES = [
    (Filter(), [0, 1, 2, 3, 4]),
    (Filter(class_name="down"), [3, 4]),
    (Filter(split="train"), [0]),
    (Filter(predicted="down"), [2, 3]),
    (Filter(answer="wrong"), [2]),
    (Filter(action="relabel"), [4]),
    (Filter(action=UNDECIDED), [0, 1, 2, 3]),
    (Filter(text="D <I>"), [4]),
    (Filter(confidence=(0.6, 0.8)), [3]),
    (Filter(confidence=(0.0, 0.95)), [2, 3]),  # videos without a confidence are not below 0.95
    (Filter(duration_s=(2.0, 3.0)), [0, 3]),
    (Filter(copies=True), [0, 3]),
    (Filter(suspected=True), [2]),
    (Filter(class_name="down", answer="right"), [3]),
    (Filter(class_name="up", answer="right"), []),
]


@pytest.mark.parametrize(("asked", "rows"), CASES)
def test_a_filter_leaves_the_videos_that_pass_all_of_it(table, asked, rows):
    assert chosen(table, asked).index.tolist() == rows


def test_videos_without_a_value_come_last_in_every_order(table):
    orders = {order: chosen(table, Filter(), order).index.tolist() for order in browser.ORDERS}
    assert orders == {
        "as listed": [0, 1, 2, 3, 4],
        "most suspected first": [2, 0, 1, 3, 4],
        "surest first": [2, 3, 0, 1, 4],
        "least sure first": [3, 2, 0, 1, 4],
        "longest first": [4, 0, 3, 2, 1],
        "shortest first": [1, 2, 3, 0, 4],
        "copies side by side": [0, 3, 1, 2, 4],
    }


def test_confusions_count_the_videos_of_one_split_that_have_a_prediction(table):
    assert confusions(table, "test", NAMES).to_numpy().tolist() == [[0, 1], [0, 1]]
    assert confusions(table, "val", NAMES).to_numpy().tolist() == [[0, 0], [0, 0]]


def test_captions_say_what_is_decided_or_else_suspected(table):
    assert [captions(video) for _, video in table.iterrows()] == [
        ["up"],
        ["up"],
        ["up", "taken for down, 90 %", "rather down?"],
        ["down", "right, 60 %"],
        ["down", "now up"],
    ]


def frames_of(mp4: bytes) -> tuple[np.ndarray, float]:
    with av.open(io.BytesIO(mp4)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), float(stream.average_rate)


def test_a_film_shows_a_stretch_at_its_own_speed(tmp_path):
    encode(tmp_path / "a.mp4", pictures())  # 24 frames, 25 per second
    frames, rate = frames_of(film(tmp_path / "a.mp4")[0])
    assert (numbers(frames), rate) == (list(range(FRAMES)), 25)
    mp4, speed = film(tmp_path / "a.mp4", 0.2, 0.4)
    assert numbers(frames_of(mp4)[0]) == [5, 6, 7, 8, 9]
    assert speed == pytest.approx(1)


def test_a_long_film_is_a_selection_and_says_how_much_faster_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "FILM_FRAMES", 4)
    encode(tmp_path / "a.mp4", pictures())
    mp4, speed = film(tmp_path / "a.mp4")
    frames, rate = frames_of(mp4)
    assert (numbers(frames), rate) == ([0, 8, 15, 23], 8)
    assert speed == pytest.approx(8 * 0.96 / 4)  # 4 frames stand for 0.96 s, and take 0.5 s


def test_a_video_without_times_plays_whole(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4", pictures())
    monkeypatch.setattr(browser, "frame_times", lambda text: np.zeros(FRAMES + 1))
    mp4, speed = film(tmp_path / "a.mp4")
    assert numbers(frames_of(mp4)[0]) == list(range(FRAMES))
    assert speed == 1


def test_a_video_that_cannot_be_played_is_named_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"gone\.mp4: missing"):
        film(tmp_path / "gone.mp4")


pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def opened(trained, workspace) -> Iterator[Browser]:
    """The trained run, with a prepared folder of this test's own."""
    for name in ("results", "checkpoints", "data"):
        shutil.copytree(trained[0] / name, workspace / name, dirs_exist_ok=True)
    yield Browser.open(Run.open("tiny", "", [], step="11_browser"), lambda line: None)
    plt.close("all")


def test_a_trained_run_is_opened_with_predictions_thumbnails_and_corrections(opened, workspace):
    assert len(opened.table) == 48
    assert opened.notes == ["No duplicates or suspected labels are known: run m2clip check tiny."]
    assert (opened.table.predicted != "").sum() == 24  # val and test
    assert all(opened.thumbnail(row)[0].startswith(b"\xff\xd8") for row in range(48))
    name = opened.table.name[3]
    opened.correct(3, "relabel", "growing", " looks\nlike it ")
    read = read_corrections(workspace / "data" / "tiny" / "corrections.csv", opened.root, opened.class_names)
    assert read == {name: Correction(name, "relabel", "growing", "looks like it")}
    assert opened.table.loc[3, ["action", "relabel", "note"]].tolist() == ["relabel", "growing", "looks like it"]
    again = Browser.open(opened.run, lambda line: None)  # before m2clip prepare has applied it
    assert again.table.action[3] == "relabel"
    opened.correct(3, "")
    assert opened.table.action[3] == ""
    assert read_corrections(workspace / "data" / "tiny" / "corrections.csv", opened.root, opened.class_names) == {}
    with pytest.raises(UserError, match="is not one of the 12 classes"):
        opened.correct(3, "relabel", "flying")
    with pytest.raises(UserError, match="annotation rows; correct them in your list"):
        dataclasses.replace(opened, annotated=True).correct(3, "relabel", "growing")


def test_the_map_takes_three_videos(opened, monkeypatch):
    features = np.random.default_rng(0).normal(size=(3, 2, 8))  # videos, frames, channels
    for count in (2, 3):
        videos = pd.DataFrame({"label": [0, 1, 1][:count]})
        monkeypatch.setattr(browser, "all_videos", lambda *given, videos=videos: (videos, features[: len(videos)]))
        if count == 2:
            with pytest.raises(UserError, match="map: 2 videos can be read; it takes three"):
                opened.map()
        else:
            (ax,) = opened.map().axes
            assert sum(len(marks.get_offsets()) for marks in ax.collections) == 3


def test_what_belongs_to_another_list_is_left_out_and_said(opened, monkeypatch):
    load = browser.load_predictions
    monkeypatch.setattr(browser, "load_predictions", lambda *given: dataclasses.replace(load(*given), list_sha256="another"))
    again = Browser.open(opened.run, lambda line: None)
    assert (again.table.predicted == "").all()
    assert [note.split(":")[0] for note in again.notes] == [
        "The predictions for split val were made from another list of videos",
        "The predictions for split test were made from another list of videos",
        "No duplicates or suspected labels are known",
    ]

    for file in opened.run.predictions.iterdir():
        file.unlink()
    assert Browser.open(opened.run, lambda line: None).notes[0].startswith("No predictions are known: evaluate first")


def test_a_page_of_thumbnails_says_how_many_there_are(opened):
    figure = opened.sheet(opened.table, "All videos")
    assert figure.get_suptitle() == "All videos: 24 of 48"
    assert len([ax for ax in figure.axes if ax.images]) == 24
    assert opened.sheet(opened.table.iloc[:0], "None").get_suptitle() == "None: 0 of 0"
