"""Writing files so that a crash leaves the old one or the new one, never half of either."""

import errno
import json
import os
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
