"""Fair timing on a machine whose speed drifts: contestants take turns, ratios are computed pair by pair. And rows of the table."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One contestant of one comparison, as a row of the table and as a record of the JSON file.

    rate: in `unit`; None: not measured. relative: how many times as fast as the comparison's first contestant. peak_mib: peak memory.
    more: further figures by name. setup: of a training step that `m2clip train` takes, the settings; `m2clip plan` looks them up.
    """

    what: str
    contestant: str
    rate: float | None = None
    unit: str = ""
    relative: float | None = None
    peak_mib: float | None = None
    more: dict[str, object] = field(default_factory=dict)
    setup: dict[str, object] = field(default_factory=dict)


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


def compared(what: str, seconds: dict[str, list[float]], items: int, unit: str) -> list[Row]:
    """Return one row per contestant: its median rate, and its median speed relative to the first contestant, pair by pair."""
    first = next(iter(seconds.values()))
    return [
        Row(
            what,
            name,
            float(f"{items / statistics.median(values):.3g}"),
            unit,
            round(statistics.median(a / b for a, b in zip(first, values, strict=True)), 2),
        )
        for name, values in seconds.items()
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, padded to be read in a terminal, too; what a row shares with the one above it is left out."""
    lines = [("what", "contestant", "rate", "speed relative to the first", "peak memory", "more"), ("---",) * 6]
    above = ""
    for row in rows:
        memory = "" if row.peak_mib is None else f"{row.peak_mib:,.0f} MiB"
        more = "; ".join(f"{name}: {value}" for name, value in row.more.items())
        rate, relative = (f"{row.rate:g} {row.unit}" if row.rate else ""), ("" if row.relative is None else f"{row.relative:.2f}")
        lines.append(("" if row.what == above else row.what, row.contestant, rate, relative, memory, more))
        above = row.what
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)).rstrip() + " |" for line in lines)
