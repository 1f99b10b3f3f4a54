"""Fair timing on a machine whose speed drifts: contestants take turns, and ratios are computed pair by pair."""

import statistics
import time
from collections.abc import Callable


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant per round, taken in turns; an extra first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], items: int, unit: str) -> list[dict]:
    """Return one row per contestant: its median rate, and its median speed relative to the first contestant, pair by pair."""
    first = next(iter(seconds.values()))
    return [
        {
            "what": name,
            unit: float(f"{items / statistics.median(values):.3g}"),
            "speed_relative_to_first": round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 2),
        }
        for name, values in seconds.items()
    ]
