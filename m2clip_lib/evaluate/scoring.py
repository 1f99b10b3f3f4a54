"""What makes Predictions: scores of every view of every video, in one process or several, in parts that an interrupted run keeps."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import Batch, batches, in_order, make_loader
from m2clip_lib.data.listing.recordings import source_of
from m2clip_lib.data.manifest import Manifest, read_side_file
from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Order, Protocol, TestViews, evaluation_views, frame_order
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.files import write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.losses import cosine_scores
from m2clip_lib.models.m2clip import VideoOutput
from m2clip_lib.models.text import class_features, unit

PART = 512  # videos that are scored between two saves


@dataclass(frozen=True)
class Found:
    """What was found out about some videos: rows (n,) of the table, labels (n,), scores by name (n, ...), and what could not be read.

    agreement: for how many of how many videos the best class is the same in fp32, where another precision is used.
    """

    rows: np.ndarray
    labels: np.ndarray
    scores: dict[str, np.ndarray]
    failed: list[tuple[int, str]]
    decoders: Counter[str]
    agreement: tuple[int, int] = (0, 0)

    @classmethod
    def joined(cls, parts: Sequence["Found"]) -> "Found":
        """All videos of some parts, in the order of their rows."""
        full = [part for part in parts if len(part.rows)]
        rows, labels = (np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in full)]) for name in ("rows", "labels"))
        order = np.argsort(rows)
        scores = {name: np.concatenate([part.scores[name] for part in full])[order] for name in (full[0].scores if full else ())}
        same, compared = (sum(part.agreement[i] for part in parts) for i in (0, 1))
        failed = sorted(chain.from_iterable(part.failed for part in parts))
        return cls(rows[order], labels[order], scores, failed, sum((part.decoders for part in parts), Counter()), (same, compared))

    def save(self, file: Path) -> None:
        """Write the part as one file."""
        about, content = json.dumps([self.failed, self.decoders, self.agreement]), io.BytesIO()
        np.savez(content, rows=self.rows, labels=self.labels, about=about, **{f"scores/{name}": x for name, x in self.scores.items()})
        write_atomically(file, lambda place: place.write_bytes(content.getbuffer()))

    @classmethod
    def load(cls, file: Path) -> "Found":
        """Read what save wrote."""
        with np.load(file) as stored:
            arrays = dict(stored)
        failed, decoders, agreement = json.loads(str(arrays["about"]))
        scores = {name.removeprefix("scores/"): x for name, x in arrays.items() if name.startswith("scores/")}
        return cls(arrays["rows"], arrays["labels"], scores, [tuple(pair) for pair in failed], Counter(decoders), tuple(agreement))


def class_logits(seen: VideoOutput, texts: Tensor, own: bool) -> dict[str, Tensor]:
    """Scores of clips (b, k) before the softmax, by read-out: 100 x cosine with the class texts, and the linear head.

    Args:
        texts: features of the class texts, of length 1. own: whether they are the classes that the model was trained on.
    """
    logits = {"similarity": cosine_scores(unit(seen.image_features), texts)}
    return logits | {"classifier": seen.fc_logits} if own else logits


def class_scores(logits: dict[str, Tensor], model: M2CLIP) -> dict[str, Tensor]:
    """Scores in [0, 1], fp32: the softmax of each read-out; sigmoids of a classifier that was trained with several labels per video."""
    several = model.config.several_labels
    return {name: x.float().sigmoid() if several and name == "classifier" else x.float().softmax(-1) for name, x in logits.items()}


class Scorer:
    """Scores clips with one model against one label set, in several orders of their frames.

    Args:
        class_names: another label set, scored by similarity alone with the protocol's prompts. Default: the model's own classes with
            the prompts it was trained with, which `protocol` then names.
        unrelated: names to score too, for the label check; they have no part in the classes' scores.
        orders: of the frames; the clips are decoded once for all of them.
    """

    def __init__(
        self,
        model: M2CLIP,
        protocol: Protocol,
        class_names: Sequence[str] | None = None,
        unrelated: Sequence[str] = (),
        orders: Sequence[Order] = ("forwards",),
        views_at_once: int = 0,
    ):
        self.model, self.own, self.orders, self.views_at_once = model.eval(), class_names is None, orders, views_at_once
        self.names = list(model.config.class_names if self.own else class_names)
        self.protocol = protocol.with_texts_of(model.config) if self.own else protocol
        self.device = model.clip.logit_scale.device
        self.texts = self.protocol.class_texts(model, class_names)
        self.others = class_features(model, class_prompts(unrelated, protocol.prompts), self.device) if unrelated else None
        self.half = protocol.precision == "bf16"

    def __call__(self, batch: Batch, compare: bool = False) -> Found:
        """The scores of a batch: means over views. compare: also score in fp32, and count equal answers."""
        scores: dict[str, np.ndarray] = {}
        for order in self.orders if batch.indices else ():
            clips, (videos, views, frames) = batch.clips, batch.clips.shape[:3]
            if order != "forwards":
                crops = self.protocol.spatial_views  # of one clip, side by side, with one order
                places = [[frame_order(order, frames, row, view // crops) for view in range(views)] for row in batch.indices]
                clips = clips[torch.arange(videos)[:, None, None], torch.arange(views)[None, :, None], torch.tensor(places)]
            found = self._of_clips(clips, self.half)
            scores |= {f"{order}/{name}": values for name, values in found.items()}
        same = (0, 0)
        if compare and self.half and batch.indices:
            exact, best = self._of_clips(batch.clips, half=False), "classifier" if self.own else "similarity"
            answers = [found[best].argmax(1) for found in (exact, {best: scores[f"{self.orders[0]}/{best}"]})]
            same = int((answers[0] == answers[1]).sum()), len(batch.indices)
        return Found(np.array(batch.indices, np.int64), batch.labels.numpy(), scores, batch.failed, batch.decoders, same)

    def _of_clips(self, clips: Tensor, half: bool) -> dict[str, np.ndarray]:
        videos, views = clips.shape[:2]
        pieces = clips.flatten(0, 1).split(videos * (self.views_at_once or views))
        found: dict[str, list[Tensor]] = {}
        for piece in pieces:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                seen = self.model.encode_video(self.model.backbone.video(piece, self.device))
            scores = class_scores(class_logits(seen, self.texts, self.own), self.model)
            if self.others is not None:
                scores |= {"logits": class_logits(seen, torch.cat([self.texts, self.others]), own=False)["similarity"]}
            for name, values in scores.items():
                found.setdefault(name, []).append(values)
        return {name: torch.cat(values).unflatten(0, (videos, views)).mean(1).cpu().numpy() for name, values in found.items()}

    def predictions(self, found: Found, dataset: TestViews) -> dict[str, Predictions]:
        """The predictions of each order. Raises: UserError when no video could be read, or a score is not finite."""
        if not len(found.rows):
            reason = found.failed[0][1] if found.failed else "no videos"
            raise UserError(f"evaluation: none of {len(found.failed)} videos could be read; first reason: {reason}")
        refuse_infinite_scores(np.concatenate([*found.scores.values()], axis=1), found.rows.tolist(), dataset, self.model)
        lost = dataset.table.label.to_numpy()[[row for row, _ in found.failed]]
        made = {}
        for order in self.orders:
            of_order = {name: found.scores.get(f"{order}/{name}") for name in ("similarity", "classifier", "logits")}
            protocol = self.protocol if order == "forwards" else replace(self.protocol, order=order)
            scores = of_order["similarity"], of_order["classifier"], found.labels
            about = {"lost": lost, "logits": of_order["logits"], "agreement": found.agreement}
            made[order] = Predictions(*scores, found.rows.tolist(), self.names, found.failed, dict(found.decoders), protocol, **about)
        return made


@torch.inference_mode()
def score_all(score: Callable[[Batch, bool], Found], loader: Iterable[Batch], batch_size: int, processes: Processes | None = None) -> Found:
    """Score the batches of this process' loader, and join them with those of the others. score: a Scorer, or what is like it."""
    rank = processes.rank if processes else 0
    found: list[Found] = []
    with out_of_memory_explained(EVALUATION_ADVICE.format(batch_size)):
        for batch in tqdm(batches(loader), total=len(loader), desc="evaluate", leave=False, disable=rank > 0 or not sys.stderr.isatty()):
            found.append(score(batch, not found))
    own = Found.joined(found)
    return Found.joined(processes.gather(own)) if processes else own


