"""The manifest: one row per listed video, what is written is read back, and the same data has the same digest on every machine."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.classes import labels_sha256
from m2clip_lib.data.listing.folders import list_folder
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.manifest import listing_sha256, made_from, read_manifest, write_manifest
from m2clip_lib.data.scan import scan
from m2clip_lib.errors import UserError

COLUMNS = ["path", "label", "class_name", "split", "num_frames", "fps", "duration_s", "width", "height", "codec", "times", "status"]
INFO = {"num_frames": 12, "fps": 8.0, "duration_s": 1.5, "width": 80, "height": 60, "codec": "h264", "times": "1/8 12x1", "status": "ok"}


def table_of(rows: list[tuple]) -> pd.DataFrame:
    """(path, label, class name, split, status) -> a manifest's table."""
    keys = ("path", "label", "class_name", "split", "status")
    return pd.DataFrame([INFO | dict(zip(keys, row, strict=True)) for row in rows])[COLUMNS]


SMALL = [
    ("/v/a 1.mp4", 0, "ski", "train", "ok"),
    ("/v/b.mp4", 1, "滑雪", "train", "empty file"),
    ("/v/c.mp4", 1, "滑雪", "test", "ok"),
    ("/v/d.mp4", 1, "滑雪", "test", "missing"),
]


def test_every_listed_video_becomes_a_row_and_a_broken_one_keeps_its_reason(video_folder, tmp_path):
    good = sorted(video_folder.rglob("clip 0.mp4"))[0]
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    rows = [(good, 0, "train"), (tmp_path / "empty.mp4", 1, "train"), (tmp_path / "text.mp4", 1, "val"), (tmp_path / "gone.mp4", 0, "test")]
    table = scan(Listing(rows, ["a", "b"]), 2, tmp_path / "journal")
    assert list(table.columns) == COLUMNS
    assert table.path.tolist() == [str(path) for path, _, _ in rows]
    assert table.label.tolist() == [0, 1, 1, 0]
    assert table.class_name.tolist() == ["a", "b", "b", "a"]
    assert table.split.tolist() == ["train", "train", "val", "test"]
    assert table.num_frames.tolist() == [12, 0, 0, 0]
    assert (table.width[0], table.height[0], table.codec[0]) == (80, 80, "h264")
    assert table.status[[0, 1, 3]].tolist() == ["ok", "empty file", "missing"]
    assert table.status[2].startswith("cannot be opened")


def test_scan_of_mixed_containers_does_not_depend_on_the_number_of_processes(video_folder, tmp_path):
    listing = list_folder(video_folder)
    one, two = (scan(listing, processes, tmp_path / str(processes)) for processes in (1, 2))
    assert (one.status == "ok").all()
    assert set(one.codec) == {"h264", "vp9", "mpeg4"}
    pd.testing.assert_frame_equal(one, two)


def test_what_is_written_is_read_back(tmp_path):
    table = table_of(SMALL)
    written = write_manifest(table, ["ski", "滑雪"], tmp_path / "m", Path("/v"), made_from="abc")
    read = read_manifest(tmp_path / "m", "a command")
    pd.testing.assert_frame_equal(read.table, table)
    assert (read.class_names, read.sha256, read.folder) == (["ski", "滑雪"], written.sha256, tmp_path / "m")
    assert made_from(tmp_path / "m") == "abc"
    side = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert side["labels_sha256"] == labels_sha256(["ski", "滑雪"])
    assert side["counts"]["train"] == {"listed": 2, "ok": 1, "missing": 0, "unreadable": 1}
    assert side["counts"]["test"] == {"listed": 2, "ok": 1, "missing": 1, "unreadable": 0}
    unreadable = pd.read_csv(tmp_path / "m" / "unreadable.csv")
    assert unreadable.values.tolist() == [["/v/b.mp4", "滑雪", "train", "empty file"], ["/v/d.mp4", "滑雪", "test", "missing"]]


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(names, st.integers(0, 2), st.sampled_from(["train", "val", "test"]), names), min_size=1, max_size=6),
    st.lists(names, min_size=3, max_size=3),
)
def test_strange_names_survive_writing_and_reading(tmp_path_factory, rows, class_names):
    folder = tmp_path_factory.mktemp("m")
    table = table_of([("/v/" + path, label, class_names[label], split, status) for path, label, split, status in rows])
    written = write_manifest(table, class_names, folder, Path("/v"), made_from="")
    read = read_manifest(folder, "a command")
    pd.testing.assert_frame_equal(read.table, table)
    assert (read.class_names, read.sha256) == (class_names, written.sha256)


