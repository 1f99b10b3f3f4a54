"""When each frame of a video is shown, from its presentation timestamps, as a short text that fits into a table.

The text is a tick in seconds, then for how many ticks each frame is shown: "1/25 24x1" are 24 frames of 1/25 s; "1/1000 2x40 900" are two
of 40 ms and one of 900 ms. Imports no torch: a scan's children start fast.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby

import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream
from numpy.typing import NDArray

LONGEST_PAUSE_S = 10  # between two frames of a broadcast, whose clock may jump; more is a cut, as it is for FFmpeg


def describe_times(container: InputContainer, stream: VideoStream, stamps: Sequence[int | None]) -> str:
    """Return the text for frames with these timestamps, in the order they are shown; its tick is 0 if nothing tells their times.

    Frames without a timestamp are spread evenly between their neighbours. Where the clock goes back, or that of a broadcast jumps,
    recordings were joined: the frame before is shown as long as most are. The last frame is shown as long as the one before it.
    """
    rate = stream.average_rate or stream.guessed_rate
    tick = stream.time_base or (1 / rate if rate else Fraction(0))
    known = np.array([number for number, stamp in enumerate(stamps) if stamp is not None], int)
    between = np.diff(known)  # frames, from one timestamp to the next
    steps = np.diff(np.array([stamps[number] for number in known], float)) / between
    steps[steps < 0] = np.nan
    if container.format.flags & Flags.ts_discont.value:
        steps[steps * float(tick) > LONGEST_PAUSE_S] = np.nan
    ticks = np.full(len(stamps), np.nan)
    if len(known):
        ticks[known[0] : known[-1]] = np.repeat(steps, between)
    if rate:  # timestamps that are those of a constant rate, rounded to ticks, are kept as such
        per_tick = float(rate * tick)  # frames
        off = np.nan_to_num(ticks[:-1] * per_tick, nan=1.0).cumsum() - np.arange(1, len(ticks))
        if np.abs(off).max(initial=0) <= min(1.001 * per_tick, 0.5):
            return f"{1 / rate} {len(ticks)}x1"
    if not np.nansum(ticks):
        return f"0 {len(ticks)}x1"
    ticks[np.isnan(ticks)] = np.nanmedian(ticks)  # the last is among them
    ticks[-1] = ticks[-2]
    lengths = np.diff(ticks.cumsum().round(), prepend=0).astype(int).tolist()
    runs = ((len(list(run)), length) for length, run in groupby(lengths))
    return " ".join([str(tick), *(f"{count}x{length}" if count > 1 else str(length) for count, length in runs)])


def frame_times(text: str) -> NDArray[np.float64]:
    """Return when each frame begins, in seconds after the first, and when the last one ends: (frames + 1,)."""
    tick, *runs = text.split()
    counts, lengths = zip(*(map(int, run.split("x") if "x" in run else (1, run)) for run in runs), strict=True)
    return np.concatenate([[0], np.repeat(lengths, counts).cumsum()]) * Fraction(tick).numerator / Fraction(tick).denominator
