"""The training loop: plain, seeded, one line an epoch."""

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.checks import check_mirror
from m2clip_lib.data.dataset import Batch, EpochSampler, TrainClips, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.transforms import Augmentation, to_model_input
from m2clip_lib.engine.build import build_model, make_reader, open_backbone, pick_device, set_threads, test_views
from m2clip_lib.engine.evaluate import predict
from m2clip_lib.engine.protocols import READOUTS, topk_accuracy
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, multi_task_loss
from m2clip_lib.models.class_texts import TrainingTexts
from m2clip_lib.models.text import mask_batch

TERMS = ("total", "contrastive", "cross_modal", "classification", "mlm")


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are means over the clips of the epoch; accuracies in percent; lr at its last step."""

    epoch: int
    step: int
    lr: float
    total: float
    contrastive: float
    cross_modal: float
    classification: float
    mlm: float
    val_top1_similarity: float
    val_top1_classifier: float
    val_top1_ensemble: float
    clips: int
    skipped: int
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind."""

    best: Path
    last: Path
    metrics: Path
    best_epoch: int
    best_val_top1: float
    seconds: float


def parameter_groups(model: M2CLIP, lr: float, weight_decay: float) -> list[dict]:
    """Groups for AdamW: text adapters at lr / 2, no decay on biases and norms; parameters that nothing reads are left out."""
    dead = model.dead_parameters()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name in dead:
            continue
        rate = lr / 2 if name.startswith("text_adapters.") else lr
        decay = 0.0 if parameter.dim() < 2 else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear over the first warmup share of all steps, then cosine to 0."""
    warmup_steps = warmup * total_steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup_steps) / (total_steps - warmup_steps))))


def train(
    experiment: Experiment,
    manifest: Manifest,
    run: str,
    report: Callable[[str], None] = print,
    progress: bool = False,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> TrainResult:
    """Train one model. Writes checkpoints/<run>/{best,last}.safetensors and results/<run>/metrics.csv.

    "Best" is the highest top-1 of the ensemble on the validation split; the test split is never read.
    progress: also show a bar within the epoch. on_epoch: called after each epoch with the metrics so far, a row an epoch.
    Raises: UserError for missing videos or weights, and when a loss is not finite (it names the term).
    """
    start = time.perf_counter()
    check_mirror(manifest.class_names, experiment.data.mirror)
    set_threads(experiment.train.threads)
    device = pick_device()
    backbone = open_backbone(experiment)
    model = build_model(experiment, backbone, manifest.class_names).to(device)
    steps = TrainingSteps(experiment, manifest, backbone, model, device)
    validated = (manifest.table.split == "val").any()
    validation = test_views(experiment, manifest, "val", backbone) if validated else None
    folder, metrics_file = paths.CHECKPOINTS / run, paths.RESULTS / run / "metrics.csv"
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    report(
        f"training {experiment.name!r} on {device}: {len(steps.dataset)} videos, {len(manifest.class_names)} classes, "
        f"{trainable:,} trainable parameters, {steps.total} steps" + ("" if validated else "; no validation: the last epoch is the best")
    )
    best, history = (-1.0, 0), []
    for epoch in range(1, experiment.train.epochs + 1):
        began = time.perf_counter()
        means, clips, skipped = steps.run_epoch(epoch, progress)
        top1 = dict.fromkeys((f"val_top1_{name}" for name in READOUTS), float("nan"))
        if validation is not None:
            scores = predict(model, validation, experiment.eval.batch_size, experiment.data.workers, device)
            top1 = {f"val_top1_{name}": topk_accuracy(scores.readout(name), scores.labels, 1) for name in READOUTS}
        row = EpochMetrics(
            epoch,
            epoch * len(steps.loader),
            steps.last_lr,
            **means,
            **top1,
            clips=clips,
            skipped=skipped,
            seconds=time.perf_counter() - began,
        )
        history.append(row)
        _write_metrics(metrics_file, history)
        if on_epoch is not None:
            on_epoch(pd.DataFrame([asdict(past) for past in history]))
        extra = {
            "stride": experiment.data.stride,
            "run": run,
            "experiment": experiment.name,
            "epoch": epoch,
            "val_top1_ensemble": row.val_top1_ensemble,
        }
        model.save(folder / "last.safetensors", **extra)
        if validation is None or row.val_top1_ensemble >= best[0]:
            best = (row.val_top1_ensemble, epoch)
            model.save(folder / "best.safetensors", **extra)
        report(
            f"epoch {epoch}/{experiment.train.epochs}  loss {row.total:.3f}  val top-1 {row.val_top1_ensemble:.1f} % "
            f"(similarity {row.val_top1_similarity:.1f}, classifier {row.val_top1_classifier:.1f})  lr {row.lr:.1e}  "
            f"{clips / row.seconds:.0f} clips/s  {row.seconds:.1f} s" + (f"  {skipped} videos skipped" if skipped else "")
        )
    return TrainResult(
        folder / "best.safetensors", folder / "last.safetensors", metrics_file, best[1], best[0], time.perf_counter() - start
    )


class TrainingSteps:
    """Everything that one optimizer step needs, made once."""

    def __init__(self, experiment: Experiment, manifest: Manifest, backbone: Backbone, model: M2CLIP, device: torch.device):
        settings, data = experiment.train, experiment.data
        table = manifest.split("train")
        side = backbone.image_size
        augmentation = Augmentation(data.short_side or (side, side), data.random_resized_crop, data.rand_augment, bool(data.mirror))
        if augmentation.short_side[0] < side:
            raise UserError(
                f"data.short_side {list(augmentation.short_side)}: below the backbone's input of {side} px; raise the least value"
            )
        reader = make_reader(experiment, table, side)
        self.dataset = TrainClips(table, reader, data.num_frames, data.stride, side, augmentation, settings.seed)
        self.sampler = EpochSampler(len(self.dataset), settings.seed)
        self.loader = make_loader(self.dataset, settings.batch_size, data.workers, self.sampler)
        self.total = settings.epochs * len(self.loader)
        self.model, self.device, self.settings, self.backbone = model, device, settings, backbone
        groups = parameter_groups(model, settings.lr, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.peak_rates = [group["lr"] for group in groups]
        self.parameters = [p for group in groups for p in group["params"]]
        self.texts = TrainingTexts(model, device, settings.seed)
        self.last_lr = 0.0

    def run_epoch(self, epoch: int, progress: bool = False) -> tuple[dict[str, float], int, int]:
        """Returns: mean of each loss term over clips, clips seen, videos skipped."""
        self.sampler.epoch = epoch
        self.model.train()
        sums, clips, skipped = torch.zeros(len(TERMS), device=self.device), 0, 0
        for position, batch in enumerate(tqdm(self.loader, desc=f"epoch {epoch}", leave=False, disable=not progress)):
            skipped += len(batch.failed)
            if batch.indices:
                sums += self.step(batch, epoch, (epoch - 1) * len(self.loader) + position) * len(batch.indices)
                clips += len(batch.indices)
        if not clips:
            raise UserError("training: not one video of the training split could be read; run prepare again")
        return dict(zip(TERMS, (sums / clips).tolist(), strict=True)), clips, skipped

    def step(self, batch: Batch, epoch: int, step: int) -> torch.Tensor:
        """One optimizer step; returns the loss terms, detached, in the order of TERMS."""
        torch.manual_seed(np.random.SeedSequence([self.settings.seed, step]).generate_state(1)[0])  # a step is a function of (seed, step)
        factor = lr_factor(step, self.total, self.settings.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        self.last_lr = self.settings.lr * factor
        seeds = [(self.settings.seed, epoch, index) for index in batch.indices]
        captions, class_tokens = self.texts.of_step(step)
        tokens, targets = mask_batch(captions, batch.labels.tolist(), self.backbone.tokenizer, seeds)
        video = to_model_input(batch.clips.to(self.device, non_blocking=True), self.backbone.mean, self.backbone.std)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            loss = multi_task_loss(
                self.model,
                video,
                batch.labels.to(self.device),
                class_tokens,
                masked_tokens=tokens.to(self.device),
                masked_targets=targets.to(self.device),
                cross_modal_ce=self.settings.cross_modal_ce,
            )
        terms = torch.stack([getattr(loss, term).detach().float() for term in TERMS])
        if not torch.isfinite(terms).all():
            bad = [term for term, value in zip(TERMS, terms.tolist(), strict=True) if not np.isfinite(value)]
            raise UserError(f"training: loss {', '.join(bad)} is not finite at epoch {epoch}, step {step}; lower train.lr, or use fp32")
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if self.settings.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad_norm)
        self.optimizer.step()
        return terms


def _write_metrics(file: Path, history: list[EpochMetrics]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(EpochMetrics)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
