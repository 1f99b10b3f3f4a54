"""Annotation rows: which videos and segments they list, with which labels; which frames a segment holds; and which rows are refused."""

import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from m2clip_lib.config import load_experiment
from m2clip_lib.data.dataset import VideoReader
from m2clip_lib.data.listing.checks import check_labels_in_paths, check_leaks
from m2clip_lib.data.listing.corrections import Correction, correct
from m2clip_lib.data.listing.segments import list_annotations
from m2clip_lib.data.manifest import listing_sha256, read_manifest
from m2clip_lib.data.prepare import classes_without, prepare_data
from m2clip_lib.data.scan import scan, with_segments
from m2clip_lib.data.video.cache import cached_reader
from m2clip_lib.data.video.probe import EMPTY
from m2clip_lib.errors import UserError


@pytest.fixture
def listed(tmp_path):
    """Write annotation files, split -> text, and list them; paths are below tmp_path."""

    def write_and_list(class_names=(), **texts: str):
        files = {split: tmp_path / f"{split}.csv" for split in texts}
        for split, text in texts.items():
            files[split].write_text(text, encoding="utf-8")
        return list_annotations(tmp_path, files, class_names)

    return write_and_list


def test_rows_with_one_path_and_times_are_several_labels_of_one_video_or_segment(listed, tmp_path):
    text = "path,label,start,end\na.mp4,run,,\na.mp4,jump,,\na.mp4,run,0,2\na.mp4,jump,1.5,3\na.mp4,fall,1.50,3.0\nb.mp4,run\n"
    listing = listed(train=text, val="label;path\nfall;c d.mp4\n")
    assert listing.class_names == ["fall", "jump", "run"]
    a, b, c = (tmp_path / name for name in ("a.mp4", "b.mp4", "c d.mp4"))
    assert listing.rows == [(a, 1, "train"), (a, 2, "train"), (a, 0, "train"), (b, 2, "train"), (c, 0, "val")]
    assert listing.labels == ((1, 2), (2,), (0, 1), (2,), (0,))
    assert listing.spans == (None, (0.0, 2.0), (1.5, 3.0), None, None)
    assert listing.notes == ()


def test_a_names_file_decides_the_order_and_a_repeated_row_counts_once(listed):
    listing = listed(["run", "jump", "rest"], train="path,label\na.mp4,Jump\na.mp4,run\na.mp4,run\n")
    assert (listing.class_names, listing.labels) == (["run", "jump", "rest"], ((0, 1),))
    assert listing.notes == ("lists: 1 lines repeat a label; each counts once",)


