"""Which videos a training could not read, and why: told once, and kept in a table of the run."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from m2clip_lib.files import write_atomically

FILE, EXAMPLES = "skipped.csv", 3


def note_skipped(tables: Path, failed: Mapping[str, str]) -> list[str]:
    """Add videos to tables/skipped.csv.

    Args:
        failed: path -> reason.
    Returns: lines about those that were not in it yet: three examples, and how many there are.
    """
    file = tables / FILE
    known = dict(pd.read_csv(file, keep_default_na=False).values) if file.is_file() else {}
    new = {path: reason for path, reason in sorted(failed.items()) if path not in known}
    if not new:
        return []
    rows = pd.DataFrame(sorted((known | new).items()), columns=["path", "reason"])
    write_atomically(file, lambda target: rows.to_csv(target, index=False))
    lines = [f"skipped: {path}: {reason}" for path, reason in list(new.items())[:EXAMPLES]]
    return [*lines, f"skipped: {len(rows)} videos of this run so far, all in {file}"]


def forget_skipped(tables: Path) -> None:
    """A run that starts over has skipped nothing yet."""
    (tables / FILE).unlink(missing_ok=True)
