"""The cores of this job, calls in child processes that can be killed, a journal of finished files, and locks for work done by one alone.

A decoder written in C that hangs or crashes takes its child process with it and nothing else.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import resource_tracker, set_forkserver_preload
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout
from pebble import CONSTS, ProcessExpired, ProcessPool
from tqdm import tqdm

from m2clip_lib.errors import UserError

LIMIT_S = 60.0  # per file, unless the caller sets another limit
PASSING = ("took more than", "the decoder crashed")  # beginnings of reasons that may be the machine's fault: such files are tried again
UNGUARDED = 113  # exit code of a child whose import of the user's script starts processes
# Seconds between pebble's looks at its children, and between its SIGTERM, which only a child that blocks it survives, and SIGKILL.
CONSTS.sleep_unit, CONSTS.term_timeout = 0.05, 0.2


def cores(system: Path = Path("/")) -> int:
    """Return the number of cores that this job was given: those it may run on, and no more than its control groups allow (rounded up).

    system: the root of the file system.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = system / "proc/self/cgroup"
    quotas = []
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tree, own = system / "sys/fs/cgroup" / ("cpu" if controllers else ""), PurePosixPath(group.lstrip("/"))
        quotas += [_quota(tree / place) for place in (own, *own.parents)]  # in a container, the path's beginning may not exist
    return max(1, math.ceil(min([bound, *quotas])))


