"""Class folders, list files, and validation held out from training: the right share, no recording split up, the same on every machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.classes import read_names
from m2clip_lib.data.listing.folders import list_files, list_folder
from m2clip_lib.data.listing.recordings import Listing, hold_out, source_of, without_repeats
from m2clip_lib.errors import UserError

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
def test_no_group_is_in_two_splits_and_every_class_keeps_training_videos(classes, groups, clips, share):
    listing = ucf101(classes, groups, clips)
    held = hold_out(listing, share, ROOT)
    assert [row[:2] for row in held.rows] == [row[:2] for row in listing.rows]
    splits: dict[str, set[str]] = {}
    for path, _, split in held.rows:
        splits.setdefault(source_of(path, ROOT), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert {label for _, label, split in held.rows if split == "train"} == set(range(classes))
    assert [row for row in held.rows if row[2] == "test"] == [row for row in listing.rows if row[2] == "test"]
    if round(share * classes * (groups - 1)) and groups > 2:  # a recording of every class can be spared
        assert "val" in {split for *_, split in held.rows}


def test_recordings_added_to_a_list_leave_the_held_out_ones_where_they_are():
    """Cutting a sorted list moved 9 of 240 videos between training and validation when half as many recordings were added."""
    few, many = (hold_out(ucf101(4, groups, 3), 0.2, ROOT) for groups in (21, 31))
    before, after = ({path: split for path, _, split in listing.rows} for listing in (few, many))
    assert after.items() >= before.items()
    held = sum(split == "val" for split in after.values())
    assert 0.1 < held / (4 * 30 * 3) < 0.3  # 120 recordings at 0.2: 24 +- 9 (two standard deviations)
    assert few.notes == ("splits: train 180 videos of 60 recordings, val 60 videos of 20 recordings",)


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
        # Old code: a recording of its own for each of the following.
        ("a/abc_000001_000011.mp4", "b/abc_000050_000060.mp4", False, True),  # Kinetics, an id of any length
        ("a/party_clip3.mp4", "b/party_clip12.mkv", False, True),
        ("a/party - Part 1.mp4", "a/party - Part 2.mp4", False, True),
        ("a/video-01_002.mp4", "a/video-01_003.mp4", False, True),
        ("a/video-01_002.mp4", "a/video-02_002.mp4", False, False),
        ("a/v_shooting_01_01.mpg", "a/v_shooting_01_02.mpg", False, True),  # UCF11
        ("a/s01_e02_c03.mp4", "a/s01_e02_c04.mp4", False, True),
        ("a/1.mp4", "a/1.webm", False, True),  # the same video in two formats
        ("a/caf\u00e9.mp4", "a/cafe\u0301.mp4", False, True),  # as Linux and as macOS write it
        # Merely numbered, or named after the class.
        ("a/001.mp4", "a/002.mp4", False, False),
        ("a/clip 0.mp4", "a/clip 5.mp4", False, False),
        ("a/IMG_0001.MOV", "a/IMG_0002.MOV", False, False),
        ("ski/ski_clip1.mp4", "ski/ski_clip2.mp4", False, False),
        ("class_2/class2_001.mp4", "class_2/class2_002.mp4", False, False),
        # Dates and times.
        ("a/2024-05-01.mp4", "a/2024-05-02.mp4", False, False),
        ("a/VID_20240501_101500.mp4", "a/VID_20240501_173000.mp4", False, False),
        ("a/VID_240501_093000.mp4", "a/VID_240501_094500.mp4", False, False),
        ("a/2024-05-01 10.15.30.mp4", "a/2024-05-01 10.15.31.mp4", False, False),
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
    assert 0 < sum(split == "val" for *_, split in hold_out(Listing(rows, ["a"]), 0.3, ROOT).rows) < 10


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def short(listing, root: Path) -> list[tuple[str, int, str]]:
    return [(path.relative_to(root).as_posix(), label, split) for path, label, split in listing.rows]


# --- one folder per class ---


def test_split_folders_give_the_split(tmp_path):
    touch(tmp_path, "Training/ski/b.mp4", "Training/abseil/a.avi", "validation/ski/c.webm", "test/abseil/d.MKV", "test/abseil/notes.txt")
    listing = list_folder(tmp_path)
    assert listing.class_names == ["abseil", "ski"]
    assert sorted(short(listing, tmp_path)) == [
        ("Training/abseil/a.avi", 0, "train"),
        ("Training/ski/b.mp4", 1, "train"),
        ("test/abseil/d.MKV", 0, "test"),
        ("validation/ski/c.webm", 1, "val"),
    ]


def test_folders_without_videos_beside_the_splits_are_ignored(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "annotations/list.csv", "train/a/._1.mp4", ".cache/x.mp4")
    listing = list_folder(tmp_path)
    assert listing.class_names == ["a", "b"]
    assert [path for path, *_ in short(listing, tmp_path)] == ["test/a/2.mp4", "train/a/1.mp4", "train/b/1.mp4"]


def test_classes_beside_splits_are_refused_by_name(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "extra/3.mp4")
    with pytest.raises(UserError, match=r"holds split folders \(test, train\) and beside them 'extra' with videos"):
        list_folder(tmp_path)


def test_links_to_folders_are_followed_and_a_link_to_a_folder_above_is_harmless(tmp_path):
    touch(tmp_path / "disk", "ski/1.mp4", "run/2.mp4")
    touch(tmp_path / "own", "test/ski/3.mp4")
    (tmp_path / "own" / "train").mkdir()
    for name in ("ski", "run"):
        (tmp_path / "own" / "train" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "ski" / "again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "run" / "itself").symlink_to(tmp_path / "disk" / "run")
    rows = short(list_folder(tmp_path / "own"), tmp_path / "own")
    assert ("train/run/2.mp4", 0, "train") in rows
    assert ("train/ski/1.mp4", 1, "train") in rows
    assert ("test/ski/3.mp4", 1, "test") in rows


def test_a_class_may_be_called_test(tmp_path):
    touch(tmp_path, "test/1.mp4", "match/1.mp4")
    assert list_folder(tmp_path).class_names == ["match", "test"]


def test_class_that_is_missing_from_one_split_keeps_its_label_in_the_others(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "train/c/1.mp4", "test/c/2.mp4")
    assert short(list_folder(tmp_path), tmp_path)[-1] == ("train/c/1.mp4", 2, "train")
    assert ("test/c/2.mp4", 2, "test") in short(list_folder(tmp_path), tmp_path)


def ucf101_folder(root: Path, classes: int = 4, groups: range = range(1, 26), clips: int = 4) -> Listing:
    """A folder as UCF101's, one per class, of empty files."""
    for c in range(classes):
        (root / f"C{c}").mkdir(parents=True, exist_ok=True)
        for name in (f"v_C{c}_g{group:02d}_c{clip:02d}.avi" for group in groups for clip in range(1, clips + 1)):
            (root / f"C{c}" / name).touch()
    return list_folder(root)


