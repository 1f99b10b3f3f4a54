"""Fair timing on a machine that drifts: contestants take turns, and ratios are taken pair by pair."""

import statistics
import time
from collections.abc import Callable


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant, in turn; one round more to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], items: int, unit: str) -> list[dict]:
    """One row a contestant: median rate, and the median of its speed relative to the first, pair by pair."""
    first = next(iter(seconds.values()))
    return [
        {
            "what": name,
            unit: round(items / statistics.median(values), 1),
            "speed_relative_to_first": round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 2),
        }
        for name, values in seconds.items()
    ]
