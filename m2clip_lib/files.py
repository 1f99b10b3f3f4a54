"""Writing files so that a crash leaves the old one or the new one, never half of either."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from m2clip_lib.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, then rename it into place.

    Raises: UserError when the disk is full; the old file is whole, and no temporary is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _force_to_disk(temporary)
        temporary.replace(path)
        _force_to_disk(path.parent)  # the rename itself
    except Exception as error:  # safetensors wraps the system's error in one of its own
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{path}: the disk is full; what was there before is untouched; free some space, or keep results and checkpoints "
            "elsewhere (M2CLIP_RESULTS, M2CLIP_CHECKPOINTS), then give the same command again"
        ) from error
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


def is_disk_full(error: Exception) -> bool:
    """Whether a write failed for want of space: the system's error, or one that only quotes it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_FULL
    return any(os.strerror(number) in str(error) for number in DISK_FULL)


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