def splits_by_recording(listing: Listing, root: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, _, split in listing.rows:
        found.setdefault(source_of(path, root), set()).add(split)
    return found


def test_clips_of_one_recording_are_never_in_two_splits(tmp_path):
    """Old code: 58 of the 60 test videos of this tree had a sister clip in training."""
    listing = ucf101_folder(tmp_path)
    found = splits_by_recording(listing, tmp_path)
    assert len(found) == 100
    assert {len(splits) for splits in found.values()} == {1}
    assert listing.notes == ("splits: train 284 videos of 71 recordings, val 56 videos of 14 recordings, test 60 videos of 15 recordings",)


def test_a_recording_that_occurs_in_two_classes_is_in_one_split(tmp_path):
    """Old code: 28 of 60 ids were in two splits."""
    ids = [f"{i:011d}" for i in range(60)]
    touch(tmp_path, *(f"{name}/{video}_0000{start}_0000{start + 10}.mp4" for video in ids for name, start in (("ski", 10), ("run", 30))))
    found = splits_by_recording(list_folder(tmp_path), tmp_path)
    assert sorted(found) == ids
    assert {len(splits) for splits in found.values()} == {1}


def test_more_videos_recordings_and_classes_leave_the_others_in_their_split(tmp_path):
    """Old code: 10 of 400 videos moved when ten recordings were added to every class."""
    before = {path: split for path, _, split in ucf101_folder(tmp_path).rows}
    touch(tmp_path, *(f"C{c}/v_C{c}_g{group:02d}_c{clip:02d}.avi" for c in range(4) for group in range(1, 26) for clip in (5, 6)))
    after = {path: split for path, _, split in ucf101_folder(tmp_path, classes=6, groups=range(26, 36)).rows}
    assert len(after) == 400 + 200 + 6 * 10 * 4
    assert after.items() >= before.items()


def test_a_large_folder_without_splits_is_cut_into_about_70_15_15(tmp_path):
    listing = ucf101_folder(tmp_path, classes=40, clips=1)  # 1000 recordings: a share of 0.15 has a standard deviation of 0.011
    splits = [split for *_, split in listing.rows]
    assert splits.count("val") / 1000 == pytest.approx(0.15, abs=0.03)
    assert splits.count("test") / 1000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(("videos", "splits"), [(1, {"train": 1}), (2, {"train": 1, "test": 1}), (3, {"train": 1, "val": 1, "test": 1})])
def test_class_of_few_videos_always_keeps_one_for_training(tmp_path, videos, splits):
    touch(tmp_path, "other/1.mp4", *(f"few/{i}.mp4" for i in range(videos)))
    found = [split for _, label, split in list_folder(tmp_path).rows if label == 0]
    assert {name: found.count(name) for name in set(found)} == splits


@given(st.lists(st.integers(1, 8), min_size=2, max_size=5), st.integers(0, 99))
def test_every_class_trains_and_small_folders_are_evaluated_where_possible(tmp_path_factory, sizes, number):
    root = tmp_path_factory.mktemp("small")
    touch(root, *(f"class {'abcde'[c]}/take {number}-{i}/x.mp4" for c, size in enumerate(sizes) for i in range(size)))
    listing = list_folder(root)
    assert {label for _, label, split in listing.rows if split == "train"} == set(range(len(sizes)))
    trained = [label for _, label, split in listing.rows if split == "train"]
    if max(map(trained.count, trained)) > 1:  # a class could do without one of its recordings
        assert {split for *_, split in listing.rows} == {"train", "val", "test"}


def test_split_does_not_depend_on_where_the_folder_is(tmp_path):
    names = [f"{name}/{i}.mp4" for name in ("left", "right") for i in range(12)]
    touch(tmp_path / "here", *names)
    touch(tmp_path / "there" / "deeper", *reversed(names))
    here, there = list_folder(tmp_path / "here"), list_folder(tmp_path / "there" / "deeper")
    assert short(here, tmp_path / "here") == short(there, tmp_path / "there" / "deeper")


def test_new_class_leaves_the_split_of_the_others_alone(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in ("left", "right") for i in range(12)))
    before = {path: split for path, _, split in list_folder(tmp_path).rows}
    touch(tmp_path, "ahead/1.mp4")
    after = {path: split for path, _, split in list_folder(tmp_path).rows}
    assert after.items() >= before.items()


