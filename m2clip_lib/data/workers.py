"""Calls in child processes that can be killed: a decoder in C that spins or crashes takes its child with it and nothing else."""

import contextlib
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm


@dataclass(frozen=True)
class Failure:
    """A call that took its child down, and why."""

    reason: str


LIMIT_S = 60.0  # for one file, where nothing else is said
PASSING = ("took more than", "the decoder crashed")  # how reasons begin that may be the machine's: such a call is worth another try


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    place: int = -1  # of the job it works on
    job: Any = None
    deaths: int = 0


def call_in_children(
    function: Callable[[Any], Any], jobs: Iterable[Any], processes: int, limit_s: float | Callable[[Any], float]
) -> Iterator[tuple[int, Any | Failure]]:
    """Call function(job) for every job.

    Args:
        function: of a module, so that a child can import it; what it raises ends the whole iteration.
        limit_s: seconds one call may take; or a function that says it of a job.
    Returns: (place of the job, result) as they come; a Failure for a call that was killed at the limit, or crashed twice.
    """
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # started with the first child, it would unblock SIGINT just before
    waiting = enumerate(jobs)
    children: list[_Child] = []
    limit_of = limit_s if callable(limit_s) else lambda job: limit_s

    def start() -> _Child:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, function), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it: Ctrl-C is ours, from its first moment
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()  # so that its death closes the pipe
        children.append(child := _Child(process, here))
        return child

    def give(child: _Child, place: int, job: Any) -> None:
        child.place, child.job = place, job
        with contextlib.suppress(BrokenPipeError):  # died in between: its closed pipe tells below
            child.pipe.send((job, limit_of(job)))

    try:
        for place, job in waiting:
            give(start(), place, job)
            if len(children) == processes:
                break
        while children:
            for pipe in wait([child.pipe for child in children]):
                child = next(c for c in children if c.pipe is pipe)
                try:
                    result = pipe.recv()
                except (EOFError, ConnectionResetError):
                    children.remove(child)
                    child.process.join()
                    timed_out = child.process.exitcode == -signal.SIGALRM
                    if not timed_out and not child.deaths:  # perhaps the machine killed it for memory: once more
                        give(again := start(), child.place, child.job)
                        again.deaths = 1
                        continue
                    yield child.place, Failure(f"took more than {limit_of(child.job):g} s" if timed_out else _death(child.process.exitcode))
                    child = None
                else:
                    if isinstance(result, BaseException):
                        raise result
                    yield child.place, result
                    child.deaths = 0
                following = next(waiting, None)
                if following is not None:
                    give(child or start(), *following)
                elif child is not None:
                    _dismiss(child)
                    children.remove(child)
    finally:
        for child in children:
            child.process.kill()
            child.process.join()


def _serve(pipe: Connection, function: Callable) -> None:
    """A child's life: one call after another, until the parent hangs up."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel kills us at the limit, whatever a decoder is doing
    while True:
        try:
            job, limit_s = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            result = function(job)
        except Exception as error:  # the parent raises it
            result = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(result)
        except BrokenPipeError:  # the parent was killed
            return


def _dismiss(child: _Child) -> None:
    child.pipe.close()
    child.process.join()


def _death(exit_code: int | None) -> str:
    name = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit {exit_code}"
    return f"the decoder crashed ({name})"


@dataclass
class Journal:
    """Rows by (path, fingerprint). A line that a kill cut off, or that has other fields than these, does not count."""

    file: Path
    fields: set[str]
    known: dict[tuple[str, str], dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what an earlier try finished."""
        if not self.file.is_file():
            return
        for line in self.file.read_text(encoding="utf-8", errors="replace").split("\n"):
            match _parse(line):
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
        """Write one finished file down, at once."""
        self._lines.write(json.dumps({"path": path, "file": fingerprint, "row": row}, ensure_ascii=False) + "\n")
        self.known[path, fingerprint] = row


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def fingerprint(path: str | Path) -> str:
    """Size and time of change of a file."""
    stat = Path(path).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


T = TypeVar("T")
LINE_EVERY_S = 30.0


def with_progress(items: Iterable[T], total: int, what: str, report: Callable[[str], None]) -> Iterator[T]:
    """Pass items on. total: how many will come; what: "opening videos"."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit="file", smoothing=0.05)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and count < total:
            last = now
            rate = count / (now - start)
            report(f"{what}: {count:,} of {total:,}, {rate:.0f} files/s, {(total - count) / rate / 60:.0f} min left")
