"""One update of the weights: in one process or several, from one step or several accumulated ones."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from tqdm import tqdm

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import Batch, EpochSampler, TrainClips, clip_weights, make_loader
from m2clip_lib.data.listing.checks import check_mirror
from m2clip_lib.data.manifest import Manifest, made_from
from m2clip_lib.data.seeds import Purpose, stream, torch_seed
from m2clip_lib.data.transforms import Augmentation
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import make_reader
from m2clip_lib.files import code_digest
from m2clip_lib.models import M2CLIP, Backbone, multi_task_loss
from m2clip_lib.models.losses import PartOfUpdate
from m2clip_lib.models.text import NOT_A_TARGET, TrainingTexts, mask_batch, unit
from m2clip_lib.train.optim import FiniteCheck, live_parameters, lr_factor, parameter_groups
from m2clip_lib.train.record import TERMS, Tally
from m2clip_lib.train.trunk import Trunk

LEAST_SCALE = 1.0  # of the loss scaling of fp16, which starts at 65,536 and is halved at every overflow
CHECK_EVERY = 20  # updates between checks of the GPU's results, each of which waits for the GPU


@dataclass(frozen=True)
class Part:
    """A batch with its masked captions, on the host."""

    batch: Batch
    tokens: Tensor
    targets: Tensor

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of clips and of masked words."""
        return len(self.batch.indices), int((self.targets != NOT_A_TARGET).sum())


def share_of_each_class(labels: np.ndarray, share: float) -> np.ndarray:
    """Draw a share of every class' rows, at least one; a smaller share is part of a larger one. Returns: places in labels, ascending."""
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept.append(rows[stream(0, Purpose.DRAW, int(label)).permutation(len(rows))[: max(1, round(share * len(rows)))]])
    return np.sort(np.concatenate(kept))


