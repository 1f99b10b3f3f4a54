"""Class names, prompts, vocabulary and their digest."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.video import R3D_18_Weights

from m2clip_lib.data.classes import find_names, labels_sha256, name_from_folder, read_names
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
    st.lists(st.text("abc é滑,'\"()-", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6, unique=True),
    st.randoms(),
    st.booleans(),
)
def test_numbered_names_come_back_in_order(tmp_path_factory, names, random, from_one):
    lines = [f"{i + from_one} {name}" for i, name in enumerate(names)]
    random.shuffle(lines)
    assert names_of(tmp_path_factory.mktemp("names"), "\n".join(lines)) == names
