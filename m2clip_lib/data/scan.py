"""Opening every listed video once, in parallel, in children that can be killed; can be stopped at any time and continued.

Findings go to a journal beside the manifest: adding ten videos to 300,000 opens ten.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from m2clip_lib.data.children import Failure, call_in_children
from m2clip_lib.data.journal import Journal, fingerprint
from m2clip_lib.data.layouts import Listing
from m2clip_lib.data.probe import VideoError, VideoInfo, check_file, probe
from m2clip_lib.data.progress import with_progress

JOURNAL_FILE = "scan.jsonl"
PROBE = "probe 2"  # changes with what probe() finds in a file: what an older one wrote down is not taken
EMPTY = VideoInfo(num_frames=0, fps=0.0, duration_s=0.0, width=0, height=0, codec="", decord=False)
LIMIT_S = 60.0


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


def bad_row(status: str) -> dict:
    """The row of a file that cannot be used."""
    return asdict(EMPTY) | {"status": status}


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