class TrainingSteps:
    """Everything that the updates of a training need. An update takes batch_size x accumulate x processes clips."""

    def __init__(
        self,
        experiment: Experiment,
        manifest: Manifest,
        backbone: Backbone,
        model: M2CLIP,
        processes: Processes,
        report: Callable[[str], None] = print,
    ):
        settings, data = experiment.train, experiment.data
        check_mirror(manifest.class_names, data.mirror, data.mirror_pairs)
        table, side = manifest.split("train"), backbone.image_size
        augmentation = Augmentation(data.short_side or (side, side), data.random_resized_crop, data.rand_augment, bool(data.mirror))
        if augmentation.short_side[0] < side:
            raise UserError(f"data.short_side {list(augmentation.short_side)}: below the backbone's input of {side} px; raise its minimum")
        reader = make_reader(experiment, table, side)
        self._paths = table.path.tolist()
        self.dataset = TrainClips(table, reader, data.num_frames, data.stride, side, augmentation, settings.seed)
        rows = share_of_each_class(table.label.to_numpy(), data.train_share)
        self.sampler = EpochSampler(len(rows), settings.seed, settings.batch_size, settings.accumulate, processes.rank, processes.count)
        self.sampler.rows = rows
        targets = manifest.targets("train")
        weights = np.zeros(len(targets), np.float32)
        weights[rows] = clip_weights(targets[rows])
        if settings.balance == "sampling":
            self.sampler.chances = weights[rows].astype(float) / weights[rows].sum(dtype=float)
        self.clip_weights = torch.from_numpy(weights) if settings.balance == "weights" else None
        self.targets = torch.from_numpy(targets) if manifest.several_labels else None
        self.model, self.settings, self.backbone, self.processes, self.device = model, settings, backbone, processes, processes.device
        if settings.saved_views:
            drawn = repr((augmentation, data.num_frames, data.stride, side, settings.seed, data.decoder, data.cache_frames))
            inputs = [manifest.sha256, made_from(manifest.folder), code_digest(core=True), drawn, settings.precision, self.device.type]
            inputs += [backbone.sha256, experiment.backbone.model_dump_json(), repr((backbone.mean, backbone.std))]
            trunk = Trunk(model, backbone, processes, self.autocast, (settings.batch_size, data.workers), report)
            self.dataset = trunk.saved_clips(self.dataset, rows, settings.saved_views, inputs, experiment.prepared / "trunk")
        self.loader = make_loader(self.dataset, self.sampler, data.workers)
        self.updates = self.sampler.updates  # per epoch
        self.total = settings.epochs * self.updates
        self.lr = settings.lr * settings.accumulate * processes.count  # it grows with the clips per update
        self.optimizer = torch.optim.AdamW(parameter_groups(model, self.lr, settings.weight_decay, settings.clip_lr_scale), fused=True)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.fp16 = settings.precision == "fp16"
        # Without fp16 the scale stays 1: the scaler only skips updates whose gradients are not finite, without waiting for the device.
        fixed = {} if self.fp16 else {"init_scale": 1.0, "growth_interval": 2**31 - 1}
        self.scaler = torch.amp.GradScaler(self.device.type, **fixed)
        live = live_parameters(model)
        self.names, self.parameters = list(live), list(live.values())
        self.has_gradient = torch.zeros(len(live), dtype=torch.bool, device=self.device)
        self.finite = FiniteCheck(processes, self._paths)
        self.texts = TrainingTexts(model, self.device, settings.seed)
        self._loader_runs = self.between_updates = False
        self.failed: dict[str, str] = {}  # path -> reason, of the videos this process could not read

    def epoch(self, epoch: int, start: int, tally: Tally, bar: tqdm | None = None) -> Iterator[int]:
        """Make the updates of an epoch from number `start` on. Yields the number of updates done, after each one, and adds to `tally`.

        The time the caller spends between two updates (saving) does not count in the tally.
        """
        self.sampler.epoch, self.sampler.start = epoch, start
        self.model.train()
        batches, began = iter(self.loader), time.perf_counter()
        for update in range(start, self.updates):
            arrived = [next(batches) for _ in range(self.settings.accumulate)]
            # Waiting for clips costs time only once the device has finished its work.
            idle = self.device.type == "cpu" or torch.cuda.current_stream(self.device).query()
            waited = time.perf_counter() - began if idle and self._loader_runs else 0.0
            self._loader_runs = True  # before that its processes were starting
            step = (epoch - 1) * self.updates + update
            self.between_updates = False
            clips = self.update([self.prepare(batch, epoch, step) for batch in arrived], epoch, step, tally)
            if self.device.type == "cpu" or step % CHECK_EVERY == CHECK_EVERY - 1:
                self.finite.check()
                self._show(bar, tally)
            tally.skipped += int(self.processes.exchange([sum(len(batch.failed) for batch in arrived)]).sum())
            tally.clips += clips
            tally.decoders = dict(sum((batch.decoders for batch in arrived), Counter(tally.decoders)))
            self.failed |= {self._paths[row]: reason for batch in arrived for row, reason in batch.failed}
            tally.waited += waited
            tally.seconds += time.perf_counter() - began
            if bar is not None:
                bar.update()
            yield update + 1
            self.between_updates = True
            began = time.perf_counter()
        if self.fp16 and self.scaler.get_scale() < LEAST_SCALE:
            raise UserError(
                f"train.precision=fp16: the gradients overflow at every scale (now {self.scaler.get_scale():g}), so nothing is learned; "
                "use bf16 or fp32, or lower train.lr"
            )
        list(batches)  # nothing is left in it; this lets the loader end its pass

    def prepare(self, batch: Batch, epoch: int, step: int) -> Part:
        """Mask the captions of a batch: the masked words are a function of (seed, epoch, row), the prompt of (seed, step).

        So is the label that the caption of a video with several names, which takes the place of the batch's.
        """
        if self.targets is not None and batch.indices:
            drawn = [
                stream(self.settings.seed, Purpose.LABEL, epoch, row).choice(self.targets[row].nonzero()[:, 0]) for row in batch.indices
            ]
            batch = replace(batch, labels=torch.tensor(drawn))
        seeds = [(self.settings.seed, Purpose.MASK, epoch, index) for index in batch.indices]
        if not seeds:
            return Part(batch, torch.empty(0, 1, dtype=torch.int64), torch.empty(0, 1, dtype=torch.int64))
        captions, labels = self.texts.of_step(step)[0], batch.labels.tolist()
        return Part(batch, *mask_batch(captions, labels, self.backbone.tokenizer, seeds, self.settings.masked_share))

    def update(self, parts: Sequence[Part], epoch: int, step: int, tally: Tally | None = None) -> int:
        """Update the weights once, from one part or several. Returns: the clips of all processes (0: nothing was done).

        This does not wait for the device: an update that is not finite undoes itself there, and `finite` remembers it.
        """
        own = np.array([part.counts for part in parts])
        counts = self.processes.exchange(own.sum(0).tolist())  # (processes, 2)
        clips, words = (int(n) for n in counts.sum(0))
        if not clips:
            return 0
        self.optimizer.zero_grad(set_to_none=True)
        terms = torch.zeros(len(TERMS), device=self.device)
        images, labels, targets = self._negatives(parts, counts[:, 0].tolist())
        starts = int(counts[: self.processes.rank, 0].sum()) + np.cumsum([0, *own[:, 0]])
        tokens = self.texts.of_step(step)[1]
        with self.autocast():
            classes = self.model.encode_text(tokens, fixed=True).text_features if own[:, 0].any() else None
        # Several parts send their gradients to one copy of the class features, so that the text tower runs once.
        shared = classes.detach().float().requires_grad_() if len(parts) > 1 and classes is not None and classes.requires_grad else classes
        for number, part in enumerate(parts):
            clips_here, words_here = part.counts
            if clips_here:
                share = PartOfUpdate(clips_here / clips, words_here / max(words, 1), images, labels, int(starts[number]), targets)
                torch.manual_seed(torch_seed(self.settings.seed, Purpose.DROPOUT, step, self.processes.rank * len(parts) + number))
                loss = self._loss(part, tokens, shared, share)
                self.scaler.scale(loss.total).backward()
                terms += torch.stack([getattr(loss, term).detach().float() for term in TERMS])
            elif callable(images) and len(parts) == 1:
                images(torch.empty(0, self.model.visual.embed_dim, device=self.device))  # the others wait for this process
        if shared is not classes and shared.grad is not None:
            classes.backward(shared.grad.to(classes.dtype))
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        own_terms, terms = terms, self.processes.add_up(self.parameters, terms)
        self._apply(terms, own_terms, step, epoch, [index for part in parts for index in part.batch.indices])
        if tally is not None:
            tally.sums += terms * clips
        return clips

    def state(self) -> dict[str, Tensor]:
        """All tensors on which the next update depends."""
        state = {f"model.{name}": value for name, value in self.model.saved_state().items()}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            state |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        return state | {"has_gradient": self.has_gradient}

    def load_state(self, state: dict[str, Tensor], scaler: dict) -> None:
        """Restore the tensors of state() and the scaler's state."""
        self.model.load_state_dict({n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")}, strict=False)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            prefix = f"optimizer.{name}."
            found = {key.removeprefix(prefix): value.to(self.device) for key, value in state.items() if key.startswith(prefix)}
            if found:
                self.optimizer.state[parameter] = found
        if any(name.startswith("model.mlm_block.") for name in state):  # from a warm start; the next state must hold it too
            self.model.config = replace(self.model.config, own_mlm_block=True)
        self.has_gradient = state["has_gradient"].to(self.device)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def autocast(self) -> torch.autocast:
        """The precision of training."""
        half = torch.float16 if self.settings.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.settings.precision != "fp32")

    def _video(self, part: Part) -> Tensor:
        clips = part.batch.clips
        kept = clips.dtype == torch.float16  # tokens in front of the first adapter, instead of pixels
        return clips.to(self.device, non_blocking=True).float() if kept else self.backbone.video(clips, self.device)

    def _loss(self, part: Part, tokens: Tensor, classes: Tensor, share: PartOfUpdate):
        labels = part.batch.labels.to(self.device, non_blocking=True)
        masked = {"masked_tokens": part.tokens, "masked_targets": part.targets}
        recipe = {"cross_modal_ce": self.settings.cross_modal_ce, "weights": self.settings.loss_weights}
        lists = {"targets": self.targets, "clip_weights": self.clip_weights}
        of_rows = {name: x if x is None else x[part.batch.indices].to(self.device, non_blocking=True) for name, x in lists.items()}
        with self.autocast():
            given = {"class_features": classes, "part": share} | of_rows
            return multi_task_loss(self.model, self._video(part), labels, tokens, **masked, **recipe, **given)

    def _negatives(self, parts: Sequence[Part], sizes: Sequence[int]):
        """Features, labels and targets to contrast with: None for those of the part itself, else those of the whole update."""
        if not self.settings.gather_negatives or (len(parts) == 1 and self.processes.count == 1):
            return None, None, None
        own = [pair for part in parts for pair in zip(part.batch.labels.tolist(), part.batch.indices, strict=True)]
        clips = [pair for of_one in self.processes.gather(own) for pair in of_one]
        labels = torch.tensor([label for label, _ in clips]).to(self.device, non_blocking=True)
        targets = None if self.targets is None else self.targets[[row for _, row in clips]].to(self.device, non_blocking=True)
        if len(parts) == 1:
            return lambda image: self.processes.gather_rows(image.detach(), sizes), labels, targets
        with torch.no_grad(), self.autocast():
            features = [unit(self.model.encode_video(self._video(part)).image_features) for part in parts if part.counts[0]]
        width = self.model.visual.embed_dim
        images = self.processes.gather_rows(torch.cat([torch.empty(0, width, device=self.device), *features]), sizes)
        return lambda image: images, labels, targets

    def _apply(self, terms: Tensor, own_terms: Tensor, step: int, epoch: int, rows: list[int]) -> None:
        """Clip the gradients and let AdamW update; an update that is not finite leaves weights and moments unchanged."""
        if self.fp16:
            self.scaler.unscale_(self.optimizer)
        norms = torch.stack([torch.linalg.vector_norm(parameter.grad) for parameter in self.parameters])
        norm = torch.linalg.vector_norm(norms)
        self.has_gradient |= norms != 0  # also true after an overflow of fp16
        good = terms.isfinite().all()
        if not self.fp16:  # an overflow of fp16 is no error: the scaler skips that update and lowers the scale
            good = good & norm.isfinite()
            norm = torch.where(good, norm, torch.nan)  # makes clipping spoil the gradients, and so the scaler skip the update
        clip_grads_with_norm_(self.parameters, self.settings.clip_grad_norm or torch.inf, norm)
        self.finite.watch(good, own_terms, step, epoch, rows)
        factor = lr_factor(step, self.total, self.settings.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _show(self, bar: tqdm | None, tally: Tally) -> None:
        if bar is None or not tally.clips:
            return
        rate, seconds = max(group["lr"] for group in self.optimizer.param_groups), tally.seconds
        shown = {"loss": f"{tally.means()['total']:.3f}", "lr": f"{rate:.1e}"}
        shown |= {"clips_per_s": f"{tally.clips / seconds:.0f}", "waiting": f"{100 * tally.waited / seconds:.0f} %"}
        if self.device.type == "cuda":
            shown["peak"] = f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"
        bar.set_postfix(shown, refresh=False)
