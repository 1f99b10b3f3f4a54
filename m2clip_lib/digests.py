"""Digest of the library's code: results made by other code are made again."""

import hashlib
from pathlib import Path

NOT_INPUTS = (  # code that cannot change a step's result
    "cli.py", "__main__.py", "workbook.py", "viz/report.py", "viz/widgets.py", "viz/explorer.py", "viz/cards.py", "viz/live.py",
)  # fmt: skip


def code_digest(core: bool = False) -> str:
    """Digest of the library's code that results depend on: after a change of code a run is made again.

    core: only what decides numbers, without the figures: what a long training hangs on.
    """
    root = Path(__file__).parent
    files = [file for file in sorted(root.rglob("*")) if file.suffix in {".py", ".json", ".csv"}]
    kept = [file for file in files if file.relative_to(root).as_posix() not in NOT_INPUTS]
    kept = [file for file in kept if not (core and file.is_relative_to(root / "viz"))]
    return hash_texts(*(f"{file.relative_to(root)}\n{file.read_text()}" for file in kept))


def hash_texts(*parts: str) -> str:
    """SHA-256 of several texts."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