def test_videos_may_be_deeper_inside_a_class_and_folder_names_become_words(tmp_path):
    touch(tmp_path, "Brush_Hair/camera 1/a b.mp4", "滑雪/é.mp4", ".cache/x/y.mp4")
    listing = list_folder(tmp_path)
    assert listing.class_names == ["Brush Hair", "滑雪"]
    assert {Path(name).name for name, _, _ in short(listing, tmp_path)} == {"a b.mp4", "é.mp4"}


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
        list_folder(tmp_path / "nowhere")


def test_folder_without_videos_says_what_is_expected(tmp_path):
    touch(tmp_path, "loose.mp4", "empty class/readme.txt")
    with pytest.raises(UserError, match=r"no class folder with videos .*<class>/<video>"):
        list_folder(tmp_path)


def test_single_class_is_refused_by_name(tmp_path):
    touch(tmp_path, "ski/1.mp4")
    with pytest.raises(UserError, match=r"only one class .'ski'"):
        list_folder(tmp_path)


def test_two_folders_of_one_class_name_are_refused(tmp_path):
    # "brush_hair" and "brush-hair" both become "brush hair": two labels of one prompt, a defect nobody would see later
    touch(tmp_path, "brush_hair/1.mp4", "brush-hair/1.mp4", "ski/1.mp4")
    with pytest.raises(UserError, match="brush hair"):
        list_folder(tmp_path)


