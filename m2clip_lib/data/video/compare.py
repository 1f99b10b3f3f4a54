"""Do the decoders return the same frames of your files, and how fast? Asked by `m2clip bench data --videos DIR` and notebook 01."""

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.data.sampling import test_indices
from m2clip_lib.data.video.decode import fit_short_side, installed_decoders, read_frames
from m2clip_lib.data.video.probe import VideoError, VideoInfo, probe
from m2clip_lib.errors import UserError

FRAMES, STRIDE, VIEWS, SIDE = 8, 16, 3, 224  # of the clips that are read; side in pixels
ROUNDS = 3
OTHER_PICTURE = 16  # mean difference, of 255; two versions of FFmpeg differ by 1 or 2
NEARER = 0.7  # another frame is meant if its difference is smaller than that of the right one by this factor


def compare_decoders(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read clips of each file with PyAV, and with the other decoders that are installed; files that PyAV cannot read are left out.

    Returns: one row per decoder. Speed is that of clips spread over the video, on one core, of the files that all decoders can read.
        failed: files that it cannot read. other_frames: files of which it returns other frames than PyAV for the same numbers; the
        first of them is named, with the first such frame.
    Raises: UserError if there is nothing to read.
    """
    videos: dict[str, VideoInfo] = {}
    for path in paths:
        with suppress(VideoError):
            videos[str(path)] = probe(path)
    if not videos:
        raise UserError(f"compare decoders: none of {len(paths)} files can be read")
    others: dict[str, dict[str, int | None]] = {"pyav": dict.fromkeys(videos)}  # decoder -> readable file -> the first other frame
    for name in installed_decoders()[1:]:
        others[name] = {}
        for path, info in videos.items():
            with suppress(VideoError):
                others[name][path] = first_difference(path, info, name)
    measured = [path for path in videos if all(path in of_decoder for of_decoder in others.values())]
    seconds: dict[str, list[float]] = {name: [] for name in others}
    for name in [*others] * ROUNDS:  # they take turns: the machine's speed drifts
        start = time.perf_counter()
        for path in measured:
            read_frames(path, _clips(videos[path])[0], _size(videos[path]), name, videos[path].num_frames)
        seconds[name].append(time.perf_counter() - start)
    return pd.DataFrame(
        {
            "what": name,
            "clips_per_s_and_core": round(len(measured) / statistics.median(seconds[name]), 1) if measured else None,
            "files": len(videos),
            "failed": len(videos) - len(found),
            "other_frames": sum(wrong is not None for wrong in found.values()),
            "first_difference": next((f"{path}: frame {wrong}" for path, wrong in found.items() if wrong is not None), ""),
        }
        for name, found in others.items()
    )


def first_difference(path: str | Path, info: VideoInfo, decoder: str) -> int | None:
    """Return the first frame, in a few clips or asked for alone, for which a decoder returns another one than PyAV; None without one."""
    clips, size = _clips(info), _size(info)
    clips += [[index] for index in clips[0]]
    needed = sorted({min(max(0, index + step), info.num_frames - 1) for clip in clips for index in clip for step in (-1, 0, 1)})
    right = read_frames(path, needed, size, "pyav", info.num_frames)[0].astype(np.int16)
    wrong = set()
    for clip in clips:
        for index, frame in zip(clip, read_frames(path, clip, size, decoder)[0], strict=True):
            differences = dict(zip(needed, np.abs(right - frame).mean(axis=(1, 2, 3)), strict=True))
            if differences[index] > OTHER_PICTURE or min(differences.values()) < NEARER * differences[index]:
                wrong.add(index)
    return min(wrong, default=None)


def _clips(info: VideoInfo) -> list[list[int]]:
    """One clip spread over the whole video, and three as evaluation takes them."""
    return [*test_indices(info.num_frames, FRAMES, 0), *test_indices(info.num_frames, FRAMES, STRIDE, VIEWS)]


def _size(info: VideoInfo) -> tuple[int, int]:
    return fit_short_side(info.width, info.height, min(SIDE, info.width, info.height))
