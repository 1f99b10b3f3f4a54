"""What is happening in a video, or when in a long one: a checkpoint, some files, scores with names."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.config import Experiment
from m2clip_lib.data.classes import class_key, read_names
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.data.video.decode import fit_short_side, read_clips
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.metrics import top_ids
from m2clip_lib.evaluate.protocol import Protocol, TestViews, views_of_files
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.experiment import backbone_of, pick_device
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.checkpoint import read_checkpoint_info

log = logging.getLogger(__name__)

WINDOW_S = 2.0  # for a model trained on clips spread over whole videos (stride 0): the length of an action is unknown
MOST_WINDOWS = 10_000
BATCH_SIZE = 8  # windows

Best = list[tuple[str, float]]  # class names with scores in [0, 1], best first


@dataclass
class VideoPrediction:
    """One video: its best classes, or the reason why it could not be read."""

    path: str
    readout: str
    top: Best = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict:
        """The prediction as JSON values."""
        return asdict(self) | {"top": _as_list(self.top)}


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

    def top(self, count: int) -> list[Best]:
        """The best names of each window; none for a window that could not be read."""
        return _best(self.scores, self.names, count)

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
            {"start_s": round(float(start), 3), "end_s": round(float(end), 3), "top": _as_list(best), "error": reasons.get(place, "")}
            for place, (start, end, best) in enumerate(windows)
        ]


def _best(scores: np.ndarray, names: Sequence[str], count: int) -> list[Best]:
    """The best names of each row of scores; none for a row of NaN."""
    rows = zip(scores, top_ids(scores, count), strict=True)
    return [[(names[i], float(row[i])) for i in ids if np.isfinite(row[i])] for row, ids in rows]


def _as_list(best: Best) -> list[dict]:
    return [{"label": name, "score": round(score, 6)} for name, score in best]


def parse_labels(text: str) -> list[str]:
    """ "a,b,c", or a file with one name per line -> names; "" -> none. Raises: UserError for fewer than two, or one twice."""
    if not text:
        return []
    file = Path(text).expanduser()
    is_file = os.path.isfile(file)  # noqa: PTH113 (Path.is_file raises when the text is too long for a file name)
    names = read_names(file) if is_file else [class_key(name.strip()) for name in text.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"labels {text!r}: needs two or more different names, as a,b,c or as a file with one name per line")
    return names


def open_checkpoint(checkpoint: Path) -> tuple[M2CLIP, Protocol]:
    """Load a checkpoint of this workbook on its own backbone and the best device, with the protocol that matches its training."""
    if checkpoint.is_file() and checkpoint.suffix != ".safetensors":
        raise UserError(
            f"{checkpoint}: a published file names neither its backbone nor its classes; score it with: m2clip eval EXPERIMENT "
            "--checkpoint FILE, or load it with M2CLIP.from_checkpoint and save() it once"
        )
    info = read_checkpoint_info(checkpoint)
    if "stride" not in info.extra:  # saved by hand
        log.warning("%s does not record its stride: clips are spread over the whole video", checkpoint)
    return M2CLIP.from_checkpoint(checkpoint, backbone_of(info)).to(pick_device()), Protocol.of_checkpoint(info)


def predict_videos(videos: Sequence[Path], checkpoint: Path, labels: Sequence[str] = (), top: int = 5) -> list[VideoPrediction]:
    """Score videos against a checkpoint's own classes (ensemble), or against other names (similarity).

    Returns: one prediction per video, in the order given; a video that cannot be read carries the reason.
    """
    model, protocol = open_checkpoint(checkpoint)
    results = [VideoPrediction(str(path), "similarity" if labels else "ensemble") for path in videos]
    table, dataset, failed = views_of_files(videos, protocol, model.backbone.image_size)
    if dataset is not None:
        scored = predict(model, dataset, 1, 0, class_names=list(labels) or None)
        for row, best in zip(scored.rows, _best(scored.best, scored.class_names, top), strict=True):
            results[table.place[row]].top = best
        failed |= {int(table.place[row]): reason for row, reason in scored.failed}
    for place, reason in failed.items():
        results[place].error = reason
    return results


def name_video(path: Path, names: Sequence[str], experiment: Experiment, backbone: Backbone) -> pd.DataFrame:
    """What frozen CLIP, before anything is trained, says of a video. names: what to choose from.

    Returns: one row per name, the best first: label, score (percent). Raises: UserError when the video cannot be read.
    """
    protocol = Protocol.of_experiment(experiment).one_view()
    _, views, failed = views_of_files([path], protocol, backbone.image_size)
    if views is None:
        raise UserError(f"{path}: {failed[0]}")
    scored = predict(frozen_clip(experiment, backbone, list(names)).to(pick_device()), views, 1, 0, class_names=list(names))
    if scored.failed:
        raise UserError(f"{path}: {scored.failed[0][1]}")
    (best,) = _best(scored.best, scored.class_names, len(names))
    return pd.DataFrame([(name, 100 * score) for name, score in best], columns=["label", "score"])


def windows(times: np.ndarray, window_s: float, every_s: float) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Starts and ends of the windows in seconds, and the range [first, end) of the frames that are shown in each.

    The last window ends with the video, and a short video is one window.
    Args:
        times: of the frames, and the video's end (see frame_times).
        window_s, every_s: length of a window, and distance from start to start, seconds.
    """
    last, instant = max(0.0, times[-1] - window_s), 1e-6  # seconds; less is an error of rounding
    starts = np.append(np.arange(0, last - instant, every_s), last)
    ends = np.minimum(starts + window_s, times[-1])
    first = np.searchsorted(times[:-1], starts + instant, "right") - 1  # on the screen when the window begins
    end = np.maximum(first + 1, np.searchsorted(times[:-1], ends - instant))
    return starts, ends, list(zip(first.tolist(), end.tolist(), strict=True))


