"""Opening every listed video once, in parallel, in children that can be killed; can be stopped at any time and continued.

Findings go to a journal beside the manifest: adding ten videos to 300,000 opens ten.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from m2clip_lib.data.listing.folders import Listing
from m2clip_lib.data.video.probe import EMPTY, VideoError, bad_row, check_file, probe
from m2clip_lib.data.workers import LIMIT_S, Failure, Journal, call_in_children, fingerprint, with_progress

JOURNAL_FILE = "scan.jsonl"
PROBE = "probe 2"  # changes with what probe() finds in a file: what an older one wrote down is not taken


def scan(listing: Listing, processes: int, folder: Path, limit_s: float = LIMIT_S, report: Callable[[str], None] = print) -> pd.DataFrame:
    """Open every listed video and write down what it is; a broken one becomes a row with a reason.

    Args:
        folder: where the journal lies.
        limit_s: seconds for one file; a decoder that takes longer is killed, and the file gets a status.
    """
    paths = [_printable(path) for path, _, _ in listing.rows]
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
                rows[path] = bad_row(result.reason)  # not written down: on another day the machine may be faster
            else:
                rows[path] = result
                journal.add(path, mark, result)
    return pd.DataFrame(
        {"path": path, "label": label, "class_name": listing.class_names[label], "split": split, **rows[path]}
        for path, (_, label, split) in zip(paths, listing.rows, strict=True)
    )


def probe_row(path: str) -> dict:
    """What the manifest says of one file."""
    try:
        return asdict(probe(path)) | {"status": "ok"}
    except VideoError as error:
        return bad_row(str(error))
    except OSError as error:
        return bad_row(f"cannot be opened: {error.strerror}")


def _look(path: str) -> tuple[str, str]:
    """(what can be said of a file without opening it, its fingerprint)."""
    if "\\x" in path and not Path(path).exists():
        return "file name is not UTF-8: rename it", ""
    try:
        return "ok", f"{fingerprint(check_file(path))} {PROBE}"
    except VideoError as error:
        return str(error), ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}", ""


def _printable(path: Path) -> str:
    """A file name that is not UTF-8 cannot stand in a table: its odd bytes are written as \\xNN, and it becomes a row with a reason."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
