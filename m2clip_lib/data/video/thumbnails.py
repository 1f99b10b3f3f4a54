"""Thumbnails: four frames of each video as one small picture, made once and stored beside the manifest. Imports no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.data.workers import LIMIT_S, Failure, call_in_children, fingerprint, with_progress
from m2clip_lib.files import hash_texts, write_atomically

FOLDER = "thumbnails"
HEIGHT, GAP = 96, 2  # of a frame, and between frames, pixels
WIDEST = 4  # of a frame, as a multiple of its height
QUALITY = 80  # of the JPEG


def thumbnail_file(folder: Path, path: str, frames: tuple[int, int]) -> Path:
    """Where the thumbnail of a video, or of a segment of it, is. A file that changes, or is replaced, gets another one.

    frames: number of the first one, and how many. Raises: OSError if there is no video.
    """
    return folder / f"{hash_texts(path, fingerprint(path), f'{frames}')[:24]}.jpg"


def make_thumbnails(videos: pd.DataFrame, folder: Path, processes: int, report: Callable[[str], None] = print) -> None:
    """Make the thumbnails that are missing, in child processes; can be stopped and continued.

    Of a video that cannot be read, the reason is stored in its place; one that was killed at its time limit is tried again the next time.

    Args:
        videos: the manifest's table; rows whose status is not "ok" are left out.
    """
    missing = {}
    for row in videos[videos.status == "ok"].itertuples():
        frames = getattr(row, "start_frame", 0), row.num_frames
        try:
            file = thumbnail_file(folder, row.path, frames)
        except OSError:  # deleted since it was scanned: read_thumbnail says so
            continue
        if not file.is_file() and not file.with_suffix(".txt").is_file():
            missing[file] = (row.path, str(file), frames, getattr(row, "file_frames", row.num_frames), row.width, row.height)
    jobs = list(missing.values())
    results = call_in_children(_make_one, jobs, processes, LIMIT_S)
    for place, result in with_progress(results, len(jobs), "thumbnails", report):
        if isinstance(result, Failure):
            report(f"thumbnails: {jobs[place][0]}: {result.reason}")


def _make_one(job: tuple[str, str, tuple[int, int], int, int, int]) -> None:
    path, file, frames, num_frames, width, height = job
    try:
        size = (max(HEIGHT // WIDEST, min(WIDEST * HEIGHT, round(HEIGHT * width / height))), HEIGHT)
        pictures, _ = read_frames(path, middles(*frames), size, num_frames=num_frames)
    except VideoError as error:
        reason = str(error)
        write_atomically(Path(file).with_suffix(".txt"), lambda place: place.write_text(reason, encoding="utf-8"))
        return
    picture = Image.fromarray(contact_sheet(pictures))
    write_atomically(Path(file), lambda place: picture.save(place, "JPEG", quality=QUALITY))


def middles(first: int, count: int) -> list[int]:
    """The frames in the middle of four equal parts of a stretch."""
    return [first + (2 * part + 1) * count // 8 for part in range(4)]


def contact_sheet(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put four frames (4, h, w, 3) into two rows, in reading order, with white between them: (2 h + GAP, 2 w + GAP, 3)."""
    _, height, width, _ = frames.shape
    sheet = np.full((2 * height + GAP, 2 * width + GAP, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        top, left = (place * (side + GAP) for place, side in zip(divmod(number, 2), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = frame
    return sheet


def read_thumbnail(folder: Path, path: str, frames: tuple[int, int], status: str) -> tuple[bytes, str]:
    """The JPEG of a thumbnail (see thumbnail_file) and "", or nothing and the reason why there is none. status: the manifest's."""
    if status != "ok":
        return b"", status
    try:
        file = thumbnail_file(folder, path, frames)
    except OSError as error:
        return b"", f"cannot be opened: {error.strerror}"
    reason = file.with_suffix(".txt")
    if reason.is_file():
        return b"", reason.read_text(encoding="utf-8")
    return (file.read_bytes(), "") if file.is_file() else (b"", "no thumbnail: it took too long to read")
