"""One video under several names, and recordings across splits: what is refused, kept together, or said."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from m2clip_lib.data.listing.checks import check_leaks
from m2clip_lib.data.listing.folders import list_files, list_folder
from m2clip_lib.data.listing.recordings import Listing, copies, torn_recordings
from m2clip_lib.errors import UserError

MANY = 100_000  # bytes: more than one end of a file


def write(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(number.to_bytes(4, "big") * (MANY // 4))
    return path


def linked(target: Path, path: Path) -> None:
    path.symlink_to(target)


def damaged(source: Path, path: Path) -> None:
    """A copy with one byte changed in the middle: still the same video."""
    content = bytearray(source.read_bytes() * 3)
    source.write_bytes(content)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("make", [linked, os.link, shutil.copy, damaged])
@pytest.mark.parametrize("other", ["0.mp4", "another name.avi"])
def test_one_video_in_two_split_folders_is_refused(tmp_path, make, other):
    """Old code: only links were found."""
    for split, first in (("train", 0), ("test", 10)):
        for number, name in enumerate(("ski", "run")):
            write(tmp_path / split / name / "5.mp4", first + number)
    source = write(tmp_path / "train" / "ski" / "0.mp4", 99)
    make(source, tmp_path / "test" / "ski" / other)
    with pytest.raises(UserError, match=r"1 (of 5 )?videos are in two splits.* in (train|test) and .*(train|test)"):
        check_leaks(list_folder(tmp_path))


def test_copies_in_two_lists_are_refused(tmp_path):
    for number in range(4):
        write(tmp_path / "videos" / f"{number}.mp4", number)
    shutil.copy(tmp_path / "videos" / "1.mp4", tmp_path / "videos" / "copy of 1.mp4")
    (tmp_path / "train.txt").write_text("0.mp4 0\n1.mp4 1\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("2.mp4 0\n3.mp4 1\ncopy of 1.mp4 1\n", encoding="utf-8")
    lists = {split: tmp_path / f"{split}.txt" for split in ("train", "test")}
    with pytest.raises(UserError, match=r"1 videos are in two splits.* videos/1\.mp4 in train and videos/copy of 1\.mp4 in test"):
        check_leaks(list_files(tmp_path / "videos", lists, ["a", "b"]))


def test_a_file_under_several_classes_is_said_and_refuses_nothing(tmp_path):
    write(tmp_path / "train" / "ski" / "a.mp4", 7)
    write(tmp_path / "test" / "run" / "b.mp4", 7)
    (doubt,) = check_leaks(list_folder(tmp_path))
    assert doubt == "labels: 1 videos are stored under several classes: b.mp4 in 'run' and a.mp4 in 'ski'"


def test_empty_missing_unreadable_and_special_files_are_nobodys_copy(tmp_path):
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    names = ["1.mp4", "2.mp4", "device.mp4", "folder.mp4", "pipe.mp4", "missing.mp4", "x" * 300, "zero\0byte.mp4"]
    rows = [(tmp_path / name, 0, split) for name in names for split in ("train", "test")]
    assert copies(Listing(rows, ["a"])) == []


def test_files_of_equal_size_with_other_ends_are_two_videos(tmp_path):
    first, second = (write(tmp_path / name, 3) for name in ("1.mp4", "2.mp4"))
    second.write_bytes(first.read_bytes()[:-1] + b"!")
    assert copies(Listing([(first, 0, "train"), (second, 0, "test")], ["a"])) == []


@pytest.mark.parametrize("make", [os.link, shutil.copy])
def test_copies_stay_together_when_the_workbook_splits(tmp_path, make):
    """Of 60 recordings each is stored twice, under names that their own hashes would tear apart for every third."""
    for number in range(60):
        name = ("ski", "run")[number % 2]
        make(write(tmp_path / name / f"{number:03d}.mp4", number), tmp_path / name / f"IMG_{number:03d}.mov")
    splits: dict[str, set[str]] = {}
    for path, _, split in list_folder(tmp_path).rows:
        splits.setdefault(path.stem.removeprefix("IMG_"), set()).add(split)
    assert len(splits) == 60
    assert {len(found) for found in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_a_copy_joins_the_recordings_that_it_belongs_to(tmp_path):
    """a_clip2 and b_clip1 are one file: then all clips of a and b are one recording."""
    for number in range(40):
        write(tmp_path / ("ski", "run")[number % 2] / f"{number:03d}.mp4", number)
    for number, recording in enumerate("abcdefgh"):
        for clip in (1, 2):
            write(tmp_path / "ski" / f"party {recording}_clip{clip}.mp4", 100 + 10 * number + clip)
    for recording, following in zip("abcdefg", "bcdefgh", strict=True):
        shutil.copy(tmp_path / "ski" / f"party {recording}_clip2.mp4", tmp_path / "ski" / f"party {following}_clip3.mp4")
    found = {split for path, _, split in list_folder(tmp_path).rows if path.name.startswith("party")}
    assert len(found) == 1


def table(*rows: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"path": f"/videos/{split}/ski/{name}", "class_name": "ski", "split": split, "num_frames": n} for split, name, n in rows]
    )


@pytest.mark.parametrize(
    ("trained", "tested", "torn"),
    [
        (("v_Ski_g01_c01.avi", 50), ("v_Ski_g01_c02.avi", 70), True),
        (("v_Ski_g01_c01.avi", 50), ("v_Ski_g02_c01.avi", 50), False),
        (("party_clip1.mp4", 9), ("party_clip7.mp4", 8), True),
        (("jump.avi", 50), ("jump.mp4", 50), True),
        (("jump.avi", 50), ("jump.mp4", 51), False),
        (("003.mp4", 50), ("003.mp4", 50), False),  # numbered anew in every folder
        (("bad.avi", 0), ("bad.mp4", 0), False),
    ],
)
def test_recordings_across_given_splits_are_said(trained, tested, torn):
    lines = torn_recordings(table(("test", *tested), ("train", *trained), ("train", "other 1.mp4", 50)), Path("/videos"))
    expected = f"splits: 1 videos outside training are of recordings that training has, to go by their names: {tested[0]} and {trained[0]}"
    assert lines == ([expected] if torn else [])
