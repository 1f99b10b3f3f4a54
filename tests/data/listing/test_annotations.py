"""Official annotation files of known datasets -> (path, label, split); no video is opened here."""

import json
from pathlib import Path

import pytest

from m2clip_lib.data.listing.annotations import list_hmdb51, list_k600_zero_shot, list_kinetics, list_ssv2, list_ucf101
from m2clip_lib.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def short(listing, root: Path) -> list[tuple[str, int, str]]:
    return [(path.relative_to(root).as_posix(), label, split) for path, label, split in listing.rows]


# --- Kinetics ---

HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_table_finds_files_flat_or_in_class_folders_with_or_without_times(tmp_path):
    (tmp_path / "train.csv").write_text(
        HEADER + "tai chi,id1,4,14,train\nabseil,id2,0,10,train\n" + '"dancing, salsa",id3,0,10,train\ntai chi,id4,1.0,11.0,train\n'
    )
    (tmp_path / "val.csv").write_text(HEADER + "abseil,id5,0,10,val\n")
    root = tmp_path / "videos"
    touch(root, "tai chi/id1_000004_000014.mp4", "id2_000000_000010.mp4", "dancing,_salsa/id3.mp4", "id4.mp4")
    listing = list_kinetics(root, {"train": tmp_path / "train.csv", "val": tmp_path / "val.csv"})
    assert listing.class_names == ["abseil", "dancing, salsa", "tai chi"]
    assert short(listing, root) == [
        ("tai chi/id1_000004_000014.mp4", 2, "train"),
        ("id2_000000_000010.mp4", 0, "train"),
        ("dancing,_salsa/id3.mp4", 1, "train"),
        ("id4.mp4", 2, "train"),
        ("abseil/id5_000000_000010.mp4", 0, "val"),  # a missing video is still a row
    ]


def test_kinetics_files_are_found_by_any_extension_in_split_folders_and_without_brackets(tmp_path):
    """As downloaders write them; the published names leave the round brackets out."""
    (tmp_path / "train.csv").write_text(HEADER + "hurling (sport),id1,0,10,train\nski,id2,0,10,train\nski,id3,0,10,train\n")
    (tmp_path / "val.csv").write_text(HEADER + "ski,id4,0,10,validate\nski,id5,0,10,validate\n")
    root = tmp_path / "videos"
    touch(root, "train/hurling sport/id1_000000_000010.mkv", "train/id2.webm", "id3.MP4")
    touch(root, "validate/ski/id4.mp4", "val/other/id5.mp4", "val/ski/id5.mp4")
    listing = list_kinetics(root, {"train": tmp_path / "train.csv", "val": tmp_path / "val.csv"})
    assert [path for path, *_ in short(listing, root)] == [
        "train/hurling sport/id1_000000_000010.mkv",
        "train/id2.webm",
        "id3.MP4",
        "validate/ski/id4.mp4",
        "val/ski/id5.mp4",  # of two files with the same name, the one in the folder of its class
    ]


def test_one_kinetics_table_of_all_splits_gives_each_its_own_rows(tmp_path):
    table = tmp_path / "all.csv"
    table.write_text(HEADER + "ski,a,0,10,train\nski,b,0,10,validate\nski,c,0,10,test\n")
    rows = list_kinetics(tmp_path, dict.fromkeys(("train", "val", "test"), table)).rows
    assert [(path.stem[0], split) for path, _, split in rows] == [("a", "train"), ("b", "val"), ("c", "test")]
    table.write_text(HEADER + "ski,b,0,10,validate\nski,c,0,10,test\n")
    with pytest.raises(UserError, match="given for 'train', but its column 'split' says 'test', 'val'"):
        list_kinetics(tmp_path, {"train": table})
    table.write_text(HEADER + "ski,c,0,10,test\n")
    with pytest.raises(UserError, match="given for 'train', but its column 'split' says 'test'"):
        list_kinetics(tmp_path, {"train": table})
    table.write_text(HEADER + "ski,b,0,10,validate\n")  # evaluating on the validation table is what most do
    assert list_kinetics(tmp_path, {"test": table}).rows[0][2] == "test"


def test_missing_kinetics_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*gone\.csv"):
        list_kinetics(tmp_path, {"train": tmp_path / "gone.csv"})


@pytest.mark.parametrize(
    "text",
    ["name,id\nski,x\n", HEADER + "ski,id1\n", HEADER + "ski,id1,zero,ten,train\n", "youtube_id,time_start,time_end,split\nx,0,1,test\n"],
)
def test_kinetics_table_with_missing_columns_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=r"train\.csv"):
        list_kinetics(tmp_path, {"train": tmp_path / "train.csv"})


