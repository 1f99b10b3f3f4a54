"""Clips for training, and the loader of all clips. The randomness of an item is a function of (seed, epoch, index) alone."""

import dataclasses
import math
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from m2clip_lib.data.sampling import train_indices
from m2clip_lib.data.seeds import Purpose, stream
from m2clip_lib.data.transforms import Augmentation, augment, frames_to_clip
from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.errors import UserError
from m2clip_lib.files import show_bytes

SHARED = Path("/dev/shm")  # Linux
PREFETCH = 2  # batches that each worker prepares ahead

# (row, frame indices, short side in pixels or None for the video's own) -> (t, h, w, 3) uint8, and the name of the decoder
FrameReader = Callable[[int, Sequence[int], int | None], tuple[np.ndarray, str]]


@dataclass(frozen=True)
class Item:
    """One video's clip or views; when it could not be read, the clip is None and `error` is set."""

    index: int
    label: int
    clip: Tensor | None
    error: str = ""
    decoder: str = ""


@dataclass(frozen=True)
class Batch:
    """The clips of several videos.

    clips: training (b, t, 3, s, s), evaluation (b, v, t, 3, s, s), uint8 RGB, or float and normalised (data.resize "exact").
    indices: rows of the table. failed: (row, reason) of the videos that could not be read; they are not in clips.
    decoders: number of clips by decoder.
    """

    clips: UInt8[Tensor, "b ..."] | Float[Tensor, "b ..."]
    labels: Int[Tensor, "b"]
    indices: list[int]
    failed: list[tuple[int, str]]
    decoders: Counter[str]

    def pin_memory(self) -> "Batch":
        """Move the tensors to page-locked memory, which is copied while the GPU computes. The loader calls this if there is a GPU."""
        return dataclasses.replace(self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory())


class VideoReader:
    """Reads frames of a manifest's rows from the video files."""

    def __init__(self, table: pd.DataFrame, decoder: str):
        self.paths, self.decoder = table.path.tolist(), decoder
        self.num_frames = table.get("file_frames", table.num_frames).tolist()
        self.starts = table.start_frame.tolist() if "start_frame" in table else [0] * len(table)  # of segments
        self.sizes = list(zip(table.width, table.height, strict=True))

    def __call__(self, row: int, indices: Sequence[int], short_side: int | None) -> tuple[np.ndarray, str]:
        """Read frames; see FrameReader above."""
        size = None if short_side is None else fit_short_side(*self.sizes[row], short_side)
        indices = [self.starts[row] + index for index in indices]
        return read_frames(self.paths[row], indices, size, self.decoder, self.num_frames[row])


class TrainClips(Dataset):
    """One random clip per video, indexed by (epoch, row)."""

    def __init__(
        self, table: pd.DataFrame, reader: FrameReader, clip_len: int, stride: int, side: int, augmentation: Augmentation, seed: int
    ):
        self.num_frames, self.labels = table.num_frames.tolist(), table.label.tolist()
        self.reader, self.clip_len, self.stride, self.side = reader, clip_len, stride, side
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def item_bytes(self) -> int:
        """Size of one clip."""
        return self.clip_len * 3 * self.side**2

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, row = key
        rng = stream(self.seed, Purpose.CLIP, epoch, row)
        indices = train_indices(self.num_frames[row], self.clip_len, self.stride, rng)
        least, most = self.augmentation.short_side
        short_side, draw = int(rng.integers(least, most + 1)), int(rng.integers(2**31))
        try:
            frames, decoder = self.reader(row, indices, short_side)
        except VideoError as error:
            return Item(row, self.labels[row], None, str(error))
        return Item(row, self.labels[row], augment(frames_to_clip(frames), self.side, self.augmentation, draw), decoder=decoder)


