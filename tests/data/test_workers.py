"""Calls in children that can be killed: results keep their positions, and a call that ends its child affects no other."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from child_functions import crash, double, hang, large, leave, process_id, refuse, spin

from m2clip_lib.data.workers import Failure, Journal, call_in_children, cores, fingerprint, own
from m2clip_lib.errors import UserError

LONG = 60.0  # seconds; longer than any call here


@pytest.fixture(autouse=True)
def no_child_is_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("jobs", "processes"), [(7, 2), (1, 3), (0, 2)])
def test_every_job_has_its_result_in_its_position(jobs, processes):
    results = list(call_in_children(double, range(jobs), processes, LONG))
    assert sorted(results) == [(place, 2 * place) for place in range(jobs)]


def test_no_more_children_than_jobs_and_each_serves_many():
    assert len({pid for _, pid in call_in_children(process_id, range(8), 1, LONG)}) == 1
    assert len({pid for _, pid in call_in_children(process_id, range(2), 5, LONG)}) <= 2


def test_jobs_are_taken_as_they_are_needed():
    taken = []
    results = call_in_children(double, (taken.append(job) or job for job in range(100)), 1, LONG)
    assert next(results) == (0, 0)
    results.close()
    assert len(taken) == 1


def test_exception_of_a_function_is_raised_here():
    with pytest.raises(ValueError, match="three is refused"):
        list(call_in_children(refuse, range(6), 1, LONG))


def test_result_larger_than_a_pipe_buffer_arrives_complete():
    assert dict(call_in_children(large, [3_000_000], 1, LONG))[0] == bytes(3_000_000)


@pytest.mark.parametrize(("function", "job"), [(spin, "spin"), (hang, "hang")])
def test_call_that_does_not_end_is_killed_at_its_limit_and_the_others_continue(function, job):
    results = dict(call_in_children(function, ["a", job, "b", "c"], 1, 0.3))
    assert results == {0: "a", 1: Failure("took more than 0.3 s"), 2: "b", 3: "c"}


def test_limit_may_depend_on_the_job():
    limits = {"spin": 0.2, "a": LONG}
    results = dict(call_in_children(spin, ["spin", "a"], 1, limits.get))
    assert results == {0: Failure("took more than 0.2 s"), 1: "a"}


@pytest.mark.parametrize(
    ("deaths", "result"), [(1, 2), (2, Failure("the decoder crashed (SIGSEGV)"))], ids=["once is tried again", "twice is a failure"]
)
def test_crash_is_tried_once_more(tmp_path, deaths, result):
    jobs = [(str(tmp_path / "first"), 0), (str(tmp_path / "second"), deaths), (str(tmp_path / "third"), 0)]
    assert dict(call_in_children(crash, jobs, 1, LONG)) == {0: 1, 1: result, 2: 1}
    assert (tmp_path / "second").stat().st_size == 2


def test_each_job_has_its_own_second_try(tmp_path):
    jobs = [(str(tmp_path / str(number)), 1) for number in range(3)]
    assert dict(call_in_children(crash, jobs, 1, LONG)) == {0: 2, 1: 2, 2: 2}


def test_function_that_ends_its_process_is_a_failure():
    assert dict(call_in_children(leave, [0], 1, LONG)) == {0: Failure("the decoder crashed (exit 3)")}


def test_child_that_is_killed_between_two_jobs_is_replaced():
    results = call_in_children(process_id, range(3), 1, LONG)
    place, first = next(results)
    os.kill(first, signal.SIGKILL)  # as the machine does when memory runs out
    later = dict(results)
    assert (place, set(later)) == (0, {1, 2})
    assert first not in later.values()
    assert all(isinstance(pid, int) for pid in later.values())


def test_iteration_that_stops_early_ends_its_children():
    results = call_in_children(process_id, range(100), 2, LONG)
    next(results)
    assert multiprocessing.active_children()
    results.close()
    assert multiprocessing.active_children() == []


# --- work that belongs to one process ---

HOLD = """
import sys
from pathlib import Path
from m2clip_lib.data.workers import own
with own(Path(sys.argv[1]), "holder"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/new/.lock until it reads a line or is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "new" / ".lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_at_once_with_host_and_process_of_the_first(tmp_path, holder):
    line = rf"--run twice: process {holder.pid} on host {re.escape(socket.gethostname())} is at work on it; wait until it ends, or stop it"
    for _ in range(2):  # being refused changes nothing
        with pytest.raises(UserError, match=line), own(tmp_path / "new" / ".lock", "--run twice"):
            pass
    with own(tmp_path / "other" / ".lock", "--run other"):
        pass


@pytest.mark.parametrize("end", ["kill", "line"])
def test_a_lock_is_free_when_its_holder_has_ended_however_it_ended(tmp_path, holder, end):
    holder.kill() if end == "kill" else holder.communicate("end\n")
    holder.wait()
    with own(tmp_path / "new" / ".lock", "--run twice"):
        assert (tmp_path / "new" / ".lock").read_text().splitlines() == [str(os.getpid()), socket.gethostname()]


def test_a_process_does_not_lock_itself_out(tmp_path):
    with own(tmp_path / ".lock", "a"), own(tmp_path / ".lock", "b"):
        assert (tmp_path / ".lock").is_file()
    with own(tmp_path / ".lock", "c"):
        pass


def test_a_lock_from_before_that_names_nobody_is_taken(tmp_path):
    (tmp_path / ".lock").write_text("")
    with own(tmp_path / ".lock", "a"):
        pass


# --- the cores of a job ---

HERE = len(os.sched_getaffinity(0))
PLENTY = f"{100_000 * 10_000} 100000"  # a quota of ten thousand cores


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write /proc/self/cgroup, and files of /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


V1 = "7:memory:/job\n3:cpu,cpuacct:/job/step\n2:cpuset:/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),  # docker run --cpus 1
        ("0::/job\n", {"cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 1),  # half a core is one process
        ("0::/pod/container\n", {"pod/cpu.max": "100000 100000", "pod/container/cpu.max": PLENTY}, 1),  # the narrowest of nested ones
        ("0::/docker/0123456789ab\n", {"cpu.max": "20000 20000"}, 1),  # the path outside the container, which does not exist inside
        ("0::/\n", {"cpu.max": "max 100000"}, HERE),
        ("0::/\n", {"cpu.max": PLENTY}, HERE),
        ("0::/\n", {}, HERE),
        ("", {}, HERE),
        (V1, {"cpu/job/step/cpu.cfs_quota_us": "100000", "cpu/job/step/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "50000"}, 1),
        (V1, {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, HERE),
        (V1 + "0::/\n", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, 1),  # both versions at once
    ],
)
def test_a_jobs_cores_are_those_its_control_groups_allow(tmp_path, groups, files, expected):
    assert cores(machine(tmp_path, groups, files)) == expected


def test_a_quota_between_two_counts_is_rounded_up(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    assert cores(machine(tmp_path / "some", "0::/\n", {"cpu.max": "250000 100000"})) == 3
    assert cores(machine(tmp_path / "all", "0::/\n", {"cpu.max": "max 100000"})) == 64


def test_a_job_bound_to_one_core_of_the_machine_has_one():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})  # as taskset, docker --cpuset-cpus and SLURM do
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


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


def test_rows_are_read_back(file):
    assert Journal(file, FIELDS).known == ROWS


def test_rows_are_on_disk_before_the_work_ends(tmp_path):
    with Journal(tmp_path / "scan.jsonl", FIELDS) as journal:
        journal.add("/a.mp4", "1 1", {"frames": 1, "status": "ok"})
        assert len(Journal(tmp_path / "scan.jsonl", FIELDS).known) == 1


def test_line_cut_off_anywhere_is_ignored_and_affects_no_other(file):
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
def test_lines_of_another_kind_are_ignored(file, line):
    file.write_text(f"{line}\n{file.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    assert Journal(file, FIELDS).known == ROWS


def test_rows_with_other_fields_are_ignored(file):
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
