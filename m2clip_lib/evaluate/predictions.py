"""Scores of videos: computed by predict, saved to files. Every table and figure is made from those files, never from a live model."""

import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import READOUTS, top_ids
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, TestViews, evaluation_views
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.files import write_atomically, write_json
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.losses import SCORE_SCALE
from m2clip_lib.models.m2clip import VideoOutput
from m2clip_lib.models.text import class_features

HOW = "(m2clip eval, or notebook 04)"


@dataclass(frozen=True)
class Predictions:
    """Scores of n videos against k classes, float32, each row summing to 1: mean over views of a softmax.

    Attributes:
        similarity: softmax of 100 x cosine with the class texts. classifier: of the linear head (None for classes it was not trained on).
        rows: rows of the split's table that were read. failed: (row, reason) of the others.
        decoders: number of videos read by each decoder.
        protocol: how the videos were scored (None: scores that do not come from videos). list_sha256: digest of the manifest, once saved.
        logits: (n, k + m), 100 x cosine with the k class texts and m unrelated ones, mean over views, if these were asked for; not saved.
    """

    similarity: np.ndarray
    classifier: np.ndarray | None
    labels: np.ndarray
    rows: list[int]
    class_names: list[str]
    failed: list[tuple[int, str]] = field(default_factory=list)
    decoders: dict[str, int] = field(default_factory=dict)
    protocol: Protocol | None = None
    list_sha256: str = ""
    logits: np.ndarray | None = None

    @property
    def readouts(self) -> tuple[str, ...]:
        """The available read-outs, the best one last: similarity alone without a classifier."""
        return READOUTS if self.classifier is not None else ("similarity",)

    def readout(self, name: str) -> np.ndarray:
        """Scores (n, k) of "similarity", "classifier" or "ensemble" (their mean)."""
        if name == "ensemble":
            return (self.similarity + self.classifier) / 2
        return {"similarity": self.similarity, "classifier": self.classifier}[name]

    @property
    def best(self) -> np.ndarray:
        """Scores (n, k) of the ensemble, or of similarity where there is no classifier."""
        return self.readout(self.readouts[-1])


def class_logits(seen: VideoOutput, texts: Tensor, own: bool) -> dict[str, Tensor]:
    """Scores of clips (b, k) before the softmax, by read-out: 100 x cosine with the class texts, and the linear head.

    Args:
        texts: features of the class texts, of length 1. own: whether they are the classes that the model was trained on.
    """
    logits = {"similarity": SCORE_SCALE * (F.normalize(seen.image_features, dim=-1) @ texts.T)}
    return logits | {"classifier": seen.fc_logits} if own else logits


@torch.inference_mode()
def predict(
    model: M2CLIP,
    dataset: TestViews,
    batch_size: int,
    workers: int,
    device: torch.device,
    class_names: Sequence[str] | None = None,
    processes: Processes | None = None,
    loader: DataLoader | None = None,
    unrelated: Sequence[str] = (),
) -> Predictions:
    """Score every video of a dataset; unreadable videos are listed in `failed`, and no substitute is scored.

    Args:
        class_names: another label set, scored by similarity alone with the protocol's prompts. Default: the model's own classes with
            the prompts it was trained with, which the returned protocol then names.
        processes: processes that share the batches; each returns all predictions, bit-identical to those of a single process with the
            same number of threads.
        loader: this process' part of the dataset, for a caller that keeps one.
        unrelated: names to score too, for the label check; they have no part in the classes' scores.
    """
    model.eval()
    rank, count = (processes.rank, processes.count) if processes else (0, 1)
    own = class_names is None
    names = list(model.config.class_names if own else class_names)
    protocol = dataset.protocol.with_texts_of(model.config) if own else dataset.protocol
    texts = class_features(model, model.config.prompts() if own else protocol.class_prompts(names), device)
    others = class_features(model, class_prompts(unrelated, protocol.prompts), device) if unrelated else None
    loader = loader or make_loader(dataset, in_order(len(dataset), batch_size, rank, count), workers)
    found, failed, decoders = [], [], Counter()  # found: rows, labels and scores by read-out of each batch
    with out_of_memory_explained(EVALUATION_ADVICE.format(batch_size)):
        for batch in tqdm(batches(loader), total=len(loader), desc="evaluate", leave=False, disable=rank > 0 or not sys.stderr.isatty()):
            failed += batch.failed
            decoders += batch.decoders
            if batch.indices:
                seen = model.encode_video(model.backbone.video(batch.clips.flatten(0, 1), device))
                scores = {name: x.softmax(-1) for name, x in class_logits(seen, texts, own).items()}
                if others is not None:
                    scores |= {"logits": class_logits(seen, torch.cat([texts, others]), own=False)["similarity"]}
                by_video = {name: x.unflatten(0, batch.clips.shape[:2]).mean(1).cpu().numpy() for name, x in scores.items()}
                found.append((batch.indices, batch.labels.numpy(), by_video))
    parts = processes.gather((found, failed, decoders)) if processes else [(found, failed, decoders)]
    found, failed = (list(chain.from_iterable(part[i] for part in parts)) for i in (0, 1))
    if not found:
        raise UserError(f"evaluation: none of {len(failed)} videos could be read; first reason: {failed[0][1] if failed else 'no videos'}")
    rows, labels, scores = zip(*found, strict=True)
    order = np.argsort(np.concatenate(rows))
    both = {name: np.concatenate([of_batch[name] for of_batch in scores])[order] for name in scores[0]}
    rows, labels = np.concatenate(rows)[order].tolist(), np.concatenate(labels)[order]
    decoders = dict(sum((part[2] for part in parts), Counter()))
    scores = both["similarity"], both.get("classifier"), labels
    return Predictions(*scores, rows, names, sorted(failed), decoders, protocol, logits=both.get("logits"))