def clip_weights(targets: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
    """How much each clip must count for all classes to count the same, 1 on average.

    It is the mean over the clip's labels of 1 / (clips of that label), up to a factor.
    """
    weights = (targets / np.maximum(targets.sum(axis=0), 1)).sum(axis=1) / targets.sum(axis=1)
    return weights / weights.mean()


class EpochSampler(Sampler):
    """The batches of one process in one epoch, as [(epoch, row), ...]; the order is a function of (seed, epoch) alone.

    An update takes the next batch_size * accumulate * processes rows; the last one of an epoch is divided evenly, so that a batch of it
    may be empty. Set `epoch`, `start` to the number of updates of this epoch that are already done, and `rows` to read but some. With
    `chances`, which add up to 1, each place of an epoch draws one of these rows, whether or not it was drawn before.
    """

    def __init__(self, num_rows: int, seed: int, batch_size: int, accumulate: int = 1, rank: int = 0, processes: int = 1):
        self.num_rows, self.seed, self.batch_size, self.accumulate, self.rank = num_rows, seed, batch_size, accumulate, rank
        self.parts = processes * accumulate  # batches per update
        self.size = batch_size * self.parts  # rows per update
        self.updates = math.ceil(num_rows / self.size)  # per epoch
        self.epoch, self.start, self.rows = 0, 0, np.arange(num_rows)
        self.chances: np.ndarray | None = None

    def __len__(self) -> int:
        return (self.updates - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng, rows = stream(self.seed, Purpose.ORDER, self.epoch), self.num_rows
        order = self.rows[rng.permutation(rows) if self.chances is None else rng.choice(rows, rows, p=self.chances)]
        for update in range(self.start, self.updates):
            batches = np.array_split(order[update * self.size : (update + 1) * self.size], self.parts)
            for batch in batches[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]:
                yield [(self.epoch, int(row)) for row in batch]


def collate(items: list[Item]) -> Batch:
    """Stack the clips that could be read, and list the videos that could not."""
    good = [item for item in items if item.clip is not None]
    failed = [(item.index, item.error) for item in items if item.clip is None]
    clips = torch.stack([item.clip for item in good]) if good else torch.empty(0, dtype=torch.uint8)
    if get_worker_info():  # here an error reaches the trainer; in the queue's own thread it would leave the trainer waiting for ever
        clips.share_memory_()
    labels = torch.tensor([item.label for item in good], dtype=torch.int64)
    return Batch(clips, labels, [item.index for item in good], failed, Counter(item.decoder for item in good))


def make_loader(dataset: Dataset, batches: "Sequence[Sequence] | EpochSampler", workers: int) -> DataLoader:
    """Make a loader whose batches do not depend on the number of workers (0: this process).

    Args:
        dataset: item_bytes is the size of an item's clips. batches: the keys of each batch.
    Raises: UserError when the shared memory, through which workers hand over their batches, is too small for them.
    """
    if workers:
        multiprocessing.set_forkserver_preload([__name__])  # they are forked from a process that has imported torch, once for all
    if workers and SHARED.is_dir():
        size = batches.batch_size if isinstance(batches, EpochSampler) else max(map(len, batches), default=0)
        ahead = min(PREFETCH * workers, len(batches)) + 1  # batches that wait, and the one in use
        needed, space = ahead * size * dataset.item_bytes, shutil.disk_usage(SHARED)
        if space.free < needed:
            found = f"{show_bytes(needed)} of shared memory, and {SHARED} has {show_bytes(space.free)} free of {show_bytes(space.total)}"
            advice = "enlarge it (docker run --shm-size=8g), or lower data.workers or the batch size; data.workers=0 needs none"
            raise UserError(f"data.workers: {workers} loader processes need {found}; {advice}")
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,  # forking a process with decoder and torch threads can hang
        worker_init_fn=_leave_interrupts_to_the_trainer if workers else None,
    )


def in_order(num_rows: int, batch_size: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """Deal the batches of a pass over all rows to one process: every row once, batches in turn."""
    starts = range(rank * batch_size, num_rows, processes * batch_size)
    return [list(range(start, min(start + batch_size, num_rows))) for start in starts]


def batches(loader: DataLoader) -> Iterator[Batch]:
    """Iterate over a loader. Raises: UserError when one of its processes was killed."""
    with worker_deaths_explained():
        yield from loader


@contextmanager
def worker_deaths_explained() -> Iterator[None]:
    """Turn the death of a loader process into a UserError; torch raises it wherever the main process happens to be."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        lines = str(error).splitlines()
        reason = lines[-1 if lines[0].startswith("Caught") else 0].rstrip(". ")  # an error within the process ends with its own line
        raise UserError(
            f"data.workers: a loader process died ({reason}); most often memory ran out, or {SHARED} (docker run --shm-size=8g): "
            "lower data.workers or the batch size, or set data.workers=0 to see the error of a broken video"
        ) from error


def _leave_interrupts_to_the_trainer(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the loader must live until the trainer has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM: with it torch ends its workers
