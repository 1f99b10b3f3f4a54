"""How videos are scored: the protocol of an evaluation, and the dataset of the clips it reads.

A protocol is made once, from an experiment or from a checkpoint, and stored with the predictions: tables and costs report what was done.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import FrameReader, Item, VideoReader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prompts import Prompt, class_prompts, read_prompts_file, templates
from m2clip_lib.data.sampling import test_indices
from m2clip_lib.data.seeds import Purpose, stream
from m2clip_lib.data.transforms import Colours, exact_resize, frames_to_clip, test_crops
from m2clip_lib.data.video.probe import VideoError, probe
from m2clip_lib.experiment import make_reader
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.backbone import M2CLIPConfig
from m2clip_lib.models.checkpoint import CheckpointInfo
from m2clip_lib.models.text import class_features

Order = Literal["forwards", "backwards", "shuffled", "repeated"]
WITHOUT_TIME: tuple[Order, ...] = ("backwards", "shuffled", "repeated")  # what a model that reads time must notice


def frame_order(order: Order, frames: int, row: int, view: int) -> list[int]:
    """Which frame of a clip is shown at each place: as recorded, in reverse, in a random order of its own, or the middle one throughout."""
    if order == "shuffled":
        return stream(0, Purpose.SHUFFLE, row, view).permutation(frames).tolist()
    shown = {"forwards": range(frames), "backwards": reversed(range(frames)), "repeated": [frames // 2] * frames}
    return list(shown[order])


@dataclass(frozen=True)
class Protocol:
    """How videos are scored: which clips of them, against which prompts.

    Attributes:
        split: "train", "val" or "test"; "" for files that are not in a manifest.
        frames: frames per clip. stride: frames between two picked ones; 0 spreads the clip over the whole video.
        temporal_views, spatial_views: clips along time (always one with stride 0), and crops of each clip.
        prompts: templates with one {}. prompts_file: the file of the sentences that replace them, if any.
        resize: "fast" in the decoder, or "exact" as published. order: of the frames, see frame_order.
        mix: weight of the trained adapters; 0 is frozen CLIP. precision: "fp32", or "bf16" autocast.
        count_unreadable_as_wrong: in tables, listed videos without scores are wrong; otherwise they are left out.
        clip_s: length of a training clip where its checkpoint records it (stride 0), seconds; 0 where it does not.
    """

    split: str
    frames: int
    stride: int
    temporal_views: int = 1
    spatial_views: int = 1
    prompts: tuple[str, ...] = ("A video of {}",)
    prompts_file: str = ""
    resize: Literal["fast", "exact"] = "fast"
    order: Order = "forwards"
    mix: float = 1.0
    precision: str = "fp32"
    count_unreadable_as_wrong: bool = False
    clip_s: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))  # JSON has lists
        if self.stride == 0:
            object.__setattr__(self, "temporal_views", 1)

    @classmethod
    def of_experiment(cls, experiment: Experiment, **changed: object) -> "Protocol":
        """The protocol that an experiment's data and eval sections describe. changed: fields that differ."""
        data, asked = experiment.data, experiment.eval
        fields = {"split": asked.split, "frames": data.num_frames, "stride": data.stride, "resize": data.resize}
        fields |= {"temporal_views": asked.temporal_views, "spatial_views": asked.spatial_views}
        fields |= {"prompts": templates(data.prompt), "prompts_file": data.prompts_file}
        fields |= {"count_unreadable_as_wrong": asked.count_unreadable_as_wrong}
        return cls(**fields | changed)

    @classmethod
    def of_checkpoint(cls, info: CheckpointInfo) -> "Protocol":
        """One clip per file, sampled and resized as the checkpoint records; stride 0 and fast resizing if it does not."""
        about = {name: info.extra[name] for name in ("stride", "resize", "clip_s") if name in info.extra}
        return cls(**{"split": "", "frames": info.config.num_frames, "stride": 0} | about).with_texts_of(info.config)

    @property
    def views(self) -> str:
        """The views by name, spatial x temporal: "4x3"."""
        return f"{self.spatial_views}x{self.temporal_views}"

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.temporal_views * self.spatial_views

    def one_view(self) -> "Protocol":
        """The same protocol with one view: the centre crop of the middle clip."""
        return dataclasses.replace(self, temporal_views=1, spatial_views=1)

    def spread(self) -> "Protocol":
        """The same protocol with one view, whose clip is spread over what it is given: a window."""
        return dataclasses.replace(self.one_view(), stride=0)

    def with_texts_of(self, config: M2CLIPConfig) -> "Protocol":
        """The same protocol with the prompts that a model was trained with."""
        if config.own_prompts:
            return dataclasses.replace(self, prompts=(), prompts_file=self.prompts_file or "sentences kept in the checkpoint")
        return dataclasses.replace(self, prompts=templates(config.prompt), prompts_file="")

    def class_prompts(self, class_names: Sequence[str]) -> list[tuple[Prompt, ...]]:
        """The prompts of each class. Raises: UserError when the prompts file lacks a class."""
        own = read_prompts_file(paths.resolve(self.prompts_file), class_names) if self.prompts_file else ()
        return class_prompts(class_names, self.prompts, own)

    @torch.inference_mode()
    def class_texts(self, model: M2CLIP, class_names: Sequence[str] | None = None) -> Float[Tensor, "k e"]:
        """Unit-length features of these classes in this protocol's prompts; by default of the model's own classes in its own prompts."""
        prompts = model.config.prompts() if class_names is None else self.class_prompts(class_names)
        return class_features(model, prompts, model.clip.logit_scale.device)

    def columns(self, list_sha256: str) -> dict[str, object]:
        """The columns that make a table's numbers reproducible. list_sha256: digest of the manifest."""
        return {
            "split": self.split,
            "views": self.views,
            "frames": self.frames,
            "stride": self.stride,
            "prompt": self.prompts_file or " | ".join(self.prompts),
            "mix": self.mix,
            "precision": self.precision,
            "list_sha256": list_sha256[:12],
        }