def predict_split(
    experiment: Experiment, manifest: Manifest, model: M2CLIP, protocol: Protocol, rows: Sequence[int] | None = None, **options: object
) -> Predictions:
    """Score the protocol's split with the experiment's batch size and workers.

    rows: of the split's table (default: all). options: class_names, processes and unrelated, see predict.
    """
    views, device = evaluation_views(experiment, manifest, model.backbone, protocol, rows), model.clip.logit_scale.device
    return predict(model, views, experiment.eval.batch_size, experiment.data.workers, device, **options)


def save_predictions(predictions: Predictions, manifest: Manifest, folder: Path, name: str, **provenance: object) -> None:
    """Write folder/<name>.parquet (one row per video: path, label, top-5 per read-out), <name>.npz (score matrices), <name>.json."""
    table = manifest.split(predictions.protocol.split)
    rows = table.iloc[predictions.rows][["path", "label", "class_name"]].reset_index(drop=True)
    for readout in predictions.readouts:
        scores = predictions.readout(readout)
        ids = top_ids(scores, 5)
        rows[f"{readout}_top5"] = ids.tolist()
        rows[f"{readout}_top5_scores"] = np.take_along_axis(scores, ids, axis=1).tolist()
    write_atomically(folder / f"{name}.parquet", lambda file: rows.to_parquet(file, index=False))
    arrays = {readout: predictions.readout(readout) for readout in predictions.readouts if readout != "ensemble"}
    content = io.BytesIO()  # given a path, savez would append .npz to the temporary file's name
    np.savez(content, labels=predictions.labels, rows=np.asarray(predictions.rows), **arrays)
    write_atomically(folder / f"{name}.npz", lambda file: file.write_bytes(content.getbuffer()))
    failed = [{"row": row, "path": str(table.path[row]), "reason": reason} for row, reason in predictions.failed]
    about = {"class_names": predictions.class_names, "failed": failed, "decoders": predictions.decoders}
    about |= {"protocol": asdict(predictions.protocol), "list_sha256": manifest.sha256}
    write_json(folder / f"{name}.json", about | provenance)


def load_predictions(folder: Path, name: str) -> Predictions:
    """Read what save_predictions wrote. Raises: UserError when the files are missing or too old."""
    side = folder / f"{name}.json"
    if not side.is_file():
        raise UserError(f"predictions: no such file: {side}; evaluate first {HOW}")
    about = json.loads(side.read_text())
    if "protocol" not in about:
        raise UserError(f"predictions: {side} was written by an older version; evaluate again {HOW}")
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    scores, rows = (arrays["similarity"], arrays.get("classifier")), arrays["rows"].tolist()
    failed = [(entry["row"], entry["reason"]) for entry in about["failed"]]
    rest = {"decoders": about["decoders"], "protocol": Protocol(**about["protocol"]), "list_sha256": about["list_sha256"]}
    return Predictions(*scores, arrays["labels"], rows, about["class_names"], failed, **rest)
