"""Sealed files detect any flipped or missing byte; atomic writes leave the old file or the new one."""

import errno
import json
import os
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load

from m2clip_lib.errors import UserError
from m2clip_lib.files import DamagedFile, check_seal, open_sealed, seal, storage_error, write_atomically, write_json

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


def fsync_that_fails(number: int, folders: bool):
    """An os.fsync that answers this error for folders, or for files."""

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) == folders:
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_flushed_can_be_written_to(tmp_path, monkeypatch, number):
    """Network and FUSE folders (CIFS, VirtualBox shares) answer so; before, nothing could be written there."""
    monkeypatch.setattr(os, "fsync", fsync_that_fails(number, folders=True))
    write_json(tmp_path / "new" / "a.json", {"a": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}


@pytest.mark.parametrize(("number", "folders"), [(errno.EIO, True), (errno.EIO, False), (errno.EINVAL, False)])
def test_a_disk_that_loses_what_is_written_is_an_error(tmp_path, monkeypatch, number, folders):
    monkeypatch.setattr(os, "fsync", fsync_that_fails(number, folders))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_json(tmp_path / "a.json", {"a": 1})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/scan.jsonl"), "/data/scan.jsonl: the disk is full; .*free some space"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "^the disk is full"),  # a write to an open file names none
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/home/a"), "/home/a: the disk quota is used up; "),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/repo/results/demo"),
            "/repo/results/demo: the file system is read-only; .*M2CLIP_R",
        ),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/root/.cache"),
            "/root/.cache: permission denied; give this user access",
        ),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "os error 30.: the file system is read-only; keep results"),
        (NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "a/b"), "^a/b: a file is where a folder has to be; give"),
        (IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "a"), "^a: is a folder; give the name of a file"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "aaa"), "^aaa: the name is too long; give a shorter one"),
        (RuntimeError("Could not determine home directory."), "^Could not determine home directory: set HOME"),
    ],
)
def test_an_error_of_the_storage_says_where_and_what_to_do(error, line):
    with pytest.raises(UserError, match=line):
        raise storage_error(error)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, os.strerror(errno.EIO), "/data"), FileNotFoundError(2, "No such file", "a"), KeyError("x")]
)
def test_other_errors_are_not_explained_away(error):
    assert storage_error(error) is None


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"out/run.json: a file is where a folder has to be; give another place"):
        write_json(tmp_path / "out" / "run.json", {})


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match=r"run.json: the file system is read-only; keep results"):
        write_json(tmp_path / "new" / "run.json", {})
