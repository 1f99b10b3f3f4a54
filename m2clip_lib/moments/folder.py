"""Predict every video of a folder: read by several processes, continued where it was stopped, nothing scored twice."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.data.dataset import VideoReader, batches, in_order, make_loader
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.listing.walk import videos_below
from m2clip_lib.data.scan import scan
from m2clip_lib.data.workers import Journal, cores, fingerprint, own, with_progress
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import VideoPrediction, best_names, open_checkpoint
from m2clip_lib.evaluate.protocol import TestViews
from m2clip_lib.evaluate.scoring import Scorer
from m2clip_lib.experiment import EVALUATION_ADVICE, out_of_memory_explained
from m2clip_lib.files import code_digest, file_sha256, hash_texts
from m2clip_lib.models.checkpoint import existing

BATCH_SIZE = 8  # videos
FEW = 64  # videos per loader process: starting one takes seconds


def scan_folder(folder: Path, report: Callable[[str], None]) -> tuple[pd.DataFrame, Path]:
    """Open every video below a folder once, in child processes. What was opened before is remembered in data/moments/.

    Returns: one row per video, with the manifest's columns; and the folder that remembers.
    Raises: UserError when there is no such folder, or no video in it, or another process is at work on it.
    """
    files = sorted(videos_below(folder)) if folder.is_dir() else None
    if not files:
        raise UserError(f"--folder {folder}: {'no such folder' if files is None else 'holds no video'}; give one with videos")
    kept = paths.DATA / "moments" / hash_texts("folder", str(folder.absolute()))[:16]
    with own(kept / ".lock", f"--folder {folder}"):
        return scan(Listing([(file, 0, "") for file in files], [""]), cores(), kept, report=report), kept


def predict_folder(
    folder: Path,
    checkpoint: Path,
    labels: Sequence[str] = (),
    top: int = 5,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> list[VideoPrediction]:
    """Score every video below a folder as predict_videos does, and keep each score as soon as it is there.

    Args:
        workers: loader processes; default: one per core, and none for a few videos.
    Returns: one prediction per video, by path; a video that cannot be read carries the reason, and is tried again the next time.
    """
    table, kept = scan_folder(folder, report)
    asked = hash_texts(file_sha256(existing(checkpoint)), code_digest(), repr((list(labels), top)))[:16]
    reasons = {row: status for row, status in enumerate(table.status) if status != "ok"}
    marks = [fingerprint(path) if status == "ok" else "" for path, status in zip(table.path, table.status, strict=True)]
    keys = list(zip(table.path, marks, strict=True))
    with own(kept / ".lock", f"--folder {folder}"), Journal(kept / f"{asked}.jsonl", {"top"}) as journal:
        missing = [row for row, key in enumerate(keys) if row not in reasons and key not in journal.known]
        if missing:
            if len(missing) < len(table) - len(reasons):
                report(
                    f"predict: {len(table) - len(reasons) - len(missing):,} videos are known from before, {len(missing):,} are to be scored"
                )
            model, protocol = open_checkpoint(checkpoint)
            backbone = model.backbone
            views = TestViews(table, VideoReader(table, "auto"), protocol, backbone.image_size, (backbone.mean, backbone.std), missing)
            scorer = Scorer(model, protocol, list(labels) or None)
            workers = min(cores(), len(missing) // FEW) if workers is None else workers
            loader = make_loader(views, in_order(len(missing), BATCH_SIZE), workers)
            with torch.inference_mode(), out_of_memory_explained(EVALUATION_ADVICE.format(BATCH_SIZE)):
                for batch in with_progress(batches(loader), len(loader), "predicting", report, unit="batches"):
                    reasons |= dict(batch.failed)
                    if batch.indices:
                        made = scorer.predictions(scorer(dataclasses.replace(batch, failed=[])), views)["forwards"]
                        for row, best in zip(made.rows, best_names(made.best, made.class_names, top), strict=True):
                            journal.add(*keys[row], {"top": best})
    readout = "similarity" if labels else "ensemble"
    return [
        VideoPrediction(
            path, readout, [] if row in reasons else [tuple(pair) for pair in journal.known[path, mark]["top"]], reasons.get(row, "")
        )
        for row, (path, mark) in enumerate(keys)
    ]


def predictions_table(found: Sequence[VideoPrediction]) -> pd.DataFrame:
    """One row per video: path, label_1, score_1 (percent), label_2, ..., reason ("" where it was read)."""
    rows = [
        {"path": one.path}
        | {
            f"{what}_{place}": cell
            for place, (name, score) in enumerate(one.top, 1)
            for what, cell in (("label", name), ("score", round(100 * score, 3)))
        }
        | {"reason": one.error}
        for one in found
    ]
    table = pd.DataFrame(rows)
    return table[[*table.columns.drop("reason"), "reason"]]
