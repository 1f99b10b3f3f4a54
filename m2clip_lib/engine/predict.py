"""What is happening in a video: a checkpoint, some files, scores with names."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from m2clip_lib.data.dataset import TestViews, VideoReader
from m2clip_lib.data.names import read_names
from m2clip_lib.data.probe import VideoError, probe
from m2clip_lib.engine.build import pick_device
from m2clip_lib.engine.evaluate import predict
from m2clip_lib.engine.find import backbone_of
from m2clip_lib.engine.protocols import top_ids
from m2clip_lib.errors import UserError
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


def open_checkpoint(checkpoint: Path) -> tuple[M2CLIP, int]:
    """A checkpoint of this workbook on its own backbone, on the best device there is, and the stride it was trained with."""
    if checkpoint.is_file() and checkpoint.suffix != ".safetensors":
        raise UserError(
            f"{checkpoint}: a published file names neither its backbone nor its classes; score it with: m2clip eval EXPERIMENT "
            "--checkpoint FILE, or load it with M2CLIP.from_checkpoint and save() it once"
        )
    info = read_checkpoint_info(checkpoint)
    if "stride" not in info.extra:  # saved by hand
        log.warning("%s does not say its stride: clips are spread over the whole video", checkpoint)
    return M2CLIP.from_checkpoint(checkpoint, backbone_of(info)).to(pick_device()), info.extra.get("stride", 0)


def predict_videos(videos: Sequence[Path], checkpoint: Path, labels: Sequence[str] = (), top: int = 5) -> list[VideoPrediction]:
    """Score videos with a checkpoint's own classes (ensemble), or with other names (similarity).

    Returns: one prediction a video, in the order given; one that cannot be read carries its reason.
    """
    model, stride = open_checkpoint(checkpoint)
    readout = "similarity" if labels else "ensemble"
    results = [VideoPrediction(str(path), readout) for path in videos]
    rows = []
    for place, path in enumerate(videos):
        try:
            rows.append({"place": place, "path": str(path), "label": 0, **asdict(probe(path))})
        except VideoError as error:
            results[place].error = str(error)
    if not rows:
        return results
    table = pd.DataFrame(rows)
    dataset = TestViews(table, VideoReader(table, "auto"), model.config.num_frames, stride, model.backbone.image_size)
    scored = predict(model, dataset, 1, 0, pick_device(), class_names=list(labels) or None)
    scores = scored.readout(readout)
    for row, values, ids in zip(scored.rows, scores, top_ids(scores, top), strict=True):
        results[rows[row]["place"]].top = [(scored.class_names[i], float(values[i])) for i in ids]
    for row, reason in scored.failed:
        results[rows[row]["place"]].error = reason
    return results
