"""The decoders beside PyAV: which are installed here, and what each does with the odd videos."""

from importlib import metadata

import pytest

from m2clip_lib.data.video.decode import OTHERS, installed_decoders


def needs(decoder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(decoder not in installed_decoders(), reason=f"{decoder} is not installed here, or finds no FFmpeg")


def package(decoder: str) -> str:
    """Returns: the package that the decoder comes from; decord2 goes by decord's name."""
    return "decord2" if decoder == "decord" and any(metadata.distributions(name="decord2")) else decoder


EACH = [pytest.param(name, marks=needs(name)) for name in OTHERS]
# Those that read pictures of 96 and of 32 px. decord2 does not: it copies rows that FFmpeg has padded, and the sizes do not match.
EACH_FOR_SMALL = [each for each in EACH if package(each.values[0]) != "decord2"]


# Files of which a package returns a frame other than the one asked for, without an error.
IN_TRANSPORT = {"joined.ts", "narrow pixels.ts", "h264.ts"}
IN_AVI_AND_MPEG = {"cut at 50 %.avi", "in truth avi.mp4", "mpeg4.avi", "h264.avi", "mpeg2.mpg", "joined.mpg"}
MIRRORED = {"mirrored.mp4", "mirrored and upside down.mp4", "rows and columns exchanged.mp4"}
NO_START = {"starts without keyframe.mkv", "starts within open GOP.mkv", "damaged at the start.mkv"}
ALL_OF_THEM = IN_TRANSPORT | IN_AVI_AND_MPEG | MIRRORED | NO_START | {"vp8, hidden frames.webm", "preview before the video.mkv"}
EDITED = {f"edit list{rest}.mp4" for rest in ("", ", a part twice", ", parts exchanged", ", a part three times")}
DECORDS = ALL_OF_THEM | EDITED | {"open GOP, pyramid.mp4", "hevc.mp4", "hevc.mkv", "10 bit hevc.mp4", "mpeg4.mp4"}
OTHER_FRAMES = {
    "decord": DECORDS | {"turned by 90.mkv", "second stream is the default.mkv", "two video streams.mp4"},
    "decord2": DECORDS | {"joined.mkv"},
    "torchcodec": ALL_OF_THEM | {"joined.mkv"},
}
# Those of which it cannot read some frames, and says so.
CUT = {"cut at 10 %, index first.mp4", "cut at 50 %, index first.mp4", "cut at 90 %, index first.mp4", "cut at 50 %, fragmented.mp4"}
NO_DURATION = {"no duration.mkv", "no duration.webm"}
ERRORS = {
    "decord": CUT | NO_DURATION | {"joined.mkv", "av1.mp4", "av1.webm", "cut at 50 %, av1.mkv"},
    "decord2": CUT | NO_DURATION | {"16 x 16.mp4"},
    "torchcodec": CUT,
}