@dataclass(eq=False)
class TestViews(Dataset):
    """All views (temporal x spatial) of every video of a table.

    side: of the square crops, pixels. colours: mean and std of the backbone, used by exact resizing only.
    rows: the rows to read (default: the whole table).
    """

    __test__ = False  # not a pytest class

    table: pd.DataFrame
    reader: FrameReader
    protocol: Protocol
    side: int
    colours: tuple[Colours, Colours] | None = None
    rows: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.table if self.rows is None else self.rows)

    @property
    def item_bytes(self) -> int:
        """Size of all views of one video; exact resizing gives floats."""
        return self.protocol.num_views * self.protocol.frames * 3 * self.side**2 * (4 if self.protocol.resize == "exact" else 1)

    def __getitem__(self, place: int) -> Item:
        row, protocol = place if self.rows is None else self.rows[place], self.protocol
        num_frames, label = (int(self.table[column].iloc[row]) for column in ("num_frames", "label"))
        views = test_indices(num_frames, protocol.frames, protocol.stride, protocol.temporal_views)
        needed = sorted({frame for view in views for frame in view})  # views overlap: decode each frame once
        colours = self.colours if protocol.resize == "exact" else None
        try:
            pictures, decoder = self.reader(row, needed, None if colours else self.side)
        except VideoError as error:
            return Item(row, label, None, str(error))
        frames = frames_to_clip(pictures)
        if colours:
            frames = exact_resize(frames, self.side, *colours)
        position = {frame: i for i, frame in enumerate(needed)}
        shown = [[position[view[i]] for i in frame_order(protocol.order, len(view), row, place)] for place, view in enumerate(views)]
        clips = [frames[order] for order in shown]
        return Item(row, label, torch.cat([test_crops(clip, self.side, protocol.spatial_views) for clip in clips]), decoder=decoder)


def evaluation_views(
    experiment: Experiment, manifest: Manifest, backbone: Backbone, protocol: Protocol, rows: Sequence[int] | None = None
) -> TestViews:
    """The views of the protocol's split. rows: the rows of its table to read (default: all)."""
    table = manifest.split(protocol.split)
    reader = make_reader(experiment, table, backbone.image_size, exact=protocol.resize == "exact")
    return TestViews(table, reader, protocol, backbone.image_size, (backbone.mean, backbone.std), rows)


def views_of_files(
    files: Sequence[str | Path], protocol: Protocol, side: int, colours: tuple[Colours, Colours] | None = None
) -> tuple[pd.DataFrame, TestViews | None, dict[int, str]]:
    """The views of video files that are not in a manifest. colours: see TestViews; without them resizing is fast.

    Returns: the table of the readable files (`place`: index into files), their views (None without any), and index -> reason of the rest.
    """
    rows, failed = [], {}
    for place, file in enumerate(files):
        try:
            rows.append({"place": place, "path": str(file), "label": 0, **asdict(probe(file))})
        except VideoError as error:
            failed[place] = str(error)
    table = pd.DataFrame(rows)
    return table, TestViews(table, VideoReader(table, "auto"), protocol, side, colours) if rows else None, failed
