"""Frames of a video as pixels, with decord or PyAV.

decord is the default where its wheel exists; PyAV reads what decord cannot, and everything on other machines. This module owns the
rule that torch is imported before decord (the other order crashes on some CUDA machines).
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch  # noqa: F401  (before decord, always)
from numpy.typing import NDArray

from m2clip_lib.data.probe import VideoError, probe
from m2clip_lib.data.pyav_frames import read_with_pyav

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]


def fit_short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled so that the shorter one is `side`, pixels."""
    if width < height:
        return side, max(side, round(height * side / width))
    return max(side, round(width * side / height)), side


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    size: tuple[int, int] | None = None,
    decoder: Decoder = "auto",
    exact_in_decord: bool | None = None,
    num_frames: int | None = None,
) -> tuple[NDArray[np.uint8], str]:
    """Read chosen frames, upright (rotation metadata is applied).

    Args:
        indices: frame numbers, ascending, repeats allowed.
        size: (width, height) in pixels to resize to inside the decoder; None keeps the video's own.
        exact_in_decord: the manifest's column `decord`; None looks into the file, which takes longer.
        num_frames: the manifest's; a file that has another number of packets is not seeked in, since some cannot be decoded.
    Returns: frames (t, h, w, 3) uint8 RGB, and what decoded them: "decord", "pyav", "pyav, from the start" (a file that cannot be
        seeked), "pyav, after decord failed".
    Raises: VideoError with the reason.
    """
    if decoder == "pyav" or (decoder == "auto" and not has_decord()):
        return read_with_pyav(path, indices, size, num_frames)
    if not has_decord():
        raise VideoError("decord is not installed on this machine: set data.decoder to auto or pyav")
    if exact_in_decord is None:
        info = probe(path)
        exact_in_decord, num_frames = info.decord, info.num_frames
    if not exact_in_decord:
        if decoder == "decord":
            raise VideoError("decord does not return the frames asked for from this kind of file: set data.decoder to auto or pyav")
        return read_with_pyav(path, indices, size, num_frames)
    try:
        return _read_decord(path, indices, size), "decord"
    except VideoError as error:
        if decoder == "decord":
            raise
        log.debug("%s: decord failed (%s), trying PyAV", path, error)
        return read_with_pyav(path, indices, size, num_frames)[0], "pyav, after decord failed"


@functools.cache
def has_decord() -> bool:
    """Whether decord's wheel is here (Linux x86_64 only)."""
    try:
        import decord
    except ImportError:
        return False
    decord.logging.set_level(decord.logging.QUIET)
    return True


def _read_decord(path: str | Path, indices: Sequence[int], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    import decord

    width, height = size or (-1, -1)
    try:
        # A reader is made per item and short-lived: kept ones leak memory and do not survive a fork. The whole path, since what stands
        # before a colon would be taken for a protocol.
        reader = decord.VideoReader(str(Path(path).absolute()), width=width, height=height, num_threads=1)
        if indices[-1] >= len(reader):
            raise VideoError(f"decord: has {len(reader)} frames, frame {indices[-1]} was asked for")
        return reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[-1][:120]}") from error
