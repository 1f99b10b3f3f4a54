"""Scores every view of every video, in one process or several: what makes Predictions."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.listing.recordings import source_of
from m2clip_lib.data.manifest import Manifest, read_side_file
from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import Protocol, TestViews, evaluation_views
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.losses import cosine_scores
from m2clip_lib.models.m2clip import VideoOutput
from m2clip_lib.models.text import class_features, unit


def class_logits(seen: VideoOutput, texts: Tensor, own: bool) -> dict[str, Tensor]:
    """Scores of clips (b, k) before the softmax, by read-out: 100 x cosine with the class texts, and the linear head.

    Args:
        texts: features of the class texts, of length 1. own: whether they are the classes that the model was trained on.
    """
    logits = {"similarity": cosine_scores(unit(seen.image_features), texts)}
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
    texts = protocol.class_texts(model, class_names)
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
    refuse_infinite_scores(np.concatenate(list(both.values()), axis=1), rows, dataset, model)
    decoders, failed = dict(sum((part[2] for part in parts), Counter())), sorted(failed)
    lost = dataset.table.label.to_numpy()[[row for row, _ in failed]]
    scores = both["similarity"], both.get("classifier"), labels
    return Predictions(*scores, rows, names, failed, decoders, protocol, lost=lost, logits=both.get("logits"))


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
    """Score the protocol's split with the experiment's batch size and workers.

    rows: of the split's table (default: all). options: class_names, processes and unrelated, see predict.
    """
    views, device = evaluation_views(experiment, manifest, model.backbone, protocol, rows), model.clip.logit_scale.device
    found = predict(model, views, experiment.eval.batch_size, experiment.data.workers, device, **options)
    return with_list(found, experiment, manifest, chosen=rows is not None)


def with_list(found: Predictions, experiment: Experiment, manifest: Manifest, chosen: bool = False) -> Predictions:
    """Add what the manifest says: the recording of every video, and the videos of the split that it marks as not usable.

    chosen: only some rows of the split were asked for: no other video counts as listed.
    """
    usable, split = manifest.split(found.protocol.split), manifest.table[manifest.table.split == found.protocol.split]
    unusable = split[(split.status != "ok") & (not chosen)]
    listed = pd.concat([usable.iloc[found.rows], usable.iloc[[row for row, _ in found.failed]], unusable])
    copied = ".mp4" if experiment.data.transcode else ""  # added to the name of a file's copy
    root, numbered = Path(read_side_file(manifest.folder)["root"]), experiment.data.layout == "hmdb51"
    recordings = pd.factorize(np.array([source_of(Path(path.removesuffix(copied)), root, numbered) for path in listed.path]))[0]
    missing = int(unusable.status.str.startswith("missing").sum())
    return replace(found, lost=listed.label.to_numpy()[len(found.rows) :], missing=missing, recordings=recordings)
