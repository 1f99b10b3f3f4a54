"""An experiment made real: its device, backbone, model and frame reader; and the checkpoints that its runs have left."""

import ctypes
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import FrameReader, VideoReader
from m2clip_lib.data.prompts import experiment_texts, names_without_word
from m2clip_lib.data.seeds import Purpose, torch_seed
from m2clip_lib.data.video.cache import cached_reader
from m2clip_lib.data.video.decode import OTHERS, load_decoder
from m2clip_lib.data.workers import cores
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, load_backbone
from m2clip_lib.models.backbone import WEIGHT_FILES
from m2clip_lib.models.checkpoint import CheckpointInfo, read_checkpoint_info
from m2clip_lib.runs import TRAINING

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3), from glibc's malloc.h
LARGE = 512  # channels of a visual tower from which bf16 gains on a CPU; the demonstration's small CLIP has fewer
TRAINING_ADVICE = (
    "the GPU's memory does not hold a training step; lower train.batch_size (now {}) and raise train.accumulate by the same factor, "
    "or set train.activation_checkpointing=true, or train.precision=bf16"
)
EVALUATION_ADVICE = (
    "the GPU's memory does not hold a batch of the evaluation; lower eval.batch_size (now {} videos, each with all its views), "
    "or set eval.views_at_once"
)


@contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into a UserError. advice: which settings to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"out of memory: {advice}") from error


def pick_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_precision(asked: str, backbone: Backbone, device: torch.device) -> str:
    """What "auto" means here: bf16 on a GPU that has it, and on a CPU with AMX for backbones that are large enough to gain; else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpuinfo = Path("/proc/cpuinfo")
    amx = cpuinfo.is_file() and " amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")
    return "bf16" if amx and backbone.visual.width >= LARGE else "fp32"


def with_precision(experiment: Experiment, backbone: Backbone, device: torch.device) -> Experiment:
    """The experiment with what train.precision = "auto" means on this device."""
    precision = device_precision(experiment.train.precision, backbone, device)
    return experiment.model_copy(update={"train": experiment.train.model_copy(update={"precision": precision})})


def set_threads(threads: int) -> None:
    """Set the CPU threads of torch; 0: OMP_NUM_THREADS, or this job's cores, shared with the other processes of a training on this machine.

    torchrun sets that variable to 1 for several processes, and says so, unless the user has set it.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for nested loops
    threads = threads or (int(asked) if asked.isdecimal() else cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(max(1, threads))


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that tensors free, for the rest of this process; on other systems do nothing.

    By default each tensor above 32 MB is fresh memory that the kernel hands over page by page, zeroed: a fifth of the time of a CPU
    step of ViT-B/16 at batch 8. The peak grows little, since a step reuses what the one before freed, but stays until the process ends.
    Returns: whether mallopt accepted both settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def open_backbone(experiment: Experiment) -> Backbone:
    """Load the experiment's frozen CLIP. Raises: UserError saying what is missing."""
    asked = experiment.backbone
    return load_backbone(_local(asked.source), model_name=asked.model_name, trust_torchscript=asked.trust_torchscript)


def _local(source: str) -> str | Path:
    """A weight file relative to the repository, or the source as it is written (a tag, or a file that is missing)."""
    path = paths.resolve(source)
    return path if path.is_file() or path.suffix in WEIGHT_FILES else source


def model_config(experiment: Experiment, class_names: list[str], several_labels: bool = False) -> M2CLIPConfig:
    """The configuration of the experiment's model for these classes."""
    texts = experiment_texts(experiment.data, class_names)
    return M2CLIPConfig(
        class_names=tuple(class_names),
        vocabulary=tuple(texts.vocabulary),
        num_frames=experiment.data.num_frames,
        prompt=experiment.data.prompt,
        own_prompts=texts.own,
        several_labels=several_labels,
        **dataclasses.asdict(experiment.model),
    )


def build_model(experiment: Experiment, backbone: Backbone, class_names: list[str], several_labels: bool = False) -> M2CLIP:
    """Build a new model; its initial weights depend on train.seed alone."""
    torch.manual_seed(torch_seed(experiment.train.seed, Purpose.WEIGHTS))
    model = M2CLIP(backbone, model_config(experiment, class_names, several_labels))
    without = names_without_word(model.config.prompts(), model.config.vocabulary)
    if without:
        log.warning("%d of %d class names have no word in the vocabulary: they are never masked", without, len(class_names))
    return model


def make_reader(experiment: Experiment, table: pd.DataFrame, image_size: int, exact: bool = False) -> FrameReader:
    """A reader of frames from the cache if the experiment keeps one, else from the files.

    exact: decode with PyAV, whose pixels the golden values were made from.
    Raises: UserError if the experiment's decoder cannot be used on this machine.
    """
    data = experiment.data
    if data.decoder in OTHERS:
        load_decoder(data.decoder)  # one line now, not an error for every video
    if data.cache_frames:
        return cached_reader(table, experiment.prepared / "cache", image_size, data.decoder, cores(), data.file_timeout_s)
    return VideoReader(table, "pyav" if exact else data.decoder)


def first_of_each_class(table: pd.DataFrame, videos: int) -> list[int]:
    """Rows of the first `videos` videos of every class: a small, balanced part of a split."""
    return sorted(int(row) for row in table.groupby("label").head(videos).index)


def last_run(experiment: str) -> str:
    """The name of the experiment's run whose best checkpoint was written last, by the time recorded in it: copying changes a file's own.

    A damaged run is named in a warning and passed over. Raises: UserError when there is none.
    """
    found = []
    for side in sorted(paths.CHECKPOINTS.glob("*/best.json")):
        weights = side.with_suffix(".safetensors")
        if not weights.is_file():
            continue
        try:
            about = json.loads(side.read_text(encoding="utf-8-sig"))
            if about["extra"].get("experiment") == experiment:
                read_checkpoint_info(weights)
                found.append((about.get("saved") or _trained(side.parent.name), side.parent.name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            log.warning("run %r is damaged and passed over: %s: %s", side.parent.name, paths.shown(side), error)
    if not found:
        raise UserError(
            f"checkpoint: experiment {experiment!r} has none in {paths.shown(paths.CHECKPOINTS)}/; "
            f"train it with: m2clip train {experiment}, or give --checkpoint"
        )
    return max(found)[1]


def _trained(run: str) -> str:
    """When a run whose checkpoint records no time was trained last, by its run.json; "" when that does not say."""
    file = paths.RESULTS / run / "run.json"
    steps = json.loads(file.read_text(encoding="utf-8-sig")).get("steps", {}) if file.is_file() else {}
    return max((steps[step]["end"] or steps[step]["start"] for step in TRAINING if step in steps), default="")


def backbone_of(info: CheckpointInfo) -> Backbone:
    """Load the backbone that a checkpoint was trained on. Raises: UserError when it is not on this machine."""
    backbone = load_backbone(_local(info.backbone_source))
    if info.backbone_source == "demo" and backbone.sha256 != info.backbone_sha256:
        raise UserError(
            f"backbone: the small CLIP this checkpoint was trained on (sha256 {info.backbone_sha256[:12]}) is not in this version of the "
            "library; make one with: m2clip prepare, and train again"
        )
    return backbone
