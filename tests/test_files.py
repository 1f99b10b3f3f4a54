"""Sealed files detect any flipped or missing byte; atomic writes leave the old file or the new one."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load

from m2clip_lib.errors import UserError
from m2clip_lib.files import DamagedFile, check_seal, open_sealed, seal, write_atomically, write_json

CONTENT = seal({"a": torch.arange(40.0), "b": torch.ones(3, dtype=torch.int64)}, {"progress": '{"sha256":"' + "0" * 64 + '"}'})


def test_a_sealed_file_is_a_safetensors_file_and_passes(tmp_path):
    check_seal(CONTENT)
    assert load(CONTENT)["a"].tolist() == list(range(40))
    (tmp_path / "a").write_bytes(CONTENT)
    assert open_sealed(tmp_path / "a")[0]["b"].tolist() == [1, 1, 1]


def test_the_same_content_is_the_same_file():
    tensors, about = {"b": torch.ones(3), "a": torch.zeros(2)}, {"z": "1", "progress": "2", "more": "é"}
    assert len({seal(tensors, about) for _ in range(50)}) == 1
    assert load(seal(tensors, about))["b"].tolist() == [1, 1, 1]


def test_every_single_flipped_bit_is_detected():
    for place in range(len(CONTENT)):
        for bit in (1, 32):
            damaged = bytearray(CONTENT)
            damaged[place] ^= bit
            with pytest.raises(DamagedFile):
                check_seal(bytes(damaged))


@given(length=st.integers(0, len(CONTENT) - 1), tail=st.binary(max_size=4))
def test_missing_and_added_bytes_are_detected(length, tail):
    for damaged in (CONTENT[:length], CONTENT[:length] + bytes(len(CONTENT) - length) + b"\x00", CONTENT + tail + b"x"):
        with pytest.raises(DamagedFile):
            check_seal(damaged)


def test_an_empty_state_can_be_sealed_too():
    check_seal(seal({}, {"progress": "{}"}))


def test_a_written_file_holds_its_content_and_leaves_no_other_file(tmp_path):
    write_atomically(tmp_path / "new" / "folder" / "a.txt", lambda file: file.write_text("one"))
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "one"
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_failing_write_leaves_the_old_file_and_no_temporary(tmp_path, failure):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def half_a_write(temporary):
        temporary.write_text("ne")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(file, half_a_write)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_file_is_intact_until_the_new_one_is_complete(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def look_while_writing(temporary):
        temporary.write_text("new")
        assert file.read_text() == "old"

    write_atomically(file, look_while_writing)
    assert file.read_text() == "new"


def test_the_temporary_file_is_beside_the_target_so_that_the_rename_stays_on_one_disk(tmp_path):
    places = []
    write_atomically(tmp_path / "a.txt", lambda file: places.append(file.parent) or file.write_text(""))
    assert places == [tmp_path]


def test_json_keeps_letters_of_every_language(tmp_path):
    value = {"class_names": ["лыжи", "滑雪", "a b"], "n": 1}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "滑雪" in text


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"not json": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_gives_one_line_and_leaves_the_old_file(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def full(temporary):
        temporary.write_text("ne")
        raise error

    with pytest.raises(UserError, match=r"a.txt: the disk is full; .*free some space"):
        write_atomically(file, full)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
