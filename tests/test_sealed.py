"""A sealed file: any flipped or missing byte is noticed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from m2clip_lib.sealed import DamagedFile, check_seal, open_sealed, seal

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


def test_every_single_flipped_bit_is_noticed():
    for place in range(len(CONTENT)):
        for bit in (1, 32):
            damaged = bytearray(CONTENT)
            damaged[place] ^= bit
            with pytest.raises(DamagedFile):
                check_seal(bytes(damaged))


@given(length=st.integers(0, len(CONTENT) - 1), tail=st.binary(max_size=4))
def test_missing_and_added_bytes_are_noticed(length, tail):
    for damaged in (CONTENT[:length], CONTENT[:length] + bytes(len(CONTENT) - length) + b"\x00", CONTENT + tail + b"x"):
        with pytest.raises(DamagedFile):
            check_seal(damaged)


def test_an_empty_state_can_be_sealed_too():
    check_seal(seal({}, {"progress": "{}"}))
