"""Type a sentence, get the best moments of many videos: windows over frame features of frozen CLIP, which are computed once."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.prepare import stored_manifest
from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.data.transforms import frames_to_clip, test_crops
from m2clip_lib.data.video.decode import fit_short_side, read_clips
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.workers import fingerprint, with_progress
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import open_backbone, pick_device
from m2clip_lib.files import code_digest, hash_texts, write_atomically
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.text import class_features
from m2clip_lib.moments.folder import scan_folder
from m2clip_lib.moments.windows import load_arrays

RATE = 2.0  # frames per second that are encoded
LENGTHS_S = (2.0, 4.0, 8.0)  # of the windows; they start half a length apart
BATCH_SIZE = 32  # frames
PER_VIDEO = 3  # moments of one video, at most


def search(
    text: str,
    experiment: Experiment,
    folder: Path | None = None,
    top: int = 10,
    per_video: int = PER_VIDEO,
    report: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Find the moments that resemble a sentence most, with the experiment's frozen CLIP.

    The sentence is read as it is: it is a caption, not a class name to put into a prompt. Features are kept in data/moments/, so that a
    second search decodes no video.

    Args:
        folder: of the videos to search; default: those of the experiment's manifest, whatever has been corrected since.
    Returns: path, start_s, end_s, score (cosine of the window's mean feature and the text's), the best first; moments of one video do
        not overlap. And path -> reason of the videos that could not be read.
    """
    if not text.strip():
        raise UserError("search: the sentence is empty; say what is to be seen")
    table = stored_manifest(experiment).table if folder is None else scan_folder(folder, report)[0]
    table = table.drop_duplicates("path")
    failed = dict(table[table.status != "ok"][["path", "status"]].itertuples(index=False))
    backbone, device = open_backbone(experiment), pick_device()
    config = M2CLIPConfig((text,), ("a",), visual_adapter="none", text_side="frozen", num_frames=1)
    model, code, found = M2CLIP(backbone, config).eval().to(device), code_digest(), []
    with torch.inference_mode():
        (wanted,) = class_features(model, class_prompts([text], "{}"), device).float().cpu().numpy()
    readable = table[table.status == "ok"]
    for row in with_progress(readable.itertuples(), len(readable), "searching", report, unit="videos"):
        try:
            key = hash_texts(backbone.sha256, code, str(Path(row.path).absolute()), fingerprint(row.path))
            file = paths.DATA / "moments" / f"{key[:16]}.npz"
            features = load_arrays(file)["features"] if file.is_file() else _encode(row, model, file)
        except (VideoError, OSError) as error:
            failed[row.path] = str(error)
            continue
        found += [(row.path, *moment) for moment in best_moments(features, frame_times(row.times)[-1], wanted, per_video)]
    found.sort(key=lambda row: (-row[3], row[0], row[1]))
    return pd.DataFrame(found[:top], columns=["path", "start_s", "end_s", "score"]), failed


def best_moments(features: np.ndarray, duration_s: float, wanted: np.ndarray, most: int) -> list[tuple[float, float, float]]:
    """The windows of one video whose mean feature is most like the wanted one: (start_s, end_s, cosine), none overlapping a better one.

    Of equal windows (to 1e-4) the longer one is better, then the earlier. features: (n, e), one per 1 / RATE seconds. wanted: (e,), unit.
    """
    sums, windows = np.concatenate([np.zeros((1, features.shape[1])), features.cumsum(axis=0, dtype=np.float64)]), []
    for length in (min(len(features), max(1, round(seconds * RATE))) for seconds in LENGTHS_S):
        last = len(features) - length
        for first in sorted({*range(0, last, max(1, length // 2)), last}):
            mean = sums[first + length] - sums[first]
            score = round(float(mean @ wanted / max(np.linalg.norm(mean), 1e-12)), 4)
            windows.append((first / RATE, min((first + length) / RATE, duration_s), score))
    chosen: list[tuple[float, float, float]] = []
    for start, end, score in sorted(windows, key=lambda window: (-window[2], window[0] - window[1], window[0])):
        if len(chosen) < most and all(end <= other[0] or start >= other[1] for other in chosen):
            chosen.append((start, end, score))
    return chosen


def _encode(row: tuple, model: M2CLIP, file: Path) -> np.ndarray:
    """Features (n, e) float16 of what is on the screen every 1 / RATE seconds; the file is read once, a batch of frames at a time."""
    times, side = frame_times(row.times), model.backbone.image_size
    if not times[-1]:
        raise VideoError("the file does not say when its frames are shown")
    shown = np.searchsorted(times[:-1], np.arange(0, times[-1], 1 / RATE) + 1e-6, "right") - 1
    chosen, places = np.unique(shown, return_inverse=True)
    frames = getattr(row, "file_frames", row.num_frames)  # of a segment's row
    clips = read_clips(row.path, chosen[:, None].tolist(), fit_short_side(row.width, row.height, side), frames)
    parts, batch = [], []
    for number, (picture, _) in enumerate(clips, start=1):
        batch.append(test_crops(frames_to_clip(picture), side, 1)[0])
        if len(batch) == BATCH_SIZE or number == len(chosen):
            with torch.inference_mode():
                video = model.backbone.video(torch.stack(batch), model.clip.logit_scale.device)
                parts.append(model.encode_video(video).image_features.float().cpu().numpy())
            batch = []
    features, content = np.concatenate(parts)[places].astype(np.float16), io.BytesIO()
    np.savez(content, features=features)
    write_atomically(file, lambda place: place.write_bytes(content.getbuffer()))
    return features
