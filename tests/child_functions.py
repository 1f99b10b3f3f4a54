"""Functions that tests of workers.py call in children; a module of its own that imports little, so that children start fast."""

import os
import signal
import threading
from pathlib import Path


def double(job: int) -> int:
    return 2 * job


def process_id(job: object) -> int:
    return os.getpid()


def refuse(job: int) -> int:
    if job == 3:
        raise ValueError("three is refused")
    return job


def spin(job: str) -> str:
    """Block signals and never return, as a decoder in C may."""
    if job == "spin":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        while True:
            pass
    return job


def hang(job: str) -> str:
    if job == "hang":
        threading.Event().wait()
    return job


def crash(job: tuple[str, int]) -> int:
    """Die the first n times. job: (file that counts the calls, n). Returns: number of this call."""
    file, times = Path(job[0]), job[1]
    with file.open("ab") as counter:
        counter.write(b"x")
    if file.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGSEGV)
    return file.stat().st_size


def leave(job: object) -> None:
    """End the process as exit() of C does."""
    os._exit(3)


def large(job: int) -> bytes:
    return bytes(job)
