"""A camera or a stream, window by window, until someone stops it."""

import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

import av
import numpy as np
import pandas as pd
import torch
from av.container import InputContainer

from m2clip_lib.data.dataset import collate
from m2clip_lib.data.video.container import open_video
from m2clip_lib.data.video.decode import Pictures, fit_short_side
from m2clip_lib.data.video.probe import decodable_frames, reason, shown_size
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import Best, best_names, open_checkpoint
from m2clip_lib.evaluate.protocol import TestViews
from m2clip_lib.evaluate.scoring import Scorer
from m2clip_lib.moments.segments import INSTANT_S
from m2clip_lib.moments.windows import clip_seconds

CAMERAS = {"darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}  # others: v4l2; FFmpeg's device and its name for a camera
LEAST_S = 1e-3  # seconds from window to window; less would give more windows than can be printed, or never end

Shown = tuple[float, np.ndarray, int]  # seconds since the first frame, picture (h, w, 3) uint8 RGB, frames dropped so far


@dataclass(frozen=True)
class LiveWindow:
    """The best names of a window. start_s, end_s: seconds after the first frame. dropped: frames lost so far, since the model was busy."""

    start_s: float
    end_s: float
    best: Best
    dropped: int


def watch(
    source: str,
    checkpoint: Path,
    labels: Sequence[str] = (),
    window_s: float = 0.0,
    every_s: float = 0.0,
    top: int = 1,
    camera: bool = False,
) -> Iterator[LiveWindow]:
    """Yield the windows of a stream as they end, until it ends or the caller stops (close the iterator, or Ctrl-C).

    A camera or a URL does not wait: frames that come while the model is busy are dropped, and counted. A file or a pipe waits.

    Args:
        source: a URL, a path, or with `camera` its number, or on Windows its name.
        labels, window_s, every_s: see video_timeline.
    Raises: UserError when the source cannot be opened or read, or windows would begin less than LEAST_S apart.
    """
    if 0 < (every_s or window_s / 2) < LEAST_S:
        raise UserError(f"--every {every_s or window_s / 2:g}: windows begin at least {LEAST_S:g} s apart; give more seconds")
    model, protocol = open_checkpoint(checkpoint)
    backbone = model.backbone
    container = _open(source, camera)
    rate = float(container.streams.video[0].average_rate or container.streams.video[0].guessed_rate or 25)
    window_s = window_s or clip_seconds(protocol, rate)
    frames = Frames(
        _pictures(container, source, rate, None if protocol.resize == "exact" else backbone.image_size),
        most=max(protocol.frames, math.ceil(window_s * rate)),
        waits=not (camera or "://" in source),
    )
    scorer = Scorer(model, protocol.spread(), list(labels) or None)

    def best_of(pictures: list[np.ndarray]) -> Best:
        table = pd.DataFrame({"num_frames": [len(pictures)], "label": 0, "path": source})
        views = TestViews(
            table,
            lambda row, indices, side: (np.stack([pictures[i] for i in indices]), source),
            scorer.protocol,
            backbone.image_size,
            (backbone.mean, backbone.std),
        )
        with torch.inference_mode():
            made = scorer.predictions(scorer(collate([views[0]])), views)["forwards"]
        return best_names(made.best, made.class_names, top)[0]

    try:
        for start, pictures, dropped in live_windows(frames, window_s, every_s or window_s / 2, 1 / rate):
            yield LiveWindow(start, start + window_s, best_of(pictures), dropped)
    finally:
        frames.stop()


def _open(source: str, camera: bool) -> InputContainer:
    try:
        if camera:
            device, name = CAMERAS.get(sys.platform, ("v4l2", "/dev/video{}"))
            container = av.open(name.format(source), format=device)
        else:
            container = av.open(source) if "://" in source else open_video(Path(source).expanduser())
    except (av.FFmpegError, OSError, ValueError) as error:
        what = f"camera {source}" if camera else source
        raise UserError(f"{what}: cannot be opened ({reason(error)}); give --camera NUMBER, or --stream with a URL or a path") from error
    if not container.streams.video:
        raise UserError(f"{source}: no video stream; give another one")
    return container


def _pictures(container: InputContainer, source: str, rate: float, side: int | None) -> Iterator[tuple[float, np.ndarray]]:
    """Each frame's time, and its picture with this short side. A clock that goes back, as where recordings are joined, goes on."""
    stream = container.streams.video[0]
    picture, last, before = None, -1 / rate, None
    with container:
        for frame in decodable_frames(container, stream):
            if picture is None:
                picture = Pictures(stream, side and fit_short_side(*shown_size(frame, stream), side))
            step = 1 / rate if before is None or frame.time is None else frame.time - before
            last, before = last + (step if step > 0 else 1 / rate), frame.time
            yield last, picture(frame)


class Frames:
    """Frames that a thread of its own reads ahead, at most `most`. When they are not taken, it waits, or drops and counts the oldest."""

    def __init__(self, frames: Iterable[tuple[float, np.ndarray]], most: int, waits: bool):
        self.most, self.waits, self.dropped = most, waits, 0
        self._ahead, self._changed, self._ended, self._error = deque(), Condition(), False, None
        Thread(target=self._read, args=(frames,), daemon=True).start()  # it may wait for a frame for ever: it does not keep Python running

    def _read(self, frames: Iterable[tuple[float, np.ndarray]]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or not self.waits or len(self._ahead) < self.most)
                    if self._ended:
                        break
                    if len(self._ahead) == self.most:
                        self._ahead.popleft()
                        self.dropped += 1
                    self._ahead.append(frame)
                    self._changed.notify_all()
        except Exception as error:  # raised where the frames are taken
            self._error = error
        self.stop()

    def stop(self) -> None:
        """Read no further frame; those that are here may still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Shown]:
        while True:
            with self._changed:
                while not self._changed.wait_for(lambda: self._ended or self._ahead, timeout=1.0):  # on Windows Ctrl-C waits as long
                    pass
                if not self._ahead:
                    break
                seconds, picture = self._ahead.popleft()
                shown = seconds, picture, self.dropped
                self._changed.notify_all()
            yield shown
        if self._error:
            raise UserError(f"the stream broke off: {reason(self._error)}") from self._error


def live_windows(frames: Iterable[Shown], window_s: float, every_s: float, frame_s: float) -> Iterator[tuple[float, list[np.ndarray], int]]:
    """Yield start, pictures and frames dropped so far of each window that is complete.

    A window holds what is on the screen when it begins, and what comes until it ends. After frames were dropped, the next window begins
    with the first one that was not; the end of the stream completes a window as a frame would.
    """
    start, kept, before = 0.0, deque(), 0
    for seconds, picture, dropped in _with_end(frames, frame_s):
        if dropped > before:
            start, before = max(start, seconds), dropped
        while start + window_s <= seconds + INSTANT_S:
            while len(kept) > 1 and kept[1][0] <= start + INSTANT_S:
                kept.popleft()
            yield start, [shown for time, shown in kept if time < start + window_s - INSTANT_S], dropped
            start += every_s
        kept.append((seconds, picture))


def _with_end(frames: Iterable[Shown], frame_s: float) -> Iterator[Shown]:
    last = None
    for last in frames:
        yield last
    if last is not None:
        yield last[0] + frame_s, last[1], last[2]
