"""SIGTERM and Ctrl-C: finish the step, save, leave; a second one leaves at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 75  # of the command: stopped, state saved, the same command continues (EX_TEMPFAIL of sysexits.h)


class Stopped(Exception):  # noqa: N818 (it says what happened)
    """Training ended early because it was asked to; what it says is for the user."""


class StopSignals:
    """A context within which the first signal sets `requested`, and the second ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be caught
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this nothing needs finishing: a signal raises Stopped where it arrives. Raises: Stopped, also if one came before."""
        self._at_once = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        if self._at_once:
            raise Stopped
