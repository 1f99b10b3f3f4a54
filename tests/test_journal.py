"""The journal of long work: what was finished is known again, whatever stopped it; what is half written or of another kind is not."""

import json
import os

import pytest

from m2clip_lib.data.journal import Journal, fingerprint

FIELDS = {"frames", "status"}
ROWS = {
    ("/videos/one.mp4", "10 1"): {"frames": 3, "status": "ok"},
    ("/videos/滑雪\n2.mp4", "20 2"): {"frames": 0, "status": "empty “file”"},
}


@pytest.fixture
def file(tmp_path):
    """A journal with two rows."""
    file = tmp_path / "new folder" / "scan.jsonl"
    with Journal(file, FIELDS) as journal:
        for (path, mark), row in ROWS.items():
            journal.add(path, mark, row)
    return file


def test_rows_are_known_again(file):
    assert Journal(file, FIELDS).known == ROWS


def test_rows_are_on_disk_before_the_work_ends(tmp_path):
    with Journal(tmp_path / "scan.jsonl", FIELDS) as journal:
        journal.add("/a.mp4", "1 1", {"frames": 1, "status": "ok"})
        assert len(Journal(tmp_path / "scan.jsonl", FIELDS).known) == 1


def test_line_cut_off_anywhere_is_forgotten_and_harms_no_other(file):
    data = file.read_bytes()
    first, second = list(ROWS.items())
    end = data.index(b"\n", 1)
    for length in range(end, len(data) - 1):
        file.write_bytes(data[:length])
        with Journal(file, FIELDS) as journal:
            assert journal.known == dict([first])
            journal.add(*second[0], second[1])
        assert Journal(file, FIELDS).known == ROWS


@pytest.mark.parametrize(
    "line", ["\0\0\0", "12", "[]", "null", '"text"', "{}", '{"path": "/a.mp4"}', '{"path": "/a.mp4", "file": "1 1", "row": 5}']
)
def test_lines_of_another_kind_do_not_count(file, line):
    file.write_text(f"{line}\n{file.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    assert Journal(file, FIELDS).known == ROWS


def test_rows_with_other_fields_do_not_count(file):
    # written by an older version of the workbook
    entry = {"path": "/old.mp4", "file": "1 1", "row": {"frames": 3}}
    file.write_text(file.read_text(encoding="utf-8") + json.dumps(entry) + "\n", encoding="utf-8")
    assert Journal(file, FIELDS).known == ROWS


def test_fingerprint_changes_with_size_and_time(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1")
    first = fingerprint(file)
    file.write_bytes(b"22")
    second = fingerprint(file)
    assert first.split()[0] == "1"
    assert second.split()[0] == "2"
    os.utime(file, ns=(1, 1))
    assert fingerprint(file) == "2 1"
