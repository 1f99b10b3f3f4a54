"""The scan of a dataset: every listed video is opened once, in parallel, in child processes that can be killed.

Findings are kept in a journal beside the manifest: a scan can be stopped and continued, and ten new videos among 300,000 mean ten opened.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.data.listing.recordings import Listing, Span
from m2clip_lib.data.video.probe import EMPTY, NOT_UTF_8, VideoError, bad_row, check_file, probe_row
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.workers import LIMIT_S, Failure, Journal, call_in_children, fingerprint, with_progress

JOURNAL_FILE = "scan.jsonl"
SLACK_S = 0.5  # seconds by which a segment may end after its video: annotators round
INSTANT_S = 1e-6  # seconds; less is an error of rounding
PROBE = "probe 3"  # change it with what probe() finds in a file: entries of another version are ignored


def scan(listing: Listing, processes: int, folder: Path, limit_s: float = LIMIT_S, report: Callable[[str], None] = print) -> pd.DataFrame:
    """Open every listed video and return the manifest's table; a broken video becomes a row with its reason.

    Args:
        folder: where the journal is kept.
        limit_s: seconds per file; a decoder that takes longer is killed, and the file's status says so.
    """
    # A file name that is not UTF-8 cannot be stored in a table: its odd bytes are written as \xNN, and its row has a reason.
    paths = [os.fsencode(path).decode("utf-8", "backslashreplace") for path, _, _ in listing.rows]
    journal = Journal(folder / JOURNAL_FILE, {*asdict(EMPTY), "status"})
    rows: dict[str, dict] = {}
    to_open: list[tuple[str, str]] = []
    for path in dict.fromkeys(paths):
        status, mark = _look(path)
        if status != "ok":
            rows[path] = bad_row(status)
        elif (path, mark) in journal.known:
            rows[path] = journal.known[path, mark]
        else:
            to_open.append((path, mark))
    known = len(rows.keys() & {path for path, _ in journal.known})  # without those that are gone, or have changed since
    if known and to_open:
        report(f"manifest: {known:,} files are known from before, {len(to_open):,} are to be opened")
    with journal:
        results = call_in_children(probe_row, [path for path, _ in to_open], processes, limit_s)
        for place, result in with_progress(results, len(to_open), "opening videos", report):
            path, mark = to_open[place]
            if isinstance(result, Failure):
                rows[path] = bad_row(result.reason)  # not in the journal: the machine may be faster another day
            else:
                rows[path] = result
                journal.add(path, mark, result)
    table = pd.DataFrame(
        {"path": path, "label": label, "class_name": listing.class_names[label], "split": split, **rows[path]}
        for path, (_, label, split) in zip(paths, listing.rows, strict=True)
    )
    return with_segments(table, listing) if listing.labels else table


def _look(path: str) -> tuple[str, str]:
    """Return (the status that can be given without opening the file, its fingerprint)."""
    if "\\x" in path and not Path(path).exists():
        return NOT_UTF_8, ""
    try:
        return "ok", f"{fingerprint(check_file(path))} {PROBE}"
    except VideoError as error:
        return str(error), ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}", ""


def with_segments(table: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """Add what annotation rows say to a scanned table: labels, start_frame, and file_frames; num_frames are then those of the segment.

    A segment holds the frames that begin within [start, end), or the one that is shown then. One beyond its video's end gets a status.
    """
    rows = [_segment(row, span) for row, span in zip(table.itertuples(), listing.spans, strict=True)]
    own = pd.DataFrame(rows, table.index, ["start_frame", "num_frames", "duration_s", "status"])
    return table.assign(labels=list(map(list, listing.labels)), file_frames=table.num_frames, **own)


def _segment(row: tuple, span: Span) -> tuple[int, int, float, str]:
    if span is None or row.status != "ok":
        return 0, row.num_frames, row.duration_s, row.status
    begins = frame_times(row.times)
    last = begins[-1]
    if not last:
        return 0, 0, 0.0, "the file does not say when its frames are shown: no segment can be cut from it"
    if span[0] >= last or span[1] > last + SLACK_S:
        return 0, 0, 0.0, f"segment {span[0]:g} to {span[1]:g} s: beyond the video's end at {last:.2f} s"
    first, end = np.searchsorted(begins[:-1], np.subtract(span, INSTANT_S))
    first = first if first < end else end - 1  # shorter than a frame
    return int(first), int(end - first), float(min(span[1], last) - span[0]), row.status