@torch.inference_mode()
def predict(
    model: M2CLIP,
    dataset: TestViews,
    batch_size: int,
    workers: int,
    class_names: Sequence[str] | None = None,
    processes: Processes | None = None,
    loader: DataLoader | None = None,
) -> Predictions:
    """Score every video of a dataset; unreadable videos are listed in `failed`, and no substitute is scored.

    Args:
        class_names: see Scorer.
        processes: processes that share the batches; each returns all predictions, bit-identical to those of a single process with the
            same number of threads.
        loader: this process' part of the dataset, for a caller that keeps one.
    """
    rank, count = (processes.rank, processes.count) if processes else (0, 1)
    scorer = Scorer(model, dataset.protocol, class_names)
    loader = loader or make_loader(dataset, in_order(len(dataset), batch_size, rank, count), workers)
    return scorer.predictions(score_all(scorer, loader, batch_size, processes), dataset)["forwards"]


def refuse_infinite_scores(values: np.ndarray, rows: Sequence[int], dataset: TestViews, model: M2CLIP) -> None:
    """Raises: UserError naming checkpoint and video when a row of values (n, ...) is not finite; rows: of the dataset's table."""
    bad = [dataset.table.path.iloc[row] for row, value in zip(rows, values, strict=True) if not np.isfinite(value).all()]
    if bad:
        raise UserError(
            f"{model.source}: the scores of {len(bad)} of {len(rows)} videos are not finite, although its weights are (first: {bad[0]}); "
            "its values are too large to compute with: use another checkpoint"
        )