def video_timeline(
    path: Path, model: M2CLIP, protocol: Protocol, labels: Sequence[str] = (), window_s: float = 0.0, every_s: float = 0.0
) -> Timeline:
    """Score a video window by window against the model's own classes (ensemble), or against other names (similarity).

    Each window is one clip: frames spread evenly over it, centre crop. The file is read once, whatever the number of windows.

    Args:
        protocol: frames per clip, and the stride that the model was trained with.
        window_s: seconds per window; 0: as long as a training clip, or 2 s where training clips span whole videos (stride 0).
        every_s: seconds from window to window; 0: half a window.
    Raises: UserError when the video cannot be read, does not say when its frames are shown, or would give too many windows.
    """
    table, video, failed = views_of_files([path], dataclasses.replace(protocol.one_view(), stride=0), model.backbone.image_size)
    if video is None:
        raise UserError(f"{path}: {failed[0]}")
    info, times = table.iloc[0], frame_times(table.times[0])
    if not times[-1]:
        raise UserError(f"{path}: the file does not say when its frames are shown; re-encode it, or predict without --timeline")
    window_s = window_s or (((protocol.frames - 1) * protocol.stride + 1) / info.fps if protocol.stride else WINDOW_S)
    every_s = every_s or window_s / 2
    if (number := 1 + np.ceil(max(0.0, times[-1] - window_s) / every_s)) > MOST_WINDOWS:
        raise UserError(f"{path}: {number:,.0f} windows of {window_s:g} s are too many; give a larger --every than {every_s:g} s")
    starts, ends, spans = windows(times, window_s, every_s)
    chosen = [sorted({first + i for i in test_indices(end - first, protocol.frames, 0)[0]}) for first, end in spans]
    clips = read_clips(path, chosen, fit_short_side(info.width, info.height, video.side), info.num_frames)
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
    )
    scored = predict(model, views, BATCH_SIZE, 0, class_names=list(labels) or None)
    scores = np.full((len(spans), len(scored.class_names)), np.nan, np.float32)
    scores[scored.rows] = scored.best
    return Timeline(str(path), starts, ends, scores, scored.class_names, scored.readouts[-1], scored.failed)
