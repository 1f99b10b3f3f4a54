"""Predictions of a split, saved to files; every table and figure is made from those files, never from a live model."""

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

from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import READOUTS, top_ids
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, TestViews
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.files import write_atomically, write_json
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.losses import SCORE_SCALE
from m2clip_lib.models.m2clip import VideoOutput
from m2clip_lib.models.text import class_features


@dataclass(frozen=True)
class Predictions:
    """Scores of n videos against k classes, float32, each row summing to 1: mean over views of a softmax.

    similarity: of 100 x cosine with the class texts; classifier: of the linear head (None where the label set is not its own).
    rows: rows of the split's table that were read; failed: (row, reason) of those that were not.
    decoders: how many videos were read by which decoder.
    protocol: how they were scored (None: scores that did not come from videos); list_sha256: of the manifest, once saved.
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

    @property
    def readouts(self) -> tuple[str, ...]:
        """Read-outs there are: similarity alone without a classifier."""
        return READOUTS if self.classifier is not None else ("similarity",)

    def readout(self, name: str) -> np.ndarray:
        """Scores (n, k) of "similarity", "classifier" or "ensemble" (their mean)."""
        if name == "ensemble":
            return (self.similarity + self.classifier) / 2
        return {"similarity": self.similarity, "classifier": self.classifier}[name]


def class_logits(seen: VideoOutput, texts: Tensor, own: bool) -> dict[str, Tensor]:
    """Scores of clips (b, k) before the softmax, by read-out: 100 x cosine with the class texts, and the linear head.

    Args:
        texts: features of the class texts, of length 1. own: whether they are the model's own classes, which its head knows.
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
) -> Predictions:
    """Score every video of a dataset; one that cannot be read is named in `failed`, and nothing takes its place.

    Args:
        class_names: another label set, scored by similarity alone with the protocol's prompts; by default the model's own classes
            with the prompts it was trained with, and the protocol of the predictions says so.
        processes: share the work among them, batch by batch; each gets all predictions, the same to the bit as one process alone would
            with as many threads.
        loader: this process' part of the dataset, where one is kept from call to call.
    """
    model.eval()
    rank, count = (processes.rank, processes.count) if processes else (0, 1)
    own = class_names is None
    names = list(model.config.class_names if own else class_names)
    protocol = dataset.protocol.with_texts_of(model.config) if own else dataset.protocol
    texts = class_features(model, model.config.prompts() if own else protocol.class_prompts(names), device)
    similarity, classifier, labels, rows, failed, decoders = [], [], [], [], [], Counter()
    loader = loader or make_loader(dataset, in_order(len(dataset), batch_size, rank, count), workers)
    with out_of_memory_explained(EVALUATION_ADVICE.format(batch_size)):
        for batch in tqdm(batches(loader), total=len(loader), desc="evaluate", leave=False, disable=rank > 0 or not sys.stderr.isatty()):
            failed += batch.failed
            decoders += batch.decoders
            if not batch.indices:
                continue
            videos, views = batch.clips.shape[:2]
            seen = model.encode_video(model.backbone.video(batch.clips.flatten(0, 1), device))
            logits = class_logits(seen, texts, own)
            for found, name in ((similarity, "similarity"), (classifier, "classifier")):
                if name in logits:
                    found.append(logits[name].softmax(-1).unflatten(0, (videos, views)).mean(1).cpu().numpy())
            labels.append(batch.labels.numpy())
            rows += batch.indices
    if count > 1:
        parts = processes.gather((similarity, classifier, labels, rows, failed, list(decoders.elements())))
        similarity, classifier, labels, rows, failed, used = (list(chain.from_iterable(column)) for column in zip(*parts, strict=True))
        decoders = Counter(used)
    if not rows:
        raise UserError(f"evaluation: none of {len(failed)} videos could be read; first reason: {failed[0][1] if failed else 'no videos'}")
    order = np.argsort(rows)
    scores, others = np.concatenate(similarity)[order], np.concatenate(classifier)[order] if own else None
    return Predictions(scores, others, np.concatenate(labels)[order], sorted(rows), names, sorted(failed), dict(decoders), protocol)


def save_predictions(predictions: Predictions, manifest: Manifest, folder: Path, name: str, **provenance: object) -> None:
    """Write folder/<name>.parquet (one row per video: path, label, top-5 per read-out), <name>.npz (score matrices), <name>.json."""
    table = manifest.split(predictions.protocol.split)
    rows = table.iloc[predictions.rows][["path", "label", "class_name"]].reset_index(drop=True)
    for readout in predictions.readouts:
        scores = predictions.readout(readout)
        ids = top_ids(scores, 5)
        rows[f"{readout}_top5"] = ids.tolist()
        rows[f"{readout}_top5_scores"] = np.take_along_axis(scores, ids, axis=1).tolist()
    arrays = {readout: predictions.readout(readout) for readout in predictions.readouts if readout != "ensemble"}

    def write_arrays(file: Path) -> None:
        with file.open("wb") as handle:
            np.savez(handle, labels=predictions.labels, rows=np.asarray(predictions.rows), **arrays)

    write_atomically(folder / f"{name}.parquet", lambda file: rows.to_parquet(file, index=False))
    write_atomically(folder / f"{name}.npz", write_arrays)
    failed = [{"row": row, "path": str(table.path[row]), "reason": reason} for row, reason in predictions.failed]
    about = {"class_names": predictions.class_names, "failed": failed, "decoders": predictions.decoders}
    about |= {"protocol": asdict(predictions.protocol), "list_sha256": manifest.sha256}
    write_json(folder / f"{name}.json", about | provenance)


def load_predictions(folder: Path, name: str) -> Predictions:
    """Read what save_predictions wrote. Raises: UserError when it is not there."""
    side = folder / f"{name}.json"
    if not side.is_file():
        raise UserError(f"predictions: no such file: {side}; evaluate first (m2clip eval, or notebook 04)")
    about = json.loads(side.read_text())
    if "protocol" not in about:
        raise UserError(f"predictions: {side} was written by an older version; evaluate again (m2clip eval, or notebook 04)")
    failed = [(entry["row"], entry["reason"]) for entry in about["failed"]]
    with np.load(folder / f"{name}.npz") as arrays:
        classifier = arrays["classifier"] if "classifier" in arrays else None
        labels, rows = arrays["labels"], arrays["rows"].tolist()
        protocol, decoders = Protocol(**about["protocol"]), about["decoders"]
        found = arrays["similarity"], classifier, labels, rows
    return Predictions(*found, about["class_names"], failed, decoders, protocol, about["list_sha256"])