def test_names_that_no_file_can_have_stay_rows():
    rows = [(ROOT / ("x" * 300), 0, "train"), (ROOT / "a\0b" / "1.mp4", 0, "train"), (ROOT / "../../gone.mp4", 0, "train")]
    assert without_repeats(Listing(rows, ["a"])).rows == rows


def test_two_links_to_one_video_are_one_row(tmp_path):
    """Old code: three rows."""
    touch(tmp_path, "ski/1.mp4", "run/2.mp4")
    (tmp_path / "ski" / "again.mp4").symlink_to(tmp_path / "ski" / "1.mp4")
    listing = list_folder(tmp_path)
    assert [path for path, *_ in short(listing, tmp_path)] == ["run/2.mp4", "ski/1.mp4"]
    assert listing.notes[0] == "lists: 1 lines repeat a video; each counts once"


# --- list files ---


@pytest.fixture
def names_file(tmp_path) -> Path:
    (tmp_path / "names.txt").write_text("abseil\n ski \n\nzumba\n", encoding="utf-8")
    return tmp_path / "names.txt"


def one_list(tmp_path: Path, text: str) -> dict[str, Path]:
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    return {"train": tmp_path / "train.txt"}


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 0", "a.mp4", 0),
        ("sub/a.mp4 2", "sub/a.mp4", 2),
        ("my clip.mp4 1", "my clip.mp4", 1),
        ("a.mp4 300 1", "a.mp4", 1),
        ("my clip.mp4 300 1", "my clip.mp4", 1),
        ("take 12 300.mp4 1", "take 12 300.mp4", 1),
        ("no extension 12 1", "no extension 12", 1),
        ("滑雪/é 1.webm 2", "滑雪/é 1.webm", 2),
        ("folder.mp4/a 7.mp4 0", "folder.mp4/a 7.mp4", 0),
        ("-rf.mp4 1", "-rf.mp4", 1),
        ('"it\'s" here.mp4 2', '"it\'s" here.mp4', 2),
        ("tab.mp4\t1", "tab.mp4", 1),
        ("two blanks.mp4  10  2", "two blanks.mp4", 2),
        ("\u3000wide blank.mp4 0", "\u3000wide blank.mp4", 0),
    ],
)
def test_list_line_of_two_or_three_columns_with_spaces(tmp_path, names_file, line, path, label):
    listing = list_files(tmp_path, one_list(tmp_path, line + "\n"), read_names(names_file))
    assert short(listing, tmp_path) == [(path, label, "train")]
    assert listing.class_names == ["abseil", "ski", "zumba"]


# Anything that is one line of a text file: with quotes, line separators of other scripts, a dash in front.
words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1).filter(lambda text: text.strip(" \t"))


@given(st.lists(words, min_size=1, max_size=4), st.integers(0, 2), st.none() | st.integers(0, 10**6))
def test_any_path_survives_a_list_line(tmp_path_factory, parts, label, frames):
    folder = tmp_path_factory.mktemp("list")
    path = " ".join(parts).replace("/", "_").strip(" \t\ufeff") + ".mp4"
    line = f"{path} {label}" if frames is None else f"{path} {frames} {label}"
    listing = list_files(folder, one_list(folder, line + "\n"), ["a", "b", "c"])
    assert listing.rows == [(folder / path, label, "train")]


def test_each_list_gives_its_split_and_absolute_paths_stay(tmp_path, names_file):
    (tmp_path / "a.txt").write_text("x.mp4 0\n")
    (tmp_path / "b.txt").write_text("/mnt/y.mp4 1\n")
    listing = list_files(tmp_path, {"train": tmp_path / "a.txt", "test": tmp_path / "b.txt"}, read_names(names_file))
    assert listing.rows == [(tmp_path / "x.mp4", 0, "train"), (Path("/mnt/y.mp4"), 1, "test")]