def test_kinetics_table_may_start_with_a_byte_order_mark(tmp_path):
    (tmp_path / "train.csv").write_bytes(("\ufeff" + HEADER + "ski,id1,0,10,train\n").encode())
    assert list_kinetics(tmp_path, {"train": tmp_path / "train.csv"}).class_names == ["ski"]


# --- Something-Something v2 ---


def ssv2(tmp_path: Path, entries: object, labels: object) -> tuple[dict[str, Path], Path]:
    (tmp_path / "train.json").write_text(json.dumps(entries))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    return {"train": tmp_path / "train.json"}, tmp_path / "labels.json"


def test_ssv2_templates_map_to_labels_without_their_brackets(tmp_path):
    labels = {"Putting something on something": "1", "Pushing something": "0", "Folding something": "2"}
    entries = [
        {"id": "74225", "label": "putting cup on table", "template": "Putting [something] on [something]"},
        {"id": "7", "template": "Folding [something]"},
    ]
    listing = list_ssv2(tmp_path, *ssv2(tmp_path, entries, labels))
    assert listing.class_names == ["Pushing something", "Putting something on something", "Folding something"]
    assert short(listing, tmp_path) == [("74225.webm", 1, "train"), ("7.webm", 2, "train")]


def test_ssv2_template_without_a_label_is_named_with_its_video(tmp_path):
    with pytest.raises(UserError, match=r"train\.json: video 9: template 'Eating something'"):
        list_ssv2(tmp_path, *ssv2(tmp_path, [{"id": "9", "template": "Eating [something]"}], {"Pushing something": "0"}))


@pytest.mark.parametrize("entries", [[{"id": "9"}], {"id": "9"}])
def test_ssv2_list_of_another_form_is_an_error_that_names_the_file(tmp_path, entries):
    # the published test list, for one, has ids and no templates
    with pytest.raises(UserError, match=r"train\.json"):
        list_ssv2(tmp_path, *ssv2(tmp_path, entries, {"Pushing something": "0"}))


def test_ssv2_labels_that_leave_out_a_number_are_refused(tmp_path):
    # class_names is indexed by label: a gap would give every later class a wrong name
    with pytest.raises(UserError, match=r"labels\.json"):
        list_ssv2(tmp_path, *ssv2(tmp_path, [{"id": "9", "template": "B"}], {"A": "0", "B": "2"}))


def test_ssv2_file_that_is_not_json_is_an_error_that_names_it(tmp_path):
    lists, labels = ssv2(tmp_path, [], {"A": "0"})
    lists["train"].write_text("id,template\n")
    with pytest.raises(UserError, match=r"train\.json"):
        list_ssv2(tmp_path, lists, labels)


# --- UCF101 ---


def ucf101(folder: Path, train: str, test: str = "", names: str = "1 ApplyEyeMakeup\n2 HandstandPushups\n3 YoYo\n", split: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "classInd.txt").write_bytes(names.encode())
    (folder / f"trainlist0{split}.txt").write_bytes(train.encode())
    (folder / f"testlist0{split}.txt").write_bytes(test.encode())
    return folder


def test_ucf101_labels_count_from_one_and_test_takes_its_folders(tmp_path):
    annotations = ucf101(
        tmp_path / "lists",
        "\ufeffApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nYoYo/v_YoYo_g09_c02.avi 3 \r\n\r\n",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n",
    )
    root = tmp_path / "videos"
    touch(root, "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "v_YoYo_g09_c02.avi")  # in class folders, or flat
    listing = list_ucf101(root, annotations, 1)
    assert listing.class_names == ["Apply Eye Makeup", "Handstand Pushups", "Yo Yo"]
    assert short(listing, root) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", 0, "train"),
        ("v_YoYo_g09_c02.avi", 2, "train"),
        ("HandstandPushups/v_HandStandPushups_g01_c01.avi", 1, "test"),
    ]


@pytest.mark.parametrize(
    ("train", "test", "where"),
    [
        ("YoYo/v_YoYo_g01_c01.avi 4\n", "", r"trainlist02\.txt:1"),
        ("YoYo/v_YoYo_g01_c01.avi 0\n", "", r"trainlist02\.txt:1"),
        ("YoYo/v_YoYo_g01_c01.avi\n", "", r"trainlist02\.txt:1"),
        ("", "\nYoYo/a.avi\nJuggling/b.avi\n", r"testlist02\.txt:3"),
        ("", "b.avi\n", r"testlist02\.txt:1"),
    ],
)
def test_bad_line_of_ucf101_is_named(tmp_path, train, test, where):
    with pytest.raises(UserError, match=f"{where}.*1 to 3"):
        list_ucf101(tmp_path, ucf101(tmp_path / "lists", train, test, split=2), 2)