def _quota(group: Path) -> float:
    """Return the cores that one control group allows; infinity without a limit. Version 2 keeps them in one file, version 1 in two."""
    files = [group / "cpu.max"] if (group / "cpu.max").is_file() else [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
    if not all(file.is_file() for file in files):
        return math.inf
    quota, period = " ".join(file.read_text() for file in files).split()
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


@dataclass(frozen=True)
class Failure:
    """Why a call that took its child process down has no result."""

    reason: str


def call_in_children(
    function: Callable[[Any], Any], jobs: Iterable[Any], processes: int, limit_s: float | Callable[[Any], float]
) -> Iterator[tuple[int, Any | Failure]]:
    """Call function(job) for every job, in at most `processes` child processes.

    Args:
        function: from a module, so that a child can import it; an exception it raises is raised here and ends the iteration.
        jobs: taken one by one as children become free.
        limit_s: seconds one call may take, or a function that returns them for a job.
    Returns: (position of the job, result) in order of completion; a Failure for a call that was killed at its limit or crashed twice.
    """
    end_unguarded_child()
    limit_of = limit_s if callable(limit_s) else lambda job: limit_s
    waiting = enumerate(jobs)
    children: list[_Child] = []
    running: dict[Future, tuple[_Child, int, Any]] = {}
    crashed: set[int] = set()

    def start(child: _Child | None, place: int, job: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new fork server and its children inherit it
        try:
            if child is None or not child.active:  # it was killed before it had this job
                children.append(child := _Child())
            running[child.schedule(function, args=(job,), timeout=limit_of(job))] = child, place, job
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        for place, job in islice(waiting, processes):
            start(None, place, job)
        while running:
            done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            future = next((future for future, (child, *_) in running.items() if future in done or not child.active), None)
            if future is None:
                continue
            child, place, job = running.pop(future)
            future.cancel()  # changes nothing unless the job was lost on its way to a child that died
            try:
                result = future.result()
            except TimeoutError:
                result = Failure(f"took more than {limit_of(job):g} s")
            except (ProcessExpired, BrokenProcessPool, CancelledError) as death:
                reason = child.why_it_died(isinstance(death, ProcessExpired))
                if place not in crashed:  # the machine may have killed it for its memory: try once more
                    crashed.add(place)
                    start(child, place, job)
                    continue
                result = Failure(f"the decoder crashed ({reason})")
            yield place, result
            for following in islice(waiting, 1):
                start(child, *following)
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.join()


class _Child(ProcessPool):
    """One child process, and the one that pebble starts in its place after a crash.

    A pool of several does not always know which job a child died of: it reads their messages in one thread and their deaths in another.
    """

    def __init__(self) -> None:
        resource_tracker.ensure_running()  # it unblocks SIGINT when it starts, so it must not start together with the first child
        set_forkserver_preload(["m2clip_lib.data.scan", "m2clip_lib.data.video.transcode", "m2clip_lib.data.demo.videos"])
        self.started = _Started()
        super().__init__(1, initializer=_receive_signals, context=self.started)

    def kill(self) -> None:
        """End the process at once; join() then ends the pool."""
        self.stop()
        for process in self.started.processes:
            if process.is_alive():
                process.kill()  # before join() closes what a process that is still starting would look for

    def why_it_died(self, working: bool) -> str:
        """Return the signal or exit code of the latest death. Raises: SystemExit or UserError if the process could not start."""
        code = next((code for process in reversed(self.started.processes) if (code := process.exitcode)), 0)
        if code == UNGUARDED:
            script = getattr(sys.modules["__main__"], "__file__", "the script")
            advice = 'put the call under: if __name__ == "__main__":'
            raise SystemExit(f"m2clip: {script}: starts processes while it is being imported; {advice}")
        if code == 1 and not working:  # Python's own code after a traceback
            raise UserError("child processes end as soon as they start; see the messages above")
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _receive_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler would wait until a decoder's C code returns to Python
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent alone


class _Started(ForkServerContext):
    """Starts processes as "forkserver" does, from one that has imported what they need, and remembers them."""

    def __init__(self) -> None:
        self.processes: list[ForkServerProcess] = []

    def Process(self, **settings: object) -> ForkServerProcess:  # noqa: N802 (multiprocessing's name)
        self.processes.append(ForkServerProcess(**settings))
        return self.processes[-1]


def end_unguarded_child() -> None:
    """End this process if it is a child that runs the user's script again in order to import it; the parent says what to do."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            os._exit(UNGUARDED)  # a fork server turns SystemExit into 1


@contextlib.contextmanager
def own(lock_file: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock for work that belongs to one process; again within the same process, it is held already.

    The system frees it when its holder ends, however it ends; the file remains.
    wait: until another process has ended its work, which then need not be repeated.
    Raises: UserError naming host and process of the holder, unless this one waits.
    """
    end_unguarded_child()
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, is_singleton=True, thread_local=False)
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        process, host, *_ = [*lock_file.read_text(encoding="utf-8").split(), "?", "?"]
        at_work = f"{what}: process {process} on host {host} is at work on it"
        if not wait:
            raise UserError(f"{at_work}; wait until it ends, or stop it") from None
        print(f"{at_work}; waiting", flush=True)
        held = lock.acquire()
    with held:
        if not isinstance(held.lock, SoftFileLock):  # what takes its place where there is no flock, and writes the same lines itself
            lock_file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield


@dataclass
class Journal:
    """Rows by (path, fingerprint), appended to a file; incomplete lines and rows with other fields are ignored."""

    file: Path
    fields: set[str]
    known: dict[tuple[str, str], dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what an earlier attempt finished."""
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file.is_file() else ""
        for line in text.split("\n"):
            with contextlib.suppress(json.JSONDecodeError):
                match json.loads(line):
                    case {"path": str(path), "file": str(mark), "row": dict(row)} if set(row) == self.fields:
                        self.known[path, mark] = row

    def __enter__(self) -> "Journal":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self.file.open("a", buffering=1, encoding="utf-8")
        self._lines.write("\n")  # ends a line that was cut off
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def add(self, path: str, fingerprint: str, row: dict) -> None:
        """Write one finished file to disk at once."""
        self._lines.write(json.dumps({"path": path, "file": fingerprint, "row": row}, ensure_ascii=False) + "\n")
        self.known[path, fingerprint] = row


def fingerprint(path: str | Path) -> str:
    """Return a file's size and modification time."""
    stat = Path(path).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


LINE_EVERY_S = 30.0


def with_progress(items: Iterable[Any], total: int, what: str, report: Callable[[str], None], unit: str = "files") -> Iterator[Any]:
    """Pass items on, showing a progress bar on a terminal and a line every LINE_EVERY_S elsewhere. what: "opening videos"."""
    start = last = time.monotonic()
    bar = tqdm(items, total=total, desc=what, unit=f" {unit}", smoothing=0.05, disable=not sys.stderr.isatty())
    for count, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        if bar.disable and now - last >= LINE_EVERY_S and count < total:
            last = now
            rate = count / (now - start)
            report(f"{what}: {count:,} of {total:,}, {rate:.2g} {unit}/s, {(total - count) / rate / 60:.0f} min left")
