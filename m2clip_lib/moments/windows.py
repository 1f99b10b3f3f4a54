"""The timeline: scores of sliding windows of a video, stored in a file the first time and read from it afterwards."""

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib import paths
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.data.video.decode import fit_short_side, read_clips
from m2clip_lib.data.video.probe import VideoError, check_file
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.workers import fingerprint
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import Best, best_as_list, best_names, open_checkpoint
from m2clip_lib.evaluate.protocol import Protocol, TestViews, views_of_files
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.files import code_digest, file_sha256, hash_texts, write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.checkpoint import existing
from m2clip_lib.moments.segments import INSTANT_S, Segment, segments

WINDOW_S = 2.0  # where neither the checkpoint nor its stride tells how long a training clip is
MOST_WINDOWS = 10_000
BATCH_SIZE = 8  # windows


@dataclass(frozen=True)
class Timeline:
    """Scores of n windows of one video against k names.

    Attributes:
        starts, ends: of the windows (n,), seconds after the first frame, by the file's timestamps.
        scores: (n, k) in [0, 1]; the row of a window that could not be read is NaN. failed: (window, reason).
        readout: "ensemble" for the model's own classes, "similarity" for others.
    """

    path: str
    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    names: list[str]
    readout: str
    failed: list[tuple[int, str]]

    @classmethod
    def load(cls, file: Path) -> "Timeline":
        """Read what save wrote."""
        stored = load_arrays(file)
        path, names, readout, failed = json.loads(str(stored["about"]))
        return cls(path, stored["starts"], stored["ends"], stored["scores"], names, readout, [tuple(pair) for pair in failed])

    def save(self, file: Path) -> None:
        """Write the timeline as one file."""
        about, content = json.dumps([self.path, self.names, self.readout, self.failed]), io.BytesIO()
        np.savez(content, starts=self.starts, ends=self.ends, scores=self.scores, about=about)
        write_atomically(file, lambda place: place.write_bytes(content.getbuffer()))

    def segments(self, threshold: float, min_length_s: float = 0.0, merge_gap_s: float = 0.0) -> list[Segment]:
        """What happens when, at a threshold; runs no model. See segments() in segments.py."""
        return segments(self.scores, self.starts, self.ends, self.names, threshold, min_length_s, merge_gap_s)

    def top(self, count: int) -> list[Best]:
        """The best names of each window; none for a window that could not be read."""
        return best_names(self.scores, self.names, count)

    def table(self, count: int) -> pd.DataFrame:
        """One row per window: start_s, end_s, then label and score (percent) of the best."""
        table, rows = pd.DataFrame({"start_s": self.starts, "end_s": self.ends}), self.top(count)
        for i in range(min(count, len(self.names))):
            found = [best[i] if best else (None, np.nan) for best in rows]
            table[f"label_{i + 1}"], table[f"score_{i + 1}"] = [name for name, _ in found], [100 * score for _, score in found]
        return table

    def as_list(self, count: int) -> list[dict]:
        """The windows as JSON values."""
        windows, reasons = zip(self.starts, self.ends, self.top(count), strict=True), dict(self.failed)
        return [
            {"start_s": round(float(start), 3), "end_s": round(float(end), 3), "top": best_as_list(best), "error": reasons.get(place, "")}
            for place, (start, end, best) in enumerate(windows)
        ]


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read what np.savez wrote. Raises: UserError when the file is damaged."""
    try:
        with np.load(file) as stored:
            return dict(stored)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error}); delete it, and it is computed again") from error


def windows(times: np.ndarray, window_s: float, every_s: float) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Starts and ends of the windows in seconds, and the range [first, end) of the frames that are shown in each.

    The last window ends with the video, and a short video is one window.
    Args:
        times: of the frames, and the video's end (see frame_times).
        window_s, every_s: length of a window, and distance from start to start, seconds.
    """
    last = max(0.0, times[-1] - window_s)
    starts = np.append(np.arange(0, last - INSTANT_S, every_s), last)
    ends = np.minimum(starts + window_s, times[-1])
    first = np.searchsorted(times[:-1], starts + INSTANT_S, "right") - 1  # on the screen when the window begins
    end = np.maximum(first + 1, np.searchsorted(times[:-1], ends - INSTANT_S))
    return starts, ends, list(zip(first.tolist(), end.tolist(), strict=True))


