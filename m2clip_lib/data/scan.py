"""The scan of a dataset: every listed video is opened once, in parallel, in child processes that can be killed.

Findings are kept in a journal beside the manifest: a scan can be stopped and continued, and ten new videos among 300,000 mean ten opened.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.listing.segments import with_segments
from m2clip_lib.data.video.probe import EMPTY, VideoError, bad_row, check_file, probe_row
from m2clip_lib.data.workers import LIMIT_S, Failure, Journal, call_in_children, fingerprint, with_progress

JOURNAL_FILE = "scan.jsonl"
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
    if journal.known and to_open:
        report(f"manifest: {len(journal.known):,} files are known from before, {len(to_open):,} are to be opened")
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
        return "file name is not UTF-8: rename it", ""
    try:
        return "ok", f"{fingerprint(check_file(path))} {PROBE}"
    except VideoError as error:
        return str(error), ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}", ""
