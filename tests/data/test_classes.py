"""Class names, prompts, vocabulary and their digest."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.video import R3D_18_Weights

from m2clip_lib.data.classes import class_finder, find_names, labels_sha256, name_from_folder, read_names
from m2clip_lib.data.prompts import build_prompts, build_vocabulary
from m2clip_lib.errors import UserError


def test_prompts_are_in_the_order_of_the_names():
    assert build_prompts(["ski", "abseil"], "A video of {}") == ["A video of ski", "A video of abseil"]
    assert build_prompts(["a {strange} name"], "{}, a sport") == ["a {strange} name, a sport"]


def test_vocabulary_is_the_sorted_lower_case_words():
    assert build_vocabulary(["A video of Moving left", "A video of moving UP"]) == ["a", "left", "moving", "of", "up", "video"]


def test_prompts_of_kinetics_400_have_519_words():
    # torchvision carries the canonical names; the published list is the same without round brackets
    names = [name.replace("(", "").replace(")", "") for name in R3D_18_Weights.DEFAULT.meta["categories"]]
    assert len(names) == 400
    assert len(build_vocabulary(build_prompts(names, "A video of {}"))) == 519


def test_digest_is_that_of_the_lines():
    assert labels_sha256(["ski", "滑雪"]) == hashlib.sha256("ski\n滑雪".encode()).hexdigest()


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), min_size=2, max_size=6, unique=True), st.randoms())
def test_digest_sees_a_permutation_of_the_names(names, random):
    other = names.copy()
    random.shuffle(other)
    assert (labels_sha256(other) == labels_sha256(names)) == (other == names)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("brush_hair", "brush hair"),
        ("brush-hair", "brush hair"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("moving left", "moving left"),
        ("__tidy__me", "tidy me"),
        ("TaiChi", "Tai Chi"),
        ("CPR", "CPR"),
        ("滑雪", "滑雪"),
        ("volume -", "volume -"),
        ("-1", "-1"),
        ("C++", "C++"),
        ("plonge\u0301e", "plong\u00e9e"),
    ],
)
def test_folder_becomes_words(folder, name):
    assert name_from_folder(folder) == name


@given(st.text())
def test_name_from_a_folder_stays_the_same_when_converted_again(folder):
    name = name_from_folder(folder)
    assert name_from_folder(name) == name
    assert name == " ".join(name.split())


def names_of(folder, text: str) -> list[str]:
    (folder / "names.txt").write_bytes(text.encode())
    return read_names(folder / "names.txt")


@pytest.mark.parametrize(
    "text",
    [
        "abseil\nhurling (sport)\ntai chi\n",
        "\ufeffabseil\r\n\r\n hurling (sport) \r\ntai chi",
        "0 abseil\n1 hurling (sport)\n2 tai chi\n",
        "3 tai chi\n1 abseil\n2\thurling (sport)\n",
        "id,name\n0,abseil\n1,hurling (sport)\n2,tai chi\n",
        "0,abseil\n1,hurling (sport)\n2, tai chi\n",
        'ID, name\r\n2,"tai chi"\r\n1,hurling (sport)\r\n0,abseil\r\n',
    ],
)
def test_every_form_gives_the_names_in_the_order_of_their_labels(tmp_path, text):
    assert names_of(tmp_path, text) == ["abseil", "hurling (sport)", "tai chi"]


def test_name_with_a_comma_survives_the_table(tmp_path):
    assert names_of(tmp_path, 'id,name\n0,"dancing, salsa"\n1,ski\n') == ["dancing, salsa", "ski"]


def test_header_of_the_published_table_is_not_a_class(tmp_path):
    # in the published vocabulary the word "name" came in with the names
    assert "name" not in names_of(tmp_path, "id,name\n0,abseil\n1,ski\n")


def test_a_name_may_begin_with_a_number(tmp_path):
    assert names_of(tmp_path, "3 point shot\nski\n") == ["3 point shot", "ski"]


def test_a_line_of_nothing_but_a_wide_blank_is_a_name(tmp_path):
    assert names_of(tmp_path, "run\n\u3000\n") == ["run", "\u3000"]


@pytest.mark.parametrize("text", ["0 a\n1 b\n3 c\n", "2 a\n3 b\n", "id,name\n0,a\n0,b\n", "id,name\nx,a\n1,b\n"])
def test_numbers_with_gaps_are_refused_rather_than_guessed(tmp_path, text):
    with pytest.raises(UserError, match=r"names\.txt: \d lines begin with a number, but these are not 0 to \d"):
        names_of(tmp_path, text)


def test_empty_file_and_double_name_are_messages(tmp_path):
    with pytest.raises(UserError, match="no class names"):
        names_of(tmp_path, "\n \n")
    with pytest.raises(UserError, match="'ski' appears twice"):
        names_of(tmp_path, "ski\nrun\nski\n")


def test_kinetics_400_needs_no_file():
    names = find_names("kinetics400")
    assert (len(names), names[0], names[-1]) == (400, "abseiling", "zumba")
    assert "hurling (sport)" in names


@given(
    st.lists(
        st.text("abc é滑,'\"()-", min_size=1).map(lambda text: " ".join(text.split())).filter(bool),
        min_size=2,
        max_size=6,
        unique=True,
    ),
    st.randoms(),
    st.booleans(),
)
def test_numbered_names_come_back_in_order(tmp_path_factory, names, random, from_one):
    lines = [f"{i + from_one} {name}" for i, name in enumerate(names)]
    random.shuffle(lines)
    assert names_of(tmp_path_factory.mktemp("names"), "\n".join(lines)) == names


FORMS = [
    "index,label\n1,walk\n0,run\n",
    "label,name\n0,run\n1,walk\n",
    "name,label\nrun,0\nwalk,1\n",
    "class_id,class_name\n0,run\n1,walk\n",
    "id;name\n0;run\n1;walk\n",
    "ID\tName\n0\trun\n1\twalk\n",
    "Label Name\tLabel ID\nrun\t0\nwalk\t1\n",
    "label,class\n0,run\n1,walk\n",
    '\ufeff"index";"label"\n"0";"run"\n"1";"walk"\n',
    ",name\n0,run\n1,walk\n",
    "id name\n0 run\n1 walk\n",
    "label\nrun\nwalk\n",
    "Class_Name\nrun\nwalk\n",
    "run,0\nwalk,1\n",
    "0;run\n1;walk\n",
    "1. run\n2. walk\n",
    "0: run\n1: walk\n",
    '"run"\n"walk"\n',
]


@pytest.mark.parametrize("text", FORMS)
def test_a_header_in_any_order_and_separator_is_understood(tmp_path, text):
    """Old code: the header became class 0, and all labels were one class off."""
    assert names_of(tmp_path, text) == ["run", "walk"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nr,klasse\n0,run\n1,walk\n", 1),  # unknown words above a table
        ("nummer;bezeichnung\n0;run\n1;walk\n", 1),
        ("id,name,split\n0,run,train\n1,walk,test\n", 1),
        ("id,index\n0,run\n1,walk\n", 1),
        ("label\n0,run\n1,walk\n", 1),  # a header of one column above two
        ("index,label\n", 1),
        ("index,label\n0,run\n1\n", 3),
        ("run 0\nwalk 1\n", 1),  # names that end with a number, or names and indices
        ("# classes\nrun\nwalk\n", 1),
        ('{"run": 0, "walk": 1}\n', 1),
        ('["run",\n "walk"]\n', 1),
        ("- run\n- walk\n", 1),
    ],
)
def test_a_form_that_is_not_known_is_refused_with_its_line(tmp_path, text, line):
    with pytest.raises(UserError, match=rf"names\.txt:{line}: "):
        names_of(tmp_path, text)


def test_names_are_text_whatever_they_look_like(tmp_path):
    names = ["003", "1", "None", "null", "nan", "NA", "True", "+1", "-1", "C++", "C#", "volume +", "volume -", "step 1", "no", "$$"]
    assert names_of(tmp_path, "\n".join(names)) == names
    assert names_of(tmp_path, "index,label\n" + "\n".join(f"{i},{name}" for i, name in enumerate(names))) == names


def test_names_are_composed_whatever_bytes_a_file_has(tmp_path):
    assert names_of(tmp_path, "plonge\u0301e\nrun\n") == ["plong\u00e9e", "run"]


@pytest.mark.parametrize(
    ("one", "other"), [("plong\u00e9e", "plonge\u0301e"), ("Run", "run"), ("tai chi", "tai  chi"), ("a\u00a0b", "a b")]
)
def test_two_names_that_look_like_one_are_refused_with_both(tmp_path, one, other):
    with pytest.raises(UserError, match="look like one class") as error:
        names_of(tmp_path, f"ski\n{one}\n{other}\n")
    assert all(repr(name) in str(error.value) or ascii(name) in str(error.value) for name in (one, other))


def test_a_folder_finds_its_name_only_where_one_name_fits():
    find = class_finder(["hurling (sport)", "C++", "C#", "volume +", "volume -", "go!", "go?", "plong\u00e9e", "brush hair"])
    assert [find(folder) for folder in ("Hurling_Sport", "HurlingSport", "C#", "c++", "volume_-", "plonge\u0301e", "brush-hair")] == [
        *(0, 0, 2, 1, 4, 7, 8)
    ]
    assert [find(folder) for folder in ("C", "go", "volume", "ski", "")] == [None] * 5
    assert find("go?") == 6
