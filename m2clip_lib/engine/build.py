"""From an experiment to the things it names: backbone, model, frame reader. Shared by training, evaluation and the notebooks."""

import dataclasses
import logging
import os

import pandas as pd
import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.cache import cached_reader
from m2clip_lib.data.dataset import FrameReader, TestViews, VideoReader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prompts import names_without_word
from m2clip_lib.data.texts import experiment_texts
from m2clip_lib.engine.pretrain import demo_clip_path
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, load_backbone

log = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_threads(threads: int) -> None:
    """CPU threads of torch; 0 = all cores, shared with the other processes of a training on this machine."""
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def open_backbone(experiment: Experiment) -> Backbone:
    """Load the experiment's frozen CLIP. Raises: UserError saying what is missing and what makes it."""
    source = experiment.backbone.source
    if source == "demo":
        path = demo_clip_path()
        if not path.is_file():
            raise UserError(f"backbone: the demonstration's small CLIP is not at {path}; make it with: m2clip prepare {experiment.name}")
        return dataclasses.replace(load_backbone(path), source="demo")  # not a path: checkpoints name their backbone by this
    local = paths.resolve(source)
    return load_backbone(
        local if local.is_file() else source,
        model_name=experiment.backbone.model_name,
        trust_torchscript=experiment.backbone.trust_torchscript,
    )


def model_config(experiment: Experiment, class_names: list[str]) -> M2CLIPConfig:
    """The model section, with the classes of the manifest."""
    texts = experiment_texts(experiment.data, class_names)
    return M2CLIPConfig(
        class_names=tuple(class_names),
        vocabulary=tuple(texts.vocabulary),
        num_frames=experiment.data.num_frames,
        prompt=experiment.data.prompt,
        own_prompts=texts.own,
        **experiment.model.model_dump(),
    )


def build_model(experiment: Experiment, backbone: Backbone, class_names: list[str]) -> M2CLIP:
    """A new model; its weights depend on train.seed alone."""
    torch.manual_seed(experiment.train.seed)
    model = M2CLIP(backbone, model_config(experiment, class_names))
    without = names_without_word(model.config.prompts(), model.config.vocabulary)
    if without:
        log.warning("%d of %d class names have no word in the vocabulary: they are never masked", without, len(class_names))
    return model


def make_reader(experiment: Experiment, table: pd.DataFrame, image_size: int, exact: bool = False) -> FrameReader:
    """Frames from the cache where the experiment keeps one, else from the files.

    exact: decode with PyAV, whose pixels the golden values are held by.
    """
    if experiment.data.cache_frames:
        data = experiment.data
        return cached_reader(table, experiment.prepared / "cache", image_size, data.decoder, os.cpu_count() or 1, data.file_timeout_s)
    return VideoReader(table, "pyav" if exact else experiment.data.decoder)


def test_views(experiment: Experiment, manifest: Manifest, split: str, backbone: Backbone, backwards: bool = False) -> TestViews:
    """The evaluation clips of a split, by the protocol of the eval section."""
    table = manifest.split(split)
    data, protocol = experiment.data, experiment.eval
    return TestViews(
        table,
        make_reader(experiment, table, backbone.image_size, exact=data.resize == "exact"),
        data.num_frames,
        data.stride,
        backbone.image_size,
        protocol.temporal_views,
        protocol.spatial_views,
        backwards,
        exact=(backbone.mean, backbone.std) if data.resize == "exact" else None,
    )


def first_of_each_class(table: pd.DataFrame, videos: int) -> list[int]:
    """Rows of the first `videos` videos of every class: a small, even part of a split for studies that need not all of it."""
    return sorted(int(row) for row in table.groupby("label").head(videos).index)
