"""Validation taken from training: the share asked for, no source torn apart, the same on every machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.holdout import hold_out, source_of
from m2clip_lib.data.layouts import Listing

ROOT = Path("/videos")


def ucf101(classes: int, groups: int, clips: int, root: Path = ROOT) -> Listing:
    rows = [
        (root / f"C{c}" / f"v_C{c}_g{g:02d}_c{i:02d}.avi", c, "train" if g > 1 else "test")
        for c in range(classes)
        for g in range(1, groups + 1)
        for i in range(clips)
    ]
    return Listing(rows, [f"C{c}" for c in range(classes)])


@given(st.integers(1, 5), st.integers(2, 9), st.integers(1, 4), st.sampled_from([0.05, 0.1, 0.3, 0.9]))
def test_no_group_lies_in_two_splits_and_every_class_keeps_training_videos(classes, groups, clips, share):
    listing = ucf101(classes, groups, clips)
    held = hold_out(listing, share, ROOT)
    assert [row[:2] for row in held.rows] == [row[:2] for row in listing.rows]
    splits: dict[str, set[str]] = {}
    for path, _, split in held.rows:
        splits.setdefault(source_of(path, ROOT), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert {label for _, label, split in held.rows if split == "train"} == set(range(classes))
    assert [row for row in held.rows if row[2] == "test"] == [row for row in listing.rows if row[2] == "test"]
    training = classes * (groups - 1) * clips
    count = sum(split == "val" for *_, split in held.rows)
    assert count <= round(share * training) + clips - 1  # over by less than one group
    if share <= 0.3 and groups > 5:
        assert count >= round(share * training)


def test_the_same_videos_are_held_out_on_every_machine_and_in_every_order():
    here, there = ucf101(4, 8, 3), ucf101(4, 8, 3, Path("/mnt/other disk"))
    there.rows.reverse()
    first, second = (
        {path.name for path, _, split in hold_out(x, 0.2, root).rows if split == "val"}
        for x, root in ((here, ROOT), (there, Path("/mnt/other disk")))
    )
    assert first == second
    assert len(first) >= 1


@pytest.mark.parametrize(
    ("first", "second", "numbered", "same"),
    [
        ("a/v_Biking_g01_c01.avi", "v_Biking_g01_c07.avi", False, True),
        ("v_Biking_g01_c01.avi", "v_Biking_g02_c01.avi", False, False),
        ("Movie_run_f_cm_np1_fr_goo_0.avi", "Movie_run_u_nm_np2_ba_med_13.avi", False, True),
        ("Movie_run_f_cm_np1_fr_goo_0.avi", "Film_run_f_cm_np1_fr_goo_0.avi", False, False),
        ("abcdefghijk_000001_000011.mp4", "x/abcdefghijk_000050_000060.mp4", False, True),
        ("run_1.avi", "run_2.avi", True, True),  # HMDB51: all but the last number
        ("run_1.avi", "run_2.avi", False, False),  # names of one's own: nothing is known
        ("a/1.mp4", "b/1.mp4", False, False),
    ],
)
def test_source_is_what_the_name_says(first, second, numbered, same):
    assert (source_of(ROOT / first, ROOT, numbered) == source_of(ROOT / second, ROOT, numbered)) == same


def test_dataset_with_validation_or_without_training_is_left_alone():
    train, val, test = ((ROOT / f"{split}{i}.mp4", 0, split) for split in ("train", "val", "test") for i in range(1))
    for rows in ([train, val], [test], [train, val, test]):
        assert hold_out(Listing(rows, ["a"]), 0.5, ROOT).rows == rows
    rows = [(ROOT / f"{i}.mp4", 0, "train") for i in range(10)]
    assert hold_out(Listing(rows, ["a"]), 0.0, ROOT).rows == rows
    assert sum(split == "val" for *_, split in hold_out(Listing(rows, ["a"]), 0.3, ROOT).rows) == 3
