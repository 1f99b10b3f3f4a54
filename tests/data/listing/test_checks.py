"""What is wrong with a listing before a video is opened: labels against paths, leaks, mirrored directions; and false alarms."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.classes import kinetics400_names
from m2clip_lib.data.demo.videos import CLASS_NAMES
from m2clip_lib.data.listing.checks import check_labels_in_paths, check_leaks, check_mirror, read_kinetics_names
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.errors import UserError

ROOT = Path("/data/videos")


def listing(names: list[str], *rows: tuple) -> Listing:
    """Rows of (path below ROOT, label) or (path, label, split)."""
    return Listing([(ROOT / path, label, *(rest or ("train",))) for path, label, *rest in rows], names)


# --- labels ---


@pytest.mark.parametrize("folder", ["hurling (sport)", "hurling sport", "Hurling_Sport", "hurling-sport", "HurlingSport"])
def test_a_class_folder_is_known_in_every_spelling(folder):
    names = ["hurling (sport)", "ski"]
    assert check_labels_in_paths(listing(names, (f"{folder}/a.mp4", 0), ("ski/b.mp4", 1))) == 2
    with pytest.raises(UserError, match=r"1 of 2 .*a\.mp4 says 'hurling \(sport\)', its label 'ski'"):
        check_labels_in_paths(listing(names, (f"{folder}/a.mp4", 1), ("ski/b.mp4", 1)))


def test_accents_of_a_mac_are_those_of_the_list():
    names = ["caf\u00e9", "ski"]
    assert check_labels_in_paths(listing(names, ("cafe\u0301/a.mp4", 0), ("ski/b.mp4", 1))) == 2


def test_permuted_list_is_counted_with_three_examples():
    names = ["abseil", "run", "ski", "swim"]
    rows = [(f"{name}/{i}.mp4", (label + 1) % 4) for label, name in enumerate(names) for i in range(5)] + [("elsewhere/x.mp4", 0)]
    with pytest.raises(UserError) as error:
        check_labels_in_paths(listing(names, *rows))
    text = str(error.value)
    assert "20 of 20 videos whose path carries a class (21 listed)" in text
    assert text.count(" says ") == 3
    assert "\n" not in text


def test_flat_ucf101_names_carry_their_class():
    names = ["Apply Eye Makeup", "Handstand Pushups"]
    flat = [("v_ApplyEyeMakeup_g08_c01.avi", 0), ("v_HandStandPushups_g01_c02.avi", 1), ("other.avi", 1)]
    assert check_labels_in_paths(listing(names, *flat)) == 2
    with pytest.raises(UserError, match=r"1 of 2 .*v_HandStandPushups_g01_c02\.avi says 'Handstand Pushups'"):
        check_labels_in_paths(listing(names, flat[0], ("v_HandStandPushups_g01_c02.avi", 0)))


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["train", "plane"], [("train/1.mp4", 1), ("train/2.mp4", 0), ("val/3.mp4", 1)]),  # the folder of a split
        (["videos", "data"], [("1.mp4", 0), ("2.mp4", 1)]),  # the folder of everything
        (["skiing", "run"], [("skiing/clips/1.mp4", 0), ("skiing/clips/2.mp4", 1)]),  # the same, deeper
        (["ski", "jump"], [("ski/jump/1.mp4", 0), ("jump/2.mp4", 1)]),  # a subfolder named like another class
    ],
)
def test_a_folder_that_says_nothing_is_no_alarm(names, rows):
    check_labels_in_paths(listing(names, *rows))


def test_a_class_folder_inside_a_split_folder_is_read():
    with pytest.raises(UserError, match="1 of 2"):
        check_labels_in_paths(listing(["ski", "run"], ("train/ski/1.mp4", 1), ("test/run/1.mp4", 1)))


@given(st.permutations(range(5)), st.integers(1, 3))
def test_a_permutation_passes_only_where_it_changes_nothing(order, each):
    names = ["abseil", "brush hair", "run", "ski", "tai chi"]
    rows = [(f"{name}/{i}.mp4", order[label]) for label, name in enumerate(names) for i in range(each)]
    moved = sum(order[label] != label for label in range(5)) * each
    if moved == 0:
        assert check_labels_in_paths(listing(names, *rows)) == 5 * each
    else:
        with pytest.raises(UserError, match=f"labels: {moved} of {5 * each} videos"):
            check_labels_in_paths(listing(names, *rows))


@pytest.fixture
def table(tmp_path):
    lines = ["label,youtube_id,time_start,time_end,split", "ski,-abcdefghij,1,11,train", "tai chi,id2,0,10,train"]
    lines += ["ski,twice,0,10,train", "tai chi,twice,20,30,train"]  # one video, two clips of two classes
    (tmp_path / "k.csv").write_text("\r\n".join(lines))
    return read_kinetics_names(tmp_path / "k.csv")


def test_kinetics_table_says_the_class_of_an_id_with_or_without_times(table):
    rows = [("-abcdefghij_000001_000011.mp4", 0), ("id2.mp4", 1), ("twice_000000_000010.mp4", 0), ("twice_000020_000030.mp4", 1)]
    assert check_labels_in_paths(listing(["ski", "tai_chi"], *rows, ("twice.mp4", 1), ("unknown.mp4", 0)), table) == 4


def test_list_that_the_kinetics_table_contradicts_is_refused(table):
    rows = [("-abcdefghij_000001_000011.mp4", 1), ("id2.mp4", 0), ("twice_000020_000030.mp4", 1)]
    with pytest.raises(UserError, match=r"2 of 3 .*id2\.mp4 says 'tai chi', its label 'ski'"):
        check_labels_in_paths(listing(["ski", "tai chi"], *rows), table)


def test_a_table_of_another_dataset_is_no_check(table):
    with pytest.raises(UserError, match=r"data\.check_csv: none of the listed videos"):
        check_labels_in_paths(listing(["ski", "tai chi"], ("a.mp4", 0), ("b.mp4", 1)), table)


# --- leaks ---


def test_video_in_two_splits_is_refused_with_counts_and_three_examples():
    rows = [(f"{i}.mp4", 0, "train") for i in range(10)] + [(f"./sub/../{i}.mp4", 0, "test") for i in range(4)]
    with pytest.raises(UserError, match=r"4 of 10 videos are in two splits: 0\.mp4 in train and test; 1\.mp4 .*; 2\.mp4 [^;]*;") as error:
        check_leaks(listing(["ski"], *rows))
    assert "3.mp4" not in str(error.value)


def test_video_twice_in_one_split_is_no_leak():
    check_leaks(listing(["ski"], ("1.mp4", 0), ("1.mp4", 0), ("2.mp4", 0, "test")))


def test_a_link_to_a_training_video_in_the_test_list_is_a_leak(tmp_path):
    """Old code: two names, hence no leak."""
    (tmp_path / "1.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "1.mp4")
    with pytest.raises(UserError, match=r"1 of 1 videos are in two splits: 1\.mp4 in train and test"):
        check_leaks(Listing([(tmp_path / "1.mp4", 0, "train"), (tmp_path / "link.mp4", 0, "test")], ["ski"]))


# --- mirror ---


def test_mirror_is_refused_where_classes_speak_of_left_or_right(caplog):
    with pytest.raises(UserError, match=r"data\.mirror: 2 of 12 classes name left or right \('moving left' and 'moving right'\)"):
        check_mirror(CLASS_NAMES, True)
    check_mirror(CLASS_NAMES, False)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        check_mirror(CLASS_NAMES, "force")
    assert "forced" in caplog.text


@pytest.mark.parametrize("name", ["turn_left", "TurnRight", "Pushing something from left to right", "LEFT"])
def test_the_word_is_found_in_every_spelling(name):
    with pytest.raises(UserError, match=r"data\.mirror"):
        check_mirror([name, "ski"], True)


def test_words_that_only_contain_left_or_right_are_no_reason():
    check_mirror(["sitting upright", "cleft lip", "brightening", "wright at work"], True)
    check_mirror(kinetics400_names(), True)


def test_a_video_with_two_labels_is_refused_with_counts_and_three_examples():
    rows = [(Path(f"/v/{i}.mp4"), label, "train") for i in range(5) for label in (0, 1)]
    with pytest.raises(UserError, match=r"5 of 6 videos have two labels: 0.mp4 is 'a' and 'b'; .*2.mp4 is 'a' and 'b'; keep one line"):
        check_leaks(Listing([*rows, (Path("/v/9.mp4"), 0, "val")], ["a", "b"]))


def test_examples_of_a_disagreement_are_of_different_classes_as_far_as_there_are_any():
    names = ["a", "b", "c"]
    rows = [(Path(f"/v/{name}/{i}.mp4"), (label + 1) % 3, "train") for label, name in enumerate(names) for i in range(4)]
    with pytest.raises(UserError) as error:
        check_labels_in_paths(Listing(rows, names))
    assert all(f"{name}/0.mp4 says {name!r}" in str(error.value) for name in names)


@pytest.mark.parametrize("names", [["C", "C++"], ["+", "-"], ["volume +", "volume -"], ["+1", "-1"]])
def test_classes_that_differ_in_signs_alone_are_told_apart(names):
    right = [(f"{name}/1.mp4", label) for label, name in enumerate(names)]
    assert check_labels_in_paths(listing(names, *right)) == 2
    with pytest.raises(UserError, match="2 of 2 videos"):
        check_labels_in_paths(listing(names, *((path, 1 - label) for path, label in right)))


@pytest.mark.parametrize(
    "names",
    [
        ["turn clockwise", "turn counterclockwise"],
        ["rotate_CW", "rotate_CCW"],
        ["Clockwise spin", "spinning anti-clockwise"],
        ["leftward", "rightward"],
        ["look leftwards", "look rightwards"],
        ["swipe_L", "swipe_R"],
        ["swipeL", "swipeR"],
        ["swipeleft", "swiperight"],
        ["L2R", "R2L"],
        ["LtoR", "RtoL"],
        ["左转", "右转"],
        ["links abbiegen", "rechts abbiegen"],
        ["linksherum", "rechtsherum"],
        ["tourner à gauche", "tourner à droite"],
        ["girar_izquierda", "girar_derecha"],
        ["pan east", "pan west"],
    ],
)
def test_classes_that_a_mirror_exchanges_are_found_in_every_spelling(names):
    with pytest.raises(UserError, match="2 of 3 classes are exchanged by a mirror") as error:
        check_mirror([*names, "jump"], True)
    assert all(repr(name) in str(error.value) for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["bright", "copyright", "leftover"],
        ["light", "night"],
        ["lock", "rock"],
        ["play", "pray"],
        ["forehand", "backhand"],
        ["up", "down"],
        ["clockwise", "jump"],
        ["east", "jump"],
        ["hidari", "migi"],
    ],
)
def test_classes_that_a_mirror_leaves_alone_may_be_mirrored(names):
    check_mirror(names, True)


def test_a_setting_adds_pairs_in_other_languages():
    with pytest.raises(UserError, match="'hidari muki' and 'migi muki'"):
        check_mirror(["hidari muki", "migi muki"], True, [("hidari", "migi")])
    with pytest.raises(UserError, match="'Sol_el' and 'Sag_el'"):
        check_mirror(["Sol_el", "Sag_el"], True, [("sol", "sag")])