def test_labels_of_one_video_under_several_paths_are_of_one_row(listed, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    paths = ["a.mp4", "./a.mp4", f"{tmp_path}/a.mp4", f"../{tmp_path.name}/a.mp4", "link.mp4"]
    listing = listed(train="path,label\n" + "".join(f"{path},{label}\n" for path, label in zip(paths, "abcde", strict=True)))
    assert listing.rows == [(tmp_path / "a.mp4", 0, "train")]
    assert listing.labels == ((0, 1, 2, 3, 4),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4,run,5,3", r"train.csv:3: the segment ends at 3 s, which is not after its start at 5 s"),
        ("a.mp4,run,3,3", r"not after its start"),
        ("a.mp4,run,x,3", r"train.csv:3: start 'x', end '3': expected seconds"),
        ("a.mp4,run,1,", r"start '1', end '': expected seconds from the start of the video, or neither"),
        ("a.mp4,run,-1,2", r"expected seconds"),
        ("a.mp4,run,nan,2", r"expected seconds"),
        ("a.mp4,run,0,inf", r"expected seconds"),
        ("a.mp4,swim,0,1", r"train.csv:3: 'swim' is not one of the 2 classes of data.names_file"),
        ("a.mp4,,0,1", r"train.csv:3: 'a.mp4,,0,1': expected path, label, start, end"),
        (",run,0,1", r"expected path, label, start, end"),
        ("a.mp4,run,0,1,2", r"expected path, label, start, end"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(listed, line, message):
    with pytest.raises(UserError, match=message):
        listed(["run", "jump"], train=f"path,label,start,end\na.mp4,jump,0,1\n{line}\n")


@pytest.mark.parametrize("head", ["", "a.mp4,run", "path,label,start", "path,label,frames", "path label", "path,path"])
def test_another_header_is_refused(listed, head):
    with pytest.raises(UserError, match=re.escape("expected the header path,label or path,label,start,end")):
        listed(train=f"{head}\na.mp4,run\n")


def test_one_class_is_refused(listed):
    with pytest.raises(UserError, match="only one class"):
        listed(train="path,label\na.mp4,run\n")


def table_of(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame([asdict(EMPTY) | {"status": "ok"} | row for row in rows])


def test_a_segment_holds_the_frames_that_begin_within_it(listed):
    # four frames a second: frame i begins at i / 4; the video ends at 3 s
    video = {"num_frames": 12, "duration_s": 3.0, "times": "1/4 12x1"}
    spans = ["0,1", "0.5,1", "0.51,1.01", "0.6,0.7", "2.5,3.4", "2.5,3.6", "3,3.2", ","]
    listing = listed(train="path,label,start,end\n" + "".join(f"a{i}.mp4,c{i},{span}\n" for i, span in enumerate(spans)))
    table = with_segments(table_of(*[video] * len(spans)), listing)
    assert table.start_frame.tolist() == [0, 2, 3, 2, 10, 0, 0, 0]  # 0.6 to 0.7 s: only frame 2 is shown, from 0.5 s on
    assert table.num_frames.tolist() == [4, 2, 2, 1, 2, 0, 0, 12]
    assert table.duration_s.tolist() == pytest.approx([1, 0.5, 0.5, 0.1, 0.5, 0, 0, 3])
    assert table.file_frames.tolist() == [12] * 8
    beyond = "segment 2.5 to 3.6 s: beyond the video's end at 3.00 s"
    assert table.status.tolist() == ["ok"] * 5 + [beyond, "segment 3 to 3.2 s: beyond the video's end at 3.00 s", "ok"]


def test_a_segment_of_a_file_without_times_or_that_cannot_be_read_keeps_a_reason(listed):
    listing = listed(train="path,label,start,end\na.mp4,run,0,1\nb.mp4,jump,0,1\n")
    broken = {"status": "empty file", "num_frames": 0}
    table = with_segments(table_of({"num_frames": 12, "times": "0 12x1"}, broken), listing)
    assert table.status.tolist() == ["the file does not say when its frames are shown: no segment can be cut from it", "empty file"]
    assert table.num_frames.tolist() == [0, 0]


@pytest.fixture
def annotated(workspace, video_folder):
    """Write annotation rows about video_folder (12 frames at 8 a second); returns the overrides that read them."""
    rows = "moving_left/clip 0.mp4,left,0,0.5\nmoving_left/clip 0.mp4,left,0.75,1.5\nmoving_right/clip 1.webm,right,,\n"
    (workspace / "train.csv").write_text(f"path,label,start,end\n{rows}moving_right/clip 1.webm,left,,\n")
    (workspace / "val.csv").write_text("path,label\nmoving_left/clip 4.mp4,left\n")
    lists = [f"data.{split}_list={workspace / split}.csv" for split in ("train", "val")]
    return ["data.layout=annotations", f"data.root={video_folder}", *lists]


def test_annotation_rows_become_a_manifest_that_is_read_back(annotated):
    lines: list[str] = []
    made = prepare_data(load_experiment("folder", annotated), lines.append)
    manifest = read_manifest(made.folder, "")
    assert manifest.several_labels
    assert manifest.class_names == ["left", "right"]
    train = manifest.split("train")
    assert train[["start_frame", "num_frames", "file_frames"]].values.tolist() == [[0, 4, 12], [6, 6, 12], [0, 12, 12]]
    assert manifest.targets("train").tolist() == [[True, False], [True, False], [True, True]]
    assert manifest.by_label()[["label", "class_name"]].values.tolist() == [[0, "left"]] * 3 + [[1, "right"], [0, "left"]]
    assert "up to date" in prepare_again(annotated)[-1]


def prepare_again(overrides: list[str]) -> list[str]:
    lines: list[str] = []
    prepare_data(load_experiment("folder", overrides), lines.append)
    return lines


def test_readers_and_the_frame_cache_read_the_frames_of_the_segment(annotated, tmp_path):
    table = prepare_data(load_experiment("folder", annotated), lambda line: None).split("train")
    plain = table.drop(columns=["start_frame", "file_frames"]).assign(num_frames=12)
    whole, segments = VideoReader(plain, "auto"), VideoReader(table, "auto")
    for indices in ([0, 5], [2, 3]):
        np.testing.assert_array_equal(segments(1, indices, 64)[0], whole(1, [6 + i for i in indices], 64)[0])
    cached = cached_reader(table, tmp_path / "cache", 64, "auto", 1)
    np.testing.assert_array_equal(cached(1, [0, 5], 64)[0], whole(1, [6, 11], 64)[0])
    assert cached_reader(table.assign(start_frame=0), tmp_path / "cache", 64, "auto", 1).file != cached.file


def test_other_segments_or_labels_are_another_dataset(listed):
    texts = ["a.mp4,run,0,1\na.mp4,jump,0,1", "a.mp4,run,0,2\na.mp4,jump,0,2", "a.mp4,run,0,1\nb.mp4,jump,0,1"]
    digests = {listing_sha256(listed(train=f"path,label,start,end\n{text}\n")) for text in texts}
    assert len(digests) == 3


def test_a_video_may_have_several_labels_but_only_one_split(listed, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    check_leaks(listed(train="path,label\na.mp4,run\na.mp4,jump\n", val="path,label\nb.mp4,run\n"))
    with pytest.raises(UserError, match=r"1 of 2 videos are in two splits: a.mp4 in train and val"):
        check_leaks(listed(train="path,label\na.mp4,run\nb.mp4,jump\n", val="path,label,start,end\na.mp4,run,0,1\n"))


def test_a_path_that_carries_any_of_the_labels_agrees(listed):
    listing = listed(train="path,label\nrun/a.mp4,jump\nrun/a.mp4,run\njump/b.mp4,jump\n")
    assert check_labels_in_paths(listing) == 2
    with pytest.raises(UserError, match="have the label of another"):
        check_labels_in_paths(listed(train="path,label\nrun/a.mp4,jump\njump/b.mp4,jump\nx/c.mp4,run\n"))


def test_every_label_of_a_video_counts_as_an_example_of_its_class(listed):
    assert classes_without("train", "training", listed(train="path,label\na.mp4,run\na.mp4,jump\n")) == []


def test_copies_that_load_fast_are_refused(workspace):
    with pytest.raises(UserError, match="transcode copies whole videos"):
        load_experiment("folder", ["data.layout=annotations", "data.transcode=true"])


def test_rows_of_a_missing_file_are_rows_with_that_reason(listed, tmp_path):
    table = scan(listed(train="path,label,start,end\na.mp4,run,0,1\na.mp4,jump,0,1\n"), 1, tmp_path / "journal")
    assert table.status.tolist() == ["missing"]
    assert table.labels.tolist() == [[0, 1]]


def test_a_video_can_be_ignored_with_all_its_rows_and_is_relabelled_in_its_rows_alone(listed, tmp_path):
    text = "path,label,start,end\na.mp4,run,0,1\nb.mp4,run\nb.mp4,jump\na.mp4,jump,1,2\nc.mp4,jump\n"
    left, before, _ = correct(listed(train=text), {"a.mp4": Correction("a.mp4", "ignore")}, tmp_path)
    assert [path.name for path, _, _ in left.rows] == ["b.mp4", "c.mp4"]
    assert (left.labels, left.spans, before) == (((0, 1), (0,)), (None, None), [0, 0])
    with pytest.raises(UserError, match=r"'a.mp4' is to be relabelled, but its labels are annotation rows"):
        correct(listed(train=text), {"a.mp4": Correction("a.mp4", "relabel", "jump")}, tmp_path)