@pytest.mark.parametrize("line", ["a.mp4", "a.mp4 ski", "a.mp4 3", "a.mp4 -1", "0", "a.mp4 1.0", "a.mp4 ²"])
def test_bad_list_line_is_named_with_file_number_and_range(tmp_path, names_file, line):
    with pytest.raises(UserError, match=r"train\.txt:2: .*label from 0 to 2"):
        list_files(tmp_path, one_list(tmp_path, f"a.mp4 0\n{line}\n"), read_names(names_file))


def test_blank_lines_and_trailing_spaces_of_a_list_are_ignored(tmp_path, names_file):
    listing = list_files(tmp_path, one_list(tmp_path, "a.mp4 0 \n\nb.mp4 1\n\n"), read_names(names_file))
    assert short(listing, tmp_path) == [("a.mp4", 0, "train"), ("b.mp4", 1, "train")]


def test_missing_annotation_file_is_named(tmp_path, names_file):
    with pytest.raises(UserError, match=r"no such file: .*gone\.txt"):
        list_files(tmp_path, {"train": tmp_path / "gone.txt"}, read_names(names_file))
    with pytest.raises(UserError, match=r"no such file: .*no_names\.txt"):
        read_names(tmp_path / "no_names.txt")


def test_list_of_windows_reads_the_same(tmp_path, names_file):
    (tmp_path / "train.txt").write_bytes("\ufeffa b.mp4 0\r\n\r\n  \r\nc.mp4 12 1 \r\n".encode())
    listing = list_files(tmp_path, {"train": tmp_path / "train.txt"}, read_names(names_file))
    assert short(listing, tmp_path) == [("a b.mp4", 0, "train"), ("c.mp4", 1, "train")]


def test_list_that_is_not_utf_8_is_a_message(tmp_path, names_file):
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.mp4 0\n")
    with pytest.raises(UserError, match=r"train\.txt: not UTF-8 \(byte 3"):
        list_files(tmp_path, {"train": tmp_path / "train.txt"}, read_names(names_file))


@pytest.mark.parametrize(
    "text",
    [
        "path label\nski/a b.mp4 1\nc.mp4 2\n",
        "path,label\nski/a b.mp4,1\nc.mp4,2\n",
        "label;video\n1;ski/a b.mp4\n2;c.mp4\n",
        "Video Path\tNum Frames\tLabel\nski/a b.mp4\t30\t1\nc.mp4\t9\t2\n",
        'file,class_id\n"ski/a b.mp4","1"\n"c.mp4","2"\n',
        "label path\n1 ski/a b.mp4\n2 c.mp4\n",
    ],
)
def test_a_list_may_have_a_header(tmp_path, names_file, text):
    listing = list_files(tmp_path, one_list(tmp_path, text), read_names(names_file))
    assert sorted(short(listing, tmp_path)) == [("c.mp4", 2, "train"), ("ski/a b.mp4", 1, "train")]


@pytest.mark.parametrize(
    ("text", "line"), [("datei,klasse\na.mp4,0\n", 1), ("path,frames\na.mp4,3\n", 1), ("path,label\na.mp4,0\nb.mp4\n", 3)]
)
def test_a_list_of_another_form_is_refused_with_its_line(tmp_path, names_file, text, line):
    with pytest.raises(UserError, match=rf"train\.txt:{line}: "):
        list_files(tmp_path, one_list(tmp_path, text), read_names(names_file))


def test_a_list_finds_files_whose_accents_are_stored_in_other_bytes(tmp_path, names_file):
    touch(tmp_path, "plonge\u0301e/1.mp4", "\u00fcben/2.mp4")
    listing = list_files(tmp_path, one_list(tmp_path, "plong\u00e9e/1.mp4 0\nu\u0308ben/2.mp4 1\n"), read_names(names_file))
    assert all(path.is_file() for path, *_ in listing.rows)
