"""Which frames of a video make a clip: integers only, no decoding.

T frames per clip, stride r (frames between picks; 0: spread over the whole video), N frames in the video.
Source: the published recipes of M2-CLIP; test-time indices are checked against 400 golden cases in tests/.
"""

from itertools import pairwise

import numpy as np


def _check(**values: int) -> None:
    for name, value in values.items():
        least = 0 if name == "stride" else 1
        if value < least:
            raise ValueError(f"{name} = {value}, must be >= {least}")


def _segments(num_frames: int, clip_len: int) -> list[tuple[int, int]]:
    """First and last frame of equal segments, one per frame of the clip; neighbours share a frame."""
    length = (num_frames - 1) / clip_len
    return list(pairwise(round(length * i) for i in range(clip_len + 1)))


def train_indices(num_frames: int, clip_len: int, stride: int, rng: np.random.Generator) -> list[int]:
    """Draw the frames of one training clip.

    Args:
        num_frames, clip_len: frames in the video (N) and in the clip (T), >= 1.
        stride: distance between picked frames, in frames; 0 draws one frame from each of T equal segments.
        rng: draws the start, or the frame of each segment.
    Returns: T indices in [0, N), ascending; a video shorter than the clip repeats the last PICKED index.
    Raises: ValueError naming the argument that is too small.
    """
    _check(num_frames=num_frames, clip_len=clip_len, stride=stride)
    if stride == 0:
        return [int(rng.integers(low, high + 1)) for low, high in _segments(num_frames, clip_len)]
    span = stride * (clip_len - 1)
    if num_frames > span:
        start = int(rng.integers(num_frames - span))
        return [start + stride * i for i in range(clip_len)]
    picked = list(range(0, num_frames, stride))
    return picked + [picked[-1]] * (clip_len - len(picked))


def test_indices(num_frames: int, clip_len: int, stride: int, views: int = 1) -> list[list[int]]:
    """Choose the frames of the clips of an evaluation, one clip per temporal view.

    Args:
        views: temporal views, evenly spread; a single view is the middle of the video. Stride 0 covers the video with one view.
    Returns: for each view T indices in [0, N), ascending; a video shorter than the clip repeats its last FRAME.
    Raises: ValueError naming the argument that is too small.
    """
    _check(num_frames=num_frames, clip_len=clip_len, stride=stride, views=views)
    if stride == 0:
        return [[(low + high) // 2 for low, high in _segments(num_frames, clip_len)]]
    span = stride * (clip_len - 1) + 1
    slide = max(num_frames, span) - span
    starts = [slide // 2] if views == 1 else [round(slide / (views - 1) * v) for v in range(views)]
    return [[min(start + stride * i, num_frames - 1) for i in range(clip_len)] for start in starts]


def spatial_offsets(height: int, width: int, side: int, views: int) -> list[tuple[int, int]]:
    """Return the top left corners (y, x), in pixels, of the square crops of an evaluation.

    Args:
        height, width: of the resized frame; the short side equals `side`.
        views: 1 = centre, 3 = start, middle, end of the long side. 4 = the published "4" (start, quarter, middle, end).
    """
    room = max(height, width) - side
    choices = {1: [room // 2], 3: [0, room // 2, room], 4: [0, room // 4, room // 2, room]}
    if views not in choices:
        raise ValueError(f"spatial views = {views}, must be 1, 3 or 4")
    return [(offset, 0) if height > width else (0, offset) for offset in choices[views]]
