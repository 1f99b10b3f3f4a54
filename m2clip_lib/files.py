"""Writing files so that a crash leaves the old one or the new one, never half of either."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from m2clip_lib.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, then rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Indented, atomic."""
    write_atomically(path, lambda file: file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))


def check_space(folder: Path, needed: int, what: str) -> None:
    """Before long work: is there room for `needed` bytes in folder?

    Raises: UserError with both figures.
    """
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{what}: needs about {show_bytes(needed)} in {folder}, {show_bytes(free)} are free; make room or choose another place"
        )


def show_bytes(count: float) -> str:
    """1536 -> "1.5 KB" (1 KB = 1024 bytes)."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
