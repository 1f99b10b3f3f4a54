"""What long work has finished so far, one JSON line a file: it can be stopped at any moment and continued.

A file whose size and time of change are the same is not done again.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Journal:
    """Rows by (path, fingerprint). A line that a kill cut off, or that has other fields than these, does not count."""

    file: Path
    fields: set[str]
    known: dict[tuple[str, str], dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what an earlier try finished."""
        if not self.file.is_file():
            return
        for line in self.file.read_text(encoding="utf-8", errors="replace").split("\n"):
            match _parse(line):
                case {"path": str(path), "file": str(mark), "row": dict(row)} if set(row) == self.fields:
                    self.known[path, mark] = row

    def __enter__(self) -> "Journal":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self.file.open("a", buffering=1, encoding="utf-8")
        self._lines.write("\n")  # ends a line that was cut off
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def add(self, path: str, fingerprint: str, row: dict) -> None:
        """Write one finished file down, at once."""
        self._lines.write(json.dumps({"path": path, "file": fingerprint, "row": row}, ensure_ascii=False) + "\n")
        self.known[path, fingerprint] = row


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def fingerprint(path: str | Path) -> str:
    """Size and time of change of a file."""
    stat = Path(path).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
