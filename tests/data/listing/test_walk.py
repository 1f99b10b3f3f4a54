"""What is passed over below a folder is counted and said, one line per reason; classes do not vanish silently."""

import os
from pathlib import Path

import pytest

from m2clip_lib.data.listing.folders import list_folder
from m2clip_lib.data.listing.walk import videos_below
from m2clip_lib.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def two_classes(root: Path) -> None:
    touch(root, *(f"{name}/{i}.mp4" for name in ("run", "walk") for i in range(3)))


@pytest.mark.parametrize(
    "folder", ["#recycle", "$RECYCLE.BIN", "@Recycle", "lost+found", "__MACOSX", "@eaDir", "#snapshot", "System Volume Information"]
)
def test_folders_of_the_system_are_no_classes_and_are_named(tmp_path, folder):
    two_classes(tmp_path)
    touch(tmp_path, f"{folder}/gone.mp4", f"run/{folder}/1.mp4/thumb.mp4")
    listing = list_folder(tmp_path)
    assert listing.class_names == ["run", "walk"]
    assert len(listing.rows) == 6
    assert listing.passed == (f"passed over: 2 hidden or written by the system: such as {folder!r}",)


def test_classes_without_a_known_video_are_all_named(tmp_path):
    two_classes(tmp_path)
    touch(tmp_path, "jump/1", "jump/2", "wave/1.dav", "sit/1.webp")
    (tmp_path / "sleep").mkdir()
    listing = list_folder(tmp_path)
    assert listing.class_names == ["run", "walk"]
    assert "passed over: 4 class folders without a video: 'jump', 'sit', 'sleep', 'wave'" in listing.passed
    assert "passed over: 4 files whose ending is not a video's: such as 'jump/1'" in listing.passed


def test_a_class_without_a_known_video_inside_a_split_is_named(tmp_path):
    two_classes(tmp_path / "train")
    touch(tmp_path, "train/jump/1.dav", "test/run/9.mp4", "train/loose.mp4")
    said = list_folder(tmp_path).passed
    assert "passed over: 1 class folders without a video: 'train/jump'" in said
    assert "passed over: 1 videos outside class folders: such as 'train/loose.mp4'" in said


def test_twins_and_files_of_the_system_are_counted_apart(tmp_path):
    two_classes(tmp_path)
    touch(tmp_path, "run/._0.mp4", "walk/._1.mp4", "run/Thumbs.db", "run/.DS_Store", "walk/notes.txt")
    assert set(list_folder(tmp_path).passed) == {
        "passed over: 2 twins that macOS writes beside files (._): such as 'run/._0.mp4'",
        "passed over: 2 hidden or written by the system: such as 'run/.DS_Store'",
        "passed over: 1 files whose ending is not a video's: such as 'walk/notes.txt'",
    }


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path):
    two_classes(tmp_path)
    assert list_folder(tmp_path).passed == ()


@pytest.fixture
def locked(monkeypatch):
    """Makes folders with this name unreadable, also for root."""
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_class_folder_that_cannot_be_read_is_named(tmp_path, locked):
    two_classes(tmp_path)
    touch(tmp_path, "locked/1.mp4", "run/locked/1.mp4")
    said = list_folder(tmp_path).passed
    assert "passed over: 1 class folders without a video: 'locked'" in said
    assert any(line.startswith("passed over: 2 folders cannot be read (Permission denied): such as") for line in said)


def test_a_folder_of_videos_is_listed_without_what_is_passed_over(tmp_path):
    touch(tmp_path, "1.mp4", "._1.mp4", "@eaDir/2.mp4", "deep/3.AVI")
    assert sorted(path.name for path in videos_below(tmp_path)) == ["1.mp4", "3.AVI"]


@pytest.mark.parametrize("order", [("train", "test"), ("Training", "validation")])
def test_splits_inside_classes_are_kept(tmp_path, order):
    touch(tmp_path, *(f"{name}/{split}/{i}.mp4" for name in ("run", "walk") for split in order for i in range(4)))
    listing = list_folder(tmp_path)
    assert listing.class_names == ["run", "walk"]
    wanted = {"train": "train", "Training": "train", "test": "test", "validation": "val"}
    assert all(split == wanted[path.parent.name] for path, _, split in listing.rows)


@pytest.mark.parametrize(
    "files",
    [
        ["run/train/1.mp4", "run/test/2.mp4", "walk/3.mp4"],  # one class without splits
        ["run/train/1.mp4", "run/2.mp4", "walk/train/3.mp4"],  # a video beside the splits
        ["run/camera 1/test/1.mp4", "run/camera 2/2.mp4", "walk/3.mp4"],  # deeper
        ["train/run/test/1.mp4", "train/walk/2.mp4", "test/walk/3.mp4"],  # a split inside another
        ["run/train/test/1.mp4", "walk/train/2.mp4"],
    ],
)
def test_splits_that_are_not_clear_are_refused(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match="split"):
        list_folder(tmp_path)


def test_the_name_of_a_folder_that_is_not_utf_8_is_a_message(tmp_path):
    two_classes(tmp_path)
    folder = os.fsencode(tmp_path) + b"/plong\xe9e"
    os.mkdir(folder)  # noqa: PTH102 (bytes)
    Path(os.fsdecode(folder), "1.mp4").touch()
    with pytest.raises(UserError, match=r"'plong\\udce9e'.* is not UTF-8; rename it"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("plong\u00e9e", "plonge\u0301e"),
        ("Jump", "jump"),
        ("\u00dcben", "u\u0308ben"),
        ("run\u200bner", "runner"),
    ],
)
def test_two_folders_that_look_like_one_class_are_refused_with_both(tmp_path, first, second):
    touch(tmp_path, f"train/{first}/1.mp4", "train/ski/1.mp4", f"test/{second}/1.mp4", "test/ski/1.mp4")
    with pytest.raises(UserError, match="look like one class") as error:
        list_folder(tmp_path)
    for name in (first, second):
        assert repr(name) in str(error.value) or ascii(name) in str(error.value)


def test_classes_that_differ_in_signs_are_classes(tmp_path):
    names = ["+1", "-1", "C#", "C++", "volume +", "volume -"]
    touch(tmp_path, *(f"{name}/1.mp4" for name in names))
    assert list_folder(tmp_path).class_names == names