def test_missing_list_of_ucf101_is_named(tmp_path):
    annotations = ucf101(tmp_path / "lists", "YoYo/a.avi 3\n")
    with pytest.raises(UserError, match=r"no such file: .*trainlist03\.txt"):
        list_ucf101(tmp_path, annotations, 3)


# --- HMDB51 ---


def test_hmdb51_takes_ones_for_training_twos_for_test_and_leaves_zeros(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "brush_hair_test_split1.txt").write_text("April [09] & #2_brush_hair_1.avi 1 \nb_2.avi 2 \nc_3.avi 0 \n")
    (lists / "brush_hair_test_split2.txt").write_text("b_2.avi 1\n")
    (lists / "wave_test_split1.txt").write_bytes(b"d_1.avi 2\r\n")
    (lists / "wave_test_split2.txt").write_text("")
    root = tmp_path / "videos"
    touch(root, "brush_hair/April [09] & #2_brush_hair_1.avi", "d_1.avi")
    listing = list_hmdb51(root, lists, 1)
    assert listing.class_names == ["brush hair", "wave"]
    assert short(listing, root) == [
        ("brush_hair/April [09] & #2_brush_hair_1.avi", 0, "train"),
        ("brush_hair/b_2.avi", 0, "test"),
        ("d_1.avi", 1, "test"),
    ]
    second = list_hmdb51(root, lists, 2)  # a class without a video keeps its label
    assert (second.class_names, short(second, root)) == (["brush hair", "wave"], [("brush_hair/b_2.avi", 0, "train")])


def test_hmdb51_names_the_line_the_file_and_the_folder_that_are_wrong(tmp_path):
    with pytest.raises(UserError, match=r"no <class>_test_split1\.txt in .*; set data\.annotations"):
        list_hmdb51(tmp_path, tmp_path, 1)
    (tmp_path / "wave_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(UserError, match=r"wave_test_split1\.txt:2: 'b\.avi 3'"):
        list_hmdb51(tmp_path, tmp_path, 1)
    (tmp_path / "run_test_split2.txt").write_text("a.avi 1\n")
    with pytest.raises(UserError, match=r"run_test_split1\.txt is missing"):
        list_hmdb51(tmp_path, tmp_path, 1)


# --- Kinetics-600 zero-shot ---


def test_zero_shot_list_keeps_the_classes_that_occur_in_their_order(tmp_path):
    (tmp_path / "split1.txt").write_text("a.mp4 4\nb c.mp4 1\nd.mp4 4\n")
    listing = list_k600_zero_shot(tmp_path, tmp_path / "split1.txt", ["v", "w", "x", "y", "z"])
    assert listing.class_names == ["w", "z"]
    assert short(listing, tmp_path) == [("a.mp4", 1, "test"), ("b c.mp4", 0, "test"), ("d.mp4", 1, "test")]


# --- files of any video ending ---


def test_ssv2_finds_videos_of_any_ending_anywhere(tmp_path):
    for name in ("1.mp4", "2.AVI", "part 2/3.mkv", "4.mp4", "4.webm", "@eaDir/5.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    entries = [{"id": number, "template": "Pushing [something]"} for number in "12345"]
    listing = list_ssv2(tmp_path, *ssv2(tmp_path, entries, {"Pushing something": "0"}))
    assert [path.relative_to(tmp_path).as_posix() for path, *_ in listing.rows] == ["1.mp4", "2.AVI", "part 2/3.mkv", "4.webm", "5.webm"]
    assert any(line.startswith("passed over: 1 hidden or written by the system") for line in listing.passed)


@pytest.mark.parametrize("folder", ["Archery", "."])
def test_ucf101_and_hmdb51_find_videos_of_any_ending(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("v_Archery_g01_c01.mp4", "v_Archery_g02_c01.webm", "robin.MKV"):
        (tmp_path / folder / name).touch()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n")
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\nArchery/v_Archery_g03_c01.avi\n")
    (lists / "Archery_test_split1.txt").write_text("robin.avi 1\n")
    found = [path.name for path, *_ in [*list_ucf101(tmp_path, lists, 1).rows, *list_hmdb51(tmp_path, lists, 1).rows]]
    assert found == ["v_Archery_g01_c01.mp4", "v_Archery_g02_c01.webm", "v_Archery_g03_c01.avi", "robin.MKV"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_kinetics_table_may_have_other_separators_and_capitals(tmp_path, separator):
    (tmp_path / "a.csv").write_text("YouTube_ID,Label,Time_Start,Time_End\nabc,ski,1,11\n".replace(",", separator))
    assert list_kinetics(tmp_path, {"train": tmp_path / "a.csv"}).class_names == ["ski"]
