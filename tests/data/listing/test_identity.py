"""A video is more than its path: links, hard links, copies and other containers of one clip stay in one split."""

import os
import shutil

import pytest

from m2clip_lib.data.listing.checks import check_leaks
from m2clip_lib.data.listing.folders import Listing, list_folder
from m2clip_lib.data.listing.identity import LEAST, identities
from m2clip_lib.errors import UserError


def write(path, content: int, size: int = 5000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([content]) * size)
    return path


LINKS = {"link": lambda old, new: new.symlink_to(old), "hard link": lambda old, new: os.link(old, new), "copy": shutil.copy}


@pytest.mark.parametrize("kind", LINKS)
def test_a_training_video_under_another_name_in_the_test_split_is_refused(tmp_path, kind):
    """Before, all three were accepted: twelve test videos were training videos."""
    old, new = write(tmp_path / "pool" / "a.mp4", 1), tmp_path / "test" / "b.mp4"
    new.parent.mkdir()
    LINKS[kind](old, new)
    with pytest.raises(UserError, match=r"1 of 1 videos are in two splits: a\.mp4 = b\.mp4 in train and test"):
        check_leaks(Listing([(old, 0, "train"), (new, 0, "test")], ["run", "walk"]))


@pytest.mark.parametrize("kind", LINKS)
def test_a_folder_is_split_so_that_other_names_of_a_video_stay_together(tmp_path, kind):
    for number in range(60):
        first = write(tmp_path / "run" / f"IMG_{number:04}.mp4", number)
        other = tmp_path / "walk" / f"film {number:03}.mp4"
        if number % 2:
            other.parent.mkdir(exist_ok=True)
            LINKS[kind](first, other)
        else:
            write(other, 100 + number)
    listing = list_folder(tmp_path)
    splits = {}
    for path, _, split in listing.rows:
        splits.setdefault(path.read_bytes()[0], set()).add(split)
    assert {len(found) for found in splits.values()} == {1}
    assert {split for _, _, split in listing.rows} == {"train", "val", "test"}


def test_the_same_clip_in_two_containers_is_one_recording(tmp_path):
    for number in range(60):
        for suffix, content in ((".avi", number), (".mp4", 100 + number)):
            write(tmp_path / ("run" if number % 2 else "walk") / f"IMG_{number:04}{suffix}", content)
    splits = {}
    for path, _, split in list_folder(tmp_path).rows:
        splits.setdefault(path.stem, set()).add(split)
    assert {len(found) for found in splits.values()} == {1}


def test_what_counts_as_a_copy(tmp_path):
    long = write(tmp_path / "long.mp4", 1, 200_000)
    (tail := tmp_path / "tail.mp4").write_bytes(long.read_bytes()[:-1] + b"x")  # differs after the part that is read first
    files = [long, tail, write(tmp_path / "copy.mp4", 1, 200_000), write(tmp_path / "short.mp4", 1, 100), tmp_path / "gone.mp4"]
    files += [write(tmp_path / f"broken{i}.mp4", 7, LEAST - 1) for i in range(2)]  # too short for a video: not copies
    keys = identities(files, copies=True)
    assert keys[0] == keys[2]
    assert len(set(keys)) == len(files) - 1
    assert len(set(identities(files, copies=False))) == len(files)
