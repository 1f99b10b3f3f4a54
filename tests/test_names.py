"""Class names in the forms that datasets publish them in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.names import find_names, read_names
from m2clip_lib.errors import UserError


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


def test_header_of_the_published_table_is_no_class(tmp_path):
    # in the published vocabulary the word "name" came in with the names
    assert "name" not in names_of(tmp_path, "id,name\n0,abseil\n1,ski\n")


def test_a_name_may_begin_with_a_number(tmp_path):
    assert names_of(tmp_path, "3 point shot\nski\n") == ["3 point shot", "ski"]


@pytest.mark.parametrize("text", ["0 a\n1 b\n3 c\n", "2 a\n3 b\n", "id,name\n0,a\n0,b\n", "id,name\nx,a\n1,b\n"])
def test_numbers_with_gaps_are_refused_rather_than_guessed(tmp_path, text):
    with pytest.raises(UserError, match=r"names\.txt: \d lines begin with a number, but not with 0 to \d"):
        names_of(tmp_path, text)


def test_empty_file_and_double_name_are_messages(tmp_path):
    with pytest.raises(UserError, match="no class names"):
        names_of(tmp_path, "\n \n")
    with pytest.raises(UserError, match="'ski' stands there twice"):
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
