"""Does relevance fall on the moving object? Measured on the demonstration's videos, whose objects have known boxes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from m2clip_lib.attention.relevance import relevance
from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import in_order, make_loader
from m2clip_lib.data.demo.videos import box_shares, video_scenes
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import synthetic_config
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.evaluate.controls import untrained
from m2clip_lib.evaluate.evaluate import is_own_label_set
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.experiment import build_model, first_of_each_class
from m2clip_lib.models import M2CLIP


def mass_inside(values: np.ndarray, inside: np.ndarray) -> float:
    """Share of a map's sum that lies in the boxes, each patch's value spread evenly over its area; NaN for a map of zeros.

    values: (t, rows, columns), >= 0. inside: share of each patch that the boxes cover, same shape.
    """
    total = values.sum()
    return float((values * inside).sum() / total) if total else float("nan")


def focus_models(model: M2CLIP, experiment: Experiment) -> dict[str, M2CLIP]:
    """A trained model and its two controls: the same CLIP with untrained adapters, and random weights everywhere."""
    names, device = list(model.config.class_names), model.clip.logit_scale.device
    return {
        "this run": model,
        "adapters untrained": build_model(experiment, model.backbone, names).to(device).eval(),
        "nothing trained": untrained(experiment, model.backbone, names).to(device),
    }


def focus_table(models: Mapping[str, M2CLIP], experiment: Experiment, manifest: Manifest, videos: int, readout: str) -> pd.DataFrame:
    """Relevance for the true class in one view of the first `videos` evaluation videos of every class.

    readout: see relevance; classes other than the model's own have similarity alone.
    Returns: one row per model and class: inside (mean share of relevance in the boxes) and area (mean share of the picture that the
        boxes cover: the share expected of an uninformed map), percent; videos; ratio: inside / area; views: "1x1".
    """
    protocol = Protocol.of_experiment(experiment).one_view()
    table = manifest.split(protocol.split)
    chosen = first_of_each_class(table, videos)
    rows = []
    for name, model in models.items():
        views = evaluation_views(experiment, manifest, model.backbone, protocol, chosen)
        own = is_own_label_set(model.config.class_names, manifest.class_names, model.source)
        texts = protocol.class_texts(model, None if own else manifest.class_names)
        for batch in make_loader(views, in_order(len(chosen), experiment.eval.batch_size), 0):
            video = model.backbone.video(batch.clips[:, 0], texts.device)
            maps = relevance(model, video, texts, batch.labels.to(texts.device), readout if own else "similarity").cpu().numpy()
            for row, values in zip(batch.indices, maps, strict=True):
                indices = test_indices(table.num_frames[row], protocol.frames, protocol.stride)[0]
                inside = box_shares(video_scenes(table.path[row], synthetic_config(experiment)), values.shape[1:])[indices]
                rows.append((name, table.class_name[row], 100 * mass_inside(values, inside), 100 * inside.mean()))
    groups = pd.DataFrame(rows, columns=["model", "class_name", "inside", "area"]).groupby(["model", "class_name"], sort=False)
    summary = groups.agg(inside=("inside", "mean"), area=("area", "mean"), videos=("area", "size"))
    return summary.assign(ratio=summary.inside / summary.area, views="1x1").reset_index()
