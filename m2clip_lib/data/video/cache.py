"""Decoded frames of a small dataset, kept as one uint8 file: decode once, train many times."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.data.workers import LIMIT_S, PASSING, Failure, call_in_children, own
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space, read_json, show_bytes, write_atomically, write_json

LIMIT_BYTES = 8 * 2**30


class CachedReader:
    """Reads frames from the cache; called like VideoReader, but only for the cache's short side."""

    def __init__(self, file: Path, shapes: list[tuple[int, int, int]], errors: list[str], short_side: int):
        self.file, self.shapes, self.errors, self.short_side = file, shapes, errors, short_side
        self.starts = _starts(shapes)
        self._pixels: np.memmap | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}  # worker processes open the file themselves

    def __call__(self, row: int, indices: Sequence[int], short_side: int | None) -> tuple[np.ndarray, str]:
        """See FrameReader in dataset.py."""
        if short_side != self.short_side:
            raise ValueError(f"the frame cache holds short side {self.short_side}, not {short_side}")
        if self.errors[row]:
            raise VideoError(self.errors[row])
        if self._pixels is None:
            self._pixels = np.memmap(self.file, np.uint8, mode="r")
        frames = self._pixels[self.starts[row] : self.starts[row + 1]].reshape(*self.shapes[row], 3)
        return frames[np.asarray(indices)], "frame cache"


def cached_reader(
    table: pd.DataFrame, folder: Path, short_side: int, decoder: str, processes: int, limit_s: float = LIMIT_S
) -> CachedReader:
    """Open the cache of these rows, filling it first if necessary.

    limit_s: seconds per file; a file that takes longer, or crashes the decoder, counts as one that cannot be read.
    Raises: UserError if the frames would take more than LIMIT_BYTES.
    """
    sizes = zip(table.num_frames, table.width, table.height, strict=True)
    shapes = [(int(count), *reversed(fit_short_side(w, h, short_side))) for count, w, h in sizes]
    total = _starts(shapes)[-1]
    if total > LIMIT_BYTES:
        size, limit = show_bytes(total), show_bytes(LIMIT_BYTES)
        raise UserError(f"data.cache_frames: the frames would take {size}, more than {limit}; set it to false")
    starts = table.start_frame.tolist() if "start_frame" in table else [0] * len(table)  # of segments
    digest = hashlib.sha256(f"{short_side}|{'pyav' if decoder == 'auto' else decoder}".encode())
    if any(starts):
        digest.update(repr(starts).encode())
    for path, shape in zip(table.path, shapes, strict=True):
        stat = Path(path).stat() if Path(path).exists() else None
        digest.update(f"{path}|{shape}|{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    file = folder / f"frames-{digest.hexdigest()[:16]}.u8"
    side_file = file.with_suffix(".json")

    def finished() -> bool:
        if not (file.is_file() and side_file.is_file()):
            return False
        return not any(reason.startswith(PASSING) for reason in read_json(side_file)["errors"].values())

    if not finished():
        check_space(folder, total, "data.cache_frames")
        with own(folder / ".lock", "data.cache_frames", wait=True):
            if not finished():  # by another process in the meantime
                videos = zip(table.path, shapes, table.get("file_frames", table.num_frames), starts, strict=True)
                errors = _fill(file, [(decoder, *video) for video in videos], processes, limit_s)
                write_json(side_file, {"videos": len(shapes), "bytes": total, "errors": errors})
    errors = read_json(side_file)["errors"]
    return CachedReader(file, shapes, [errors.get(str(row), "") for row in range(len(shapes))], short_side)


def _starts(shapes: list[tuple[int, int, int]]) -> list[int]:
    """Return where the frames of each video begin in the file, and where the last ones end."""
    return np.cumsum([0, *(t * h * w * 3 for t, h, w in shapes)]).tolist()


def _fill(file: Path, jobs: list[tuple], processes: int, limit_s: float) -> dict[str, str]:
    """Decode all videos into the file. Returns: row -> reason, for videos that cannot be read and whose frames stay black."""
    errors: dict[str, str] = {}
    starts = _starts([shape for _, _, shape, *_ in jobs])

    def write(target: Path) -> None:
        with target.open("wb") as out:
            out.truncate(starts[-1])
            for row, result in call_in_children(_decode_all, jobs, processes, limit_s):
                if isinstance(result, np.ndarray):
                    out.seek(starts[row])
                    out.write(result.tobytes())
                else:
                    errors[str(row)] = result.reason if isinstance(result, Failure) else result

    write_atomically(file, write)
    return dict(sorted(errors.items(), key=lambda item: int(item[0])))


def _decode_all(job: tuple[str, str, tuple[int, int, int], int, int]) -> np.ndarray | str:
    """Return all frames of a video, or why it cannot be read."""
    decoder, path, (t, h, w), num_frames, start = job
    try:
        return read_frames(path, range(start, start + t), (w, h), decoder, num_frames)[0]
    except VideoError as error:
        return str(error)
