"""Tables as CSV: class names come back as they were, nothing is a formula, numbers are numbers; headers are recognised by their words."""

import csv
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.csvfiles import find_header, read_csv, write_csv

NAMES = ["1", "003", "None", "null", "nan", "NA", "True", "=1+1", "+1", "-1", "@home", "\ttab", "'=x", "''+", "a,b", "滑雪", '"', "inf"]


def test_names_stay_text_and_numbers_stay_numbers(tmp_path):
    table = pd.DataFrame({"class_name": NAMES, "videos": range(len(NAMES)), "top1": math.nan, "counted": True})
    table.loc[0, "top1"] = -0.5
    write_csv(tmp_path / "a.csv", table)
    found = read_csv(tmp_path / "a.csv")
    assert found.class_name.tolist() == NAMES
    assert found.videos.tolist() == list(range(len(NAMES)))
    assert found.top1[0] == -0.5
    assert found.top1[1:].isna().all()
    assert found.counted.tolist() == [True] * len(NAMES)


def test_no_cell_and_no_header_begins_a_formula(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame([[name] * len(NAMES) for name in NAMES], columns=NAMES))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert not [cell for row in rows for cell in row if cell[0] in "=+-@\t\r"]
    assert rows[0][7:9] == ["'=1+1", "'+1"]
    assert list(read_csv(tmp_path / "a.csv")) == NAMES


@given(st.lists(st.text("'=+-@1.e aé", min_size=1), min_size=1, max_size=5))
def test_any_name_comes_back(tmp_path_factory, names):
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(file, pd.DataFrame({"class_name": names}))
    assert read_csv(file).class_name.tolist() == names


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffclass_name,videos\nskiing,3\n".encode())
    assert list(read_csv(tmp_path / "a.csv")) == ["class_name", "videos"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ID , Class Name", (",", ["id", "classname"])),
        ('"class-name";"Id"', (";", ["classname", "id"])),
        ("id\tclass_name", ("\t", ["id", "classname"])),
        ("id classname", (" ", ["id", "classname"])),
        ("id,colour", None),
        ("id", None),
    ],
)
def test_a_header_is_known_by_its_words(line, found):
    assert find_header(line, {"id", "classname"}) == found


def test_classes_named_like_columns_keep_columns_of_their_own(tmp_path):
    names = ["true_class", "model", "path", "accuracy"]
    table = pd.DataFrame([[row * 4 + column for column in range(4)] for row in range(4)], columns=names)
    table.insert(0, "true_class", names, allow_duplicates=True)
    write_csv(tmp_path / "confusion.csv", table)
    found = read_csv(tmp_path / "confusion.csv")
    assert found.iloc[:, 0].tolist() == names
    assert found.iloc[:, 1:].to_numpy(int).ravel().tolist() == list(range(16))
    assert pd.read_csv(tmp_path / "confusion.csv").drop(columns="true_class").to_numpy().ravel().tolist() == list(range(16))


def test_the_names_of_a_confusion_table_are_text_and_the_shares_of_another_are_numbers(tmp_path):
    write_csv(tmp_path / "confusion.csv", pd.DataFrame({"true_class": ["1", "003"], "1": [4, 0], "003": [1, 3]}))
    assert read_csv(tmp_path / "confusion.csv").true_class.tolist() == ["1", "003"]
    write_csv(tmp_path / "shares.csv", pd.DataFrame({"played": ["forwards"], "true_class": [91.5], "opposite_class": [2.25]}))
    assert read_csv(tmp_path / "shares.csv").iloc[0, 1:].tolist() == [91.5, 2.25]
