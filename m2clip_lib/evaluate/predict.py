"""What is happening in a video: a checkpoint, some files, scores with names."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.config import Experiment
from m2clip_lib.data.classes import class_key, read_names, refuse_lookalikes
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.metrics import top_ids
from m2clip_lib.evaluate.protocol import Protocol, views_of_files
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.experiment import backbone_of, pick_device
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.checkpoint import read_checkpoint_info

log = logging.getLogger(__name__)

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
        return asdict(self) | {"top": best_as_list(self.top)}


def best_names(scores: np.ndarray, names: Sequence[str], count: int) -> list[Best]:
    """The best names of each row of scores; none for a row of NaN."""
    rows = zip(scores, top_ids(scores, count), strict=True)
    return [[(names[i], float(row[i])) for i in ids if np.isfinite(row[i])] for row, ids in rows]


def best_as_list(best: Best) -> list[dict]:
    """Names with scores as JSON values."""
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
    refuse_lookalikes(names, f"labels {text!r}")
    return names


def open_checkpoint(checkpoint: Path) -> tuple[M2CLIP, Protocol]:
    """Load a checkpoint of this workbook on its own backbone and the best device, with the protocol that matches its training."""
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
    backbone = model.backbone
    table, dataset, failed = views_of_files(videos, protocol, backbone.image_size, (backbone.mean, backbone.std))
    if dataset is not None:
        scored = predict(model, dataset, 1, 0, class_names=list(labels) or None)
        for row, best in zip(scored.rows, best_names(scored.best, scored.class_names, top), strict=True):
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
    _, views, failed = views_of_files([path], protocol, backbone.image_size, (backbone.mean, backbone.std))
    if views is None:
        raise UserError(f"{path}: {failed[0]}")
    scored = predict(frozen_clip(experiment, backbone, list(names)).to(pick_device()), views, 1, 0, class_names=list(names))
    if scored.failed:
        raise UserError(f"{path}: {scored.failed[0][1]}")
    (best,) = best_names(scored.best, scored.class_names, len(names))
    return pd.DataFrame([(name, 100 * score) for name, score in best], columns=["label", "score"])
