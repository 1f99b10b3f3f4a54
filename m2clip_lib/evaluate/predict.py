"""What is happening in a video: a checkpoint, some files, scores with names."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from m2clip_lib.data.classes import read_names
from m2clip_lib.data.dataset import Item
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import top_ids
from m2clip_lib.evaluate.predictions import predict
from m2clip_lib.evaluate.protocol import Protocol, TestViews, views_of_files
from m2clip_lib.experiment import backbone_of, pick_device
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.checkpoint import read_checkpoint_info

log = logging.getLogger(__name__)


@dataclass
class VideoPrediction:
    """One video: its best classes with scores in [0, 1], best first, or the reason why it could not be read."""

    path: str
    readout: str
    top: list[tuple[str, float]] = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"top": [{"label": name, "score": round(score, 6)} for name, score in self.top]}


def parse_labels(text: str) -> list[str]:
    """ "a,b,c" or the path of a file with one name a line -> names; "" -> none. Raises: UserError for fewer than two."""
    if not text:
        return []
    file = Path(text).expanduser()
    is_file = os.path.isfile(file)  # noqa: PTH113 (Path.is_file raises for a list too long to be a name)
    names = read_names(file) if is_file else [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2:
        raise UserError(f"--labels {text!r}: needs two or more names, as a,b,c or as a file with one a line")
    if len(set(names)) < len(names):
        raise UserError(f"--labels {text!r}: a name stands there twice")
    return names


def open_checkpoint(checkpoint: Path) -> tuple[M2CLIP, Protocol]:
    """A checkpoint of this workbook on its own backbone, on the best device there is, and the protocol that fits its training."""
    if checkpoint.is_file() and checkpoint.suffix != ".safetensors":
        raise UserError(
            f"{checkpoint}: a published file names neither its backbone nor its classes; score it with: m2clip eval EXPERIMENT "
            "--checkpoint FILE, or load it with M2CLIP.from_checkpoint and save() it once"
        )
    info = read_checkpoint_info(checkpoint)
    if "stride" not in info.extra:  # saved by hand
        log.warning("%s does not say its stride: clips are spread over the whole video", checkpoint)
    return M2CLIP.from_checkpoint(checkpoint, backbone_of(info)).to(pick_device()), Protocol.of_checkpoint(info)


def predict_videos(videos: Sequence[Path], checkpoint: Path, labels: Sequence[str] = (), top: int = 5) -> list[VideoPrediction]:
    """Score videos with a checkpoint's own classes (ensemble), or with other names (similarity).

    Returns: one prediction a video, in the order given; one that cannot be read carries its reason.
    """
    model, protocol = open_checkpoint(checkpoint)
    readout = "similarity" if labels else "ensemble"
    results = [VideoPrediction(str(path), readout) for path in videos]
    table, dataset, failed = views_of_files(videos, protocol, model.backbone.image_size)
    for place, reason in failed.items():
        results[place].error = reason
    if dataset is None:
        return results
    scored = predict(model, dataset, 1, 0, pick_device(), class_names=list(labels) or None)
    scores = scored.readout(readout)
    for row, values, ids in zip(scored.rows, scores, top_ids(scores, top), strict=True):
        results[table.place[row]].top = [(scored.class_names[i], float(values[i])) for i in ids]
    for row, reason in scored.failed:
        results[table.place[row]].error = reason
    return results


WINDOW_S = 2.0  # of a model trained on clips spread over whole videos (stride 0): how long an action lasts is not known
MOST_WINDOWS = 10_000
BATCH_SIZE = 8  # windows


@dataclass(frozen=True)
class Timeline:
    """Scores of n windows against k names.

    Attributes:
        starts, ends: of the windows (n,), seconds, counted in frames at the file's mean rate.
        scores: (n, k) in [0, 1]; a window that could not be read has a row of NaN. failed: (window, reason).
        readout: "ensemble" with the model's own classes, "similarity" with others.
    """

    path: str
    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    names: list[str]
    readout: str
    failed: list[tuple[int, str]]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """The best names of every window with their scores, best first; none for a window that could not be read."""
        best = top_ids(np.nan_to_num(self.scores), count)
        rows = zip(self.scores, best, strict=True)
        return [[(self.names[i], float(row[i])) for i in ids] if np.isfinite(row).all() else [] for row, ids in rows]

    def table(self, count: int) -> pd.DataFrame:
        """One row a window: start_s, end_s, then label and score (percent) of the best."""
        rows = []
        for start, end, best in zip(self.starts, self.ends, self.top(count), strict=True):
            found = {f"label_{i}": name for i, (name, _) in enumerate(best, 1)} | {
                f"score_{i}": 100 * s for i, (_, s) in enumerate(best, 1)
            }
            rows.append({"start_s": start, "end_s": end} | found)
        columns = [f"{what}_{i}" for i in range(1, min(count, len(self.names)) + 1) for what in ("label", "score")]
        return pd.DataFrame(rows).reindex(columns=["start_s", "end_s", *columns])

    def as_list(self, count: int) -> list[dict]:
        """For JSON."""
        spans = zip(self.starts, self.ends, self.top(count), strict=True)
        return [
            {
                "start_s": round(float(start), 3),
                "end_s": round(float(end), 3),
                "top": [{"label": name, "score": round(score, 6)} for name, score in best],
                "error": dict(self.failed).get(place, ""),
            }
            for place, (start, end, best) in enumerate(spans)
        ]


def windows(num_frames: int, fps: float, window_s: float, every_s: float) -> list[tuple[int, int]]:
    """Frame ranges [first, end) of the windows; the last one ends with the video, and a short video is one window.

    Args:
        num_frames, fps: of the video. window_s, every_s: length of a window and distance of two starts, seconds.
    """
    length, step = max(1, round(window_s * fps)), max(1, round(every_s * fps))
    if length >= num_frames:
        return [(0, num_frames)]
    starts = list(range(0, num_frames - length + 1, step))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [(start, start + length) for start in starts]


class WindowClips(Dataset):
    """One clip of each window [first, end) of one video: frames spread evenly over it, centre crop."""

    def __init__(self, video: TestViews, spans: Sequence[tuple[int, int]]):
        self.video, self.spans, self.protocol = video, spans, video.protocol

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, place: int) -> Item:
        first, end = self.spans[place]
        return self.video.read(place, 0, 0, [[first + i for i in test_indices(end - first, self.protocol.frames, 0)[0]]])


def video_timeline(
    path: Path,
    model: M2CLIP,
    protocol: Protocol,
    labels: Sequence[str] = (),
    window_s: float = 0.0,
    every_s: float = 0.0,
) -> Timeline:
    """Score a video window by window with the model's own classes (ensemble), or with other names (similarity).

    Args:
        protocol: frames per clip, and the stride the model was trained with.
        window_s: seconds a window; 0: as long as a training clip, or 2 s where training clips span whole videos (stride 0).
        every_s: seconds from window to window; 0: half a window.
    Raises: UserError when the video cannot be read, has no frame rate, or would give too many windows.
    """
    table, video, failed = views_of_files([path], protocol.one_view(), model.backbone.image_size)
    if video is None:
        raise UserError(f"{path}: {failed[0]}")
    info = table.iloc[0]
    if not info.fps:
        raise UserError(
            f"{path}: the file has no frame rate, so its time in seconds is not known; re-encode it, or predict without --timeline"
        )
    window_s = window_s or _default_window(protocol, info.fps)
    spans = windows(info.num_frames, info.fps, window_s, every_s or window_s / 2)
    if len(spans) > MOST_WINDOWS:
        raise UserError(
            f"{path}: {len(spans):,} windows of {window_s:g} s are too many; give a larger --every than {every_s or window_s / 2:g} s"
        )
    scored = predict(model, WindowClips(video, spans), BATCH_SIZE, 0, pick_device(), class_names=list(labels) or None)
    readout = "similarity" if labels else "ensemble"
    scores = np.full((len(spans), len(scored.class_names)), np.nan, np.float32)
    scores[scored.rows] = scored.readout(readout)
    starts, ends = (np.array(edge) / info.fps for edge in zip(*spans, strict=True))
    return Timeline(str(path), starts, ends, scores, scored.class_names, readout, scored.failed)


def _default_window(protocol: Protocol, fps: float) -> float:
    return ((protocol.frames - 1) * protocol.stride + 1) / fps if protocol.stride else WINDOW_S
