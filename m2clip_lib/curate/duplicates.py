"""Videos that are stored more than once, in other encodings: near by their features, and the same picture by picture.

Two videos are one if SIZE x SIZE grey pictures of them, taken in the middle of FRAMES equal parts of their durations, differ by at most
DIFFERENCE grey levels of 255 on average, and what changes over time in them correlates by at least CORRELATION. The latter tells apart
clips of one fixed camera, in which all but a small part is the same. Where nothing moves, the pictures may differ by STILL_DIFFERENCE.

Why these values, measured once by hand: of the 2,640 videos of the demonstration, which share four shapes, no two are one video, and of
the 17,140 pairs of nearest neighbours those that differ by at most DIFFERENCE correlate by 0.91 or less. 40 of them, copied in H.264 at
crf 45, at half and twice the size, at 1.5 times the frame rate, in VP9 and in MPEG-4, differ from their originals by 3.2 levels or less
and correlate by 0.94 or more. Copies that are cut in time or space, mirrored, much brighter, or have two thirds of the frames or fewer
are not found.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch.nn import functional as F

from m2clip_lib.config import Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.data.workers import cores
from m2clip_lib.experiment import make_reader

NEIGHBOURS, COSINE = 10, 0.95  # candidates: of each video the nearest, by frozen CLIP; a copy that CLIP sees otherwise is no copy to it
CHUNK = 1024  # videos whose similarities to all others are in memory at once, and pairs that are compared at once
FRAMES, SIZE = 8, 16  # pictures per video, and their side in pixels
DIFFERENCE, CORRELATION = 12.0, 0.93
STILL, STILL_DIFFERENCE = 1.0, 3.0  # grey levels: the standard deviation over time of a video in which nothing moves


def near_pairs(features: Float[ndarray, "n e"]) -> Int[ndarray, "m 2"]:
    """Pairs (a, b) with a < b of which one is among the other's nearest neighbours. features: of length 1."""
    x, found = torch.from_numpy(features), []
    for start in range(0, len(x), CHUNK):
        cosines = x[start : start + CHUNK] @ x.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = -1.0  # itself
        nearest = cosines.topk(min(NEIGHBOURS, len(x) - 1), dim=1)
        near = nearest.values >= COSINE
        pairs = torch.stack([(rows + start)[:, None].expand_as(near)[near], nearest.indices[near]], dim=1)
        found.append(pairs.sort(dim=1).values)
    return torch.cat(found).unique(dim=0).numpy()


def small_pictures(frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t s s"]:
    """Grey pictures, 0 to 255, of RGB frames, squeezed into a square."""
    grey = torch.from_numpy(frames).float().mean(-1)
    return F.interpolate(grey[None], size=(SIZE, SIZE), mode="area")[0].half().numpy()


def read_pictures(
    experiment: Experiment, manifest: Manifest, videos: pd.DataFrame, rows: Int[ndarray, "m"], side: int
) -> tuple[dict[int, ndarray], dict[int, str]]:
    """Read the small pictures of some rows of `videos`, whose columns are those of check.all_videos.

    side: short side in pixels at which the decoder hands over the frames.
    Returns: row -> pictures, and row -> reason where there are none.
    """
    pictures, failed = {}, {}
    for split, of_split in videos.loc[rows].groupby("split"):
        table = manifest.split(split)
        reader = make_reader(experiment, table, side)

        def read(place: int, reader: Callable = reader, table: pd.DataFrame = table) -> ndarray | str:
            indices = ((np.arange(FRAMES) + 0.5) / FRAMES * table.num_frames.iloc[place]).astype(int)
            try:
                return small_pictures(reader(place, indices.tolist(), side)[0])
            except VideoError as error:
                return str(error)

        with ThreadPoolExecutor(cores()) as pool:  # decoders release the interpreter's lock
            for row, found in zip(of_split.index, pool.map(read, of_split.row), strict=True):
                (failed if isinstance(found, str) else pictures)[row] = found
    return pictures, failed


def alike(a: Float[ndarray, "m t s s"], b: Float[ndarray, "m t s s"]) -> Float[ndarray, "m"]:
    """How surely the pictures of pairs are of one video, from 0 to 1; 0 where they are not (see above)."""
    changes = [x - x.mean(axis=1, keepdims=True) for x in (a, b)]
    deviations = [np.sqrt((x**2).mean(axis=(1, 2, 3))) for x in changes]
    difference = np.abs(a - b).mean(axis=(1, 2, 3))
    still = np.maximum(*deviations) < STILL
    correlation = (changes[0] * changes[1]).mean(axis=(1, 2, 3)) / np.maximum(deviations[0] * deviations[1], 1e-6)
    same = np.where(still, difference <= STILL_DIFFERENCE, (difference <= DIFFERENCE) & (correlation >= CORRELATION))
    return np.where(same, np.where(still, 1 - difference / 255, np.clip(correlation, 0, 1)), 0.0)


def same_videos(pairs: Int[ndarray, "m 2"], pictures: dict[int, ndarray]) -> list[tuple[int, int, float]]:
    """The pairs that are one video, each with its score."""
    pairs = np.array([pair for pair in pairs.tolist() if pair[0] in pictures and pair[1] in pictures], np.int64).reshape(-1, 2)
    found = []
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        scores = alike(*(np.stack([pictures[row] for row in side]).astype(np.float32) for side in some.T))
        found += [(int(a), int(b), float(score)) for (a, b), score in zip(some, scores, strict=True) if score]
    return found