def clip_seconds(protocol: Protocol, fps: float) -> float:
    """How long a training clip is: its frames at this frame rate, or the seconds that the checkpoint records for clips of stride 0."""
    return ((protocol.frames - 1) * protocol.stride + 1) / fps if protocol.stride else protocol.clip_s or WINDOW_S


def stored_timelines(
    videos: Sequence[Path],
    checkpoint: Path,
    labels: Sequence[str] = (),
    window_s: float = 0.0,
    every_s: float = 0.0,
    folder: Path | None = None,
) -> Iterator[Timeline | UserError]:
    """Yield the timeline of each video, or the reason why it has none. See video_timeline for the arguments.

    A timeline that is stored is read, not computed again; the checkpoint is opened when the first one is missing. The key is the video's
    path, size and time of change, the checkpoint's digest, labels, windows, and the code.

    folder: of the stored files; default: moments/ in data/.
    """
    folder, opened = folder or paths.DATA / "moments", functools.cache(open_checkpoint)
    asked = hash_texts(file_sha256(existing(checkpoint)), code_digest(), repr((list(labels), window_s, every_s)))
    for path in map(Path, videos):
        try:
            file = folder / f"{hash_texts(asked, str(path.absolute()), fingerprint(check_file(path)))[:16]}.npz"
        except VideoError as error:
            yield UserError(f"{path}: {error}")
            continue
        if file.is_file():
            yield dataclasses.replace(Timeline.load(file), path=str(path))
            continue
        model, protocol = opened(checkpoint)
        try:
            found = video_timeline(path, model, protocol, labels, window_s, every_s)
        except UserError as error:
            yield error
            continue
        found.save(file)
        yield found


def video_timeline(
    path: Path, model: M2CLIP, protocol: Protocol, labels: Sequence[str] = (), window_s: float = 0.0, every_s: float = 0.0
) -> Timeline:
    """Score a video window by window against the model's own classes (ensemble), or against other names (similarity).

    Each window is one clip: frames spread evenly over it, centre crop. The file is read once, whatever the number of windows.

    Args:
        protocol: frames per clip, and the stride that the model was trained with.
        window_s: seconds per window; 0: as long as a training clip (see clip_seconds).
        every_s: seconds from window to window; 0: half a window.
    Raises: UserError when the video cannot be read, does not say when its frames are shown, or would give too many windows.
    """
    backbone = model.backbone
    table, video, failed = views_of_files([path], protocol.spread(), backbone.image_size, (backbone.mean, backbone.std))
    if video is None:
        raise UserError(f"{path}: {failed[0]}")
    info, times = table.iloc[0], frame_times(table.times[0])
    if not times[-1]:
        raise UserError(f"{path}: the file does not say when its frames are shown; re-encode it, or predict without --timeline")
    window_s = window_s or clip_seconds(protocol, info.fps)
    every_s = every_s or window_s / 2
    if (number := 1 + np.ceil(max(0.0, times[-1] - window_s) / every_s)) > MOST_WINDOWS:
        raise UserError(f"{path}: {number:,.0f} windows of {window_s:g} s are too many; give a larger --every than {every_s:g} s")
    starts, ends, spans = windows(times, window_s, every_s)
    chosen = [sorted({first + i for i in test_indices(end - first, protocol.frames, 0)[0]}) for first, end in spans]
    size = None if protocol.resize == "exact" else fit_short_side(info.width, info.height, video.side)
    clips = read_clips(path, chosen, size, info.num_frames)
    broken: list[VideoError] = []

    def read_next(*_: object) -> tuple[np.ndarray, str]:
        """Read the next window; TestViews asks for them in order, and for the frames chosen above."""
        if not broken:
            try:
                return next(clips)
            except VideoError as error:  # nothing can be read from here on
                broken.append(error)
        raise broken[0]

    views = TestViews(
        pd.DataFrame({"num_frames": [end - first for first, end in spans], "label": 0, "path": str(path)}),
        read_next,
        video.protocol,
        video.side,
        video.colours,
    )
    scored = predict(model, views, BATCH_SIZE, 0, class_names=list(labels) or None)
    scores = np.full((len(spans), len(scored.class_names)), np.nan, np.float32)
    scores[scored.rows] = scored.best
    return Timeline(str(path), starts, ends, scores, scored.class_names, scored.readouts[-1], scored.failed)