def predict_split(
    experiment: Experiment, manifest: Manifest, model: M2CLIP, protocol: Protocol, rows: Sequence[int] | None = None, **options: object
) -> Predictions:
    """Score the protocol's split with the experiment's batch size and workers; see predict_orders."""
    return predict_orders(experiment, manifest, model, protocol, rows, **options)["forwards"]


def predict_orders(
    experiment: Experiment,
    manifest: Manifest,
    model: M2CLIP,
    protocol: Protocol,
    rows: Sequence[int] | None = None,
    parts: Path | None = None,
    processes: Processes | None = None,
    **options: object,
) -> dict[str, Predictions]:
    """Score the protocol's split in several orders of the frames, each video decoded once.

    Args:
        rows: of the split's table (default: all). options: class_names, unrelated and orders, see Scorer.
        parts: folder in which scored parts are kept until all are done; those found there are not scored again.
    """
    scorer = Scorer(model, protocol, views_at_once=experiment.eval.views_at_once, **options)
    views = evaluation_views(experiment, manifest, model.backbone, protocol, rows)
    asked = list(range(len(views.table)) if rows is None else rows)
    size, workers = experiment.eval.batch_size, experiment.data.workers
    rank, count = (processes.rank, processes.count) if processes else (0, 1)
    found: list[Found] = []
    for start in range(0, max(1, len(asked)), PART):
        chosen = asked[start : start + PART]
        file = parts / f"{start:08d}.npz" if parts and len(asked) > PART else None
        kept = Found.load(file) if file and rank == 0 and file.is_file() else None
        kept = processes.from_main(kept) if processes else kept
        if kept:
            found.append(kept)
            continue
        some = replace(views, rows=chosen)
        loader = make_loader(some, in_order(len(some), size, rank, count), workers)
        found.append(score_all(scorer, loader, size, processes))
        if file and rank == 0:
            found[-1].save(file)
    made = scorer.predictions(Found.joined(found), views)
    return {order: with_list(of_order, experiment, manifest, chosen=rows is not None) for order, of_order in made.items()}


def with_list(found: Predictions, experiment: Experiment, manifest: Manifest, chosen: bool = False) -> Predictions:
    """Add what the manifest says: all labels and the recording of every video, and the videos of the split that it marks as not usable.

    chosen: only some rows of the split were asked for: no other video counts as listed.
    """
    usable, split = manifest.split(found.protocol.split), manifest.table[manifest.table.split == found.protocol.split]
    unusable = split[(split.status != "ok") & (not chosen)]
    listed = pd.concat([usable.iloc[found.rows], usable.iloc[[row for row, _ in found.failed]], unusable])
    copied = ".mp4" if experiment.data.transcode else ""  # added to the name of a file's copy
    root, numbered = Path(read_side_file(manifest.folder)["root"]), experiment.data.layout == "hmdb51"
    recordings = pd.factorize(np.array([source_of(Path(path.removesuffix(copied)), root, numbered) for path in listed.path]))[0]
    missing = int(unusable.status.str.startswith("missing").sum())
    targets = manifest.targets(found.protocol.split)[found.rows] if manifest.several_labels else None
    if targets is not None and (found.protocol.count_unreadable_as_wrong or experiment.eval.subsets):
        asked = "eval.subsets" if experiment.eval.subsets else "eval.count_unreadable_as_wrong"
        raise UserError(f"{asked}: videos have several labels, and this is of top-1 alone; leave it out")
    return replace(found, lost=listed.label.to_numpy()[len(found.rows) :], missing=missing, recordings=recordings, targets=targets)
