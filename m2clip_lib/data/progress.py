"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

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