def test_split_holds_only_the_usable_rows_counted_from_zero(tmp_path):
    manifest = write_manifest(table_of(SMALL), ["ski", "滑雪"], tmp_path, Path("/v"), made_from="")
    assert manifest.split("train").path.tolist() == ["/v/a 1.mp4"]
    assert manifest.split("test").index.tolist() == [0]


def test_split_without_a_usable_video_is_named(tmp_path):
    table = table_of(SMALL).assign(status="empty file")
    manifest = write_manifest(table, ["ski", "滑雪"], tmp_path, Path("/v"), made_from="")
    with pytest.raises(UserError, match=r"no readable video in split 'test'; see unreadable.csv"):
        manifest.split("test")


@pytest.mark.parametrize(
    ("kept", "asked", "message"),
    [
        ("train|val", "test", r"no test split, only train and val; evaluate another one with -o eval.split=val, or add test videos and"),
        ("train|test", "val", r"no val split, only train and test; evaluate another one with -o eval.split=test, or add val videos and"),
        ("train", "test", r"no test split, only train; add test videos and prepare again"),
        ("test", "train", r"no train split, only test; add train videos and prepare again"),
    ],
)
def test_split_that_the_dataset_does_not_have_is_not_called_unreadable(tmp_path, kept, asked, message):
    """Old code: "no readable video in split 'test'; see unreadable.csv", which is empty."""
    rows = table_of(SMALL).iloc[[0] * (1 + kept.count("|"))].assign(split=kept.split("|"))
    manifest = write_manifest(rows, ["ski", "滑雪"], tmp_path, Path("/v"), made_from="")
    with pytest.raises(UserError, match=message):
        manifest.split(asked)


def test_missing_manifest_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="make it with: m2clip prepare mine"):
        read_manifest(tmp_path, "m2clip prepare mine")
    assert made_from(tmp_path) == ""


def test_digest_does_not_depend_on_where_the_root_is(tmp_path):
    digests = set()
    for root in ("/v", "/mnt/other disk"):
        table = table_of([(path.replace("/v", root), *rest) for path, *rest in SMALL])
        digests.add(write_manifest(table, ["ski", "滑雪"], tmp_path / root[1:], Path(root), made_from="").sha256)
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["a label", "a split", "a status", "a length", "a path", "the names", "their order", "one row less"])
def test_digest_sees(change, tmp_path):
    table, class_names = table_of(SMALL), ["ski", "滑雪"]
    before = write_manifest(table.copy(), class_names, tmp_path, Path("/v"), made_from="").sha256
    match change:
        case "a label":
            table.loc[0, "label"] = 1
        case "a split":
            table.loc[0, "split"] = "val"
        case "a status":
            table.loc[1, "status"] = "ok"
        case "a length":
            table.loc[0, "num_frames"] = 13
        case "a path":
            table.loc[0, "path"] = "/v/e.mp4"
        case "the names":
            class_names = ["skiing", "滑雪"]
        case "their order":
            class_names = ["滑雪", "ski"]
        case "one row less":
            table = table.iloc[:3]
    assert write_manifest(table, class_names, tmp_path, Path("/v"), made_from="").sha256 != before


def test_listing_digest_changes_with_new_deleted_and_replaced_videos(video_folder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(video_folder, root)
    first = listing_sha256(list_folder(root))
    assert listing_sha256(list_folder(root)) == first
    video = sorted(root.rglob("*.mp4"))[0]
    shutil.copy(video, video.with_name("new.mp4"))
    new = listing_sha256(list_folder(root))
    video.with_name("new.mp4").unlink()
    again = listing_sha256(list_folder(root))
    video.write_bytes(video.read_bytes() + b"\0")
    replaced = listing_sha256(list_folder(root))
    assert again == first
    assert len({first, new, replaced}) == 3


def test_listing_digest_counts_a_missing_video_that_appears(tmp_path):
    listing = Listing([(tmp_path / "a.mp4", 0, "train")], ["a"])
    missing = listing_sha256(listing)
    (tmp_path / "a.mp4").touch()
    assert listing_sha256(listing) != missing
