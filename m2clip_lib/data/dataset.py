"""Clips for training and evaluation. All randomness of an item is f(seed, epoch, index): workers and their number do not matter."""

import dataclasses
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from m2clip_lib.data.sampling import train_indices
from m2clip_lib.data.transforms import Augmentation, augment, frames_to_clip
from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.errors import UserError

log = logging.getLogger(__name__)

# (row, frame indices, short side in pixels or None for the video's own) -> (t, h, w, 3) uint8, and the name of what read them
FrameReader = Callable[[int, Sequence[int], int | None], tuple[np.ndarray, str]]


@dataclass(frozen=True)
class Item:
    """One video's clip or views; `error` is set, and the clip None, when it could not be read."""

    index: int
    label: int
    clip: Tensor | None
    error: str = ""
    decoder: str = ""


@dataclass(frozen=True)
class Batch:
    """clips: training (b, t, 3, s, s), evaluation (b, v, t, 3, s, s), uint8 RGB, or float and normalised (data.resize "exact").

    indices: rows of the table. failed: (row, reason) of the videos of this batch that could not be read; they are not in clips.
    decoders: how many clips were read by which decoder.
    """

    clips: UInt8[Tensor, "b ..."] | Float[Tensor, "b ..."]
    labels: Int[Tensor, "b"]
    indices: list[int]
    failed: list[tuple[int, str]]
    decoders: Counter[str]

    def pin_memory(self) -> "Batch":
        """Called by the loader where there is a GPU: page-locked memory is copied while the GPU computes."""
        return dataclasses.replace(self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory())


class VideoReader:
    """Reads frames of a manifest's rows from their files."""

    def __init__(self, table: pd.DataFrame, decoder: str):
        self.paths, self.decoder = table.path.tolist(), decoder
        self.exact_in_decord = [bool(value) for value in table.decord]
        self.num_frames = table.num_frames.tolist()
        self.sizes = list(zip(table.width, table.height, strict=True))

    def __call__(self, row: int, indices: Sequence[int], short_side: int | None) -> tuple[np.ndarray, str]:
        """See FrameReader above."""
        size = None if short_side is None else fit_short_side(*self.sizes[row], short_side)
        return read_frames(self.paths[row], indices, size, self.decoder, self.exact_in_decord[row], self.num_frames[row])


class TrainClips(Dataset):
    """One random clip a video; indexed by (epoch, row)."""

    def __init__(
        self, table: pd.DataFrame, reader: FrameReader, clip_len: int, stride: int, side: int, augmentation: Augmentation, seed: int
    ):
        self.num_frames, self.labels = table.num_frames.tolist(), table.label.tolist()
        self.reader, self.clip_len, self.stride, self.side = reader, clip_len, stride, side
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, row = key
        rng = np.random.default_rng([self.seed, epoch, row])
        indices = train_indices(self.num_frames[row], self.clip_len, self.stride, rng)
        least, most = self.augmentation.short_side
        short_side, draw = int(rng.integers(least, most + 1)), int(rng.integers(2**31))
        try:
            frames, decoder = self.reader(row, indices, short_side)
        except VideoError as error:
            return Item(row, self.labels[row], None, str(error))
        return Item(row, self.labels[row], augment(frames_to_clip(frames), self.side, self.augmentation, draw), decoder=decoder)


class EpochSampler(Sampler):
    """The order of one epoch, a function of (seed, epoch) alone, in updates; yields one process' batches as [(epoch, row), ...].

    An update takes the next batch_size * accumulate * processes rows, whatever these three are; the last one of an epoch is shared out
    evenly, and a batch of it may be empty. Set `epoch`, and `start` to the updates of this epoch that are done already.
    """

    def __init__(self, num_rows: int, seed: int, batch_size: int, accumulate: int = 1, rank: int = 0, processes: int = 1):
        self.num_rows, self.seed, self.batch_size, self.accumulate = num_rows, seed, batch_size, accumulate
        self.rank, self.processes = rank, processes
        self.epoch, self.start = 0, 0

    @property
    def updates(self) -> int:
        """Updates an epoch."""
        return -(-self.num_rows // (self.batch_size * self.accumulate * self.processes))

    def __len__(self) -> int:
        return (self.updates - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        parts = self.processes * self.accumulate
        size = self.batch_size * parts
        for update in range(self.start, self.updates):
            batches = np.array_split(order[update * size : (update + 1) * size], parts)
            for batch in batches[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]:
                yield [(self.epoch, int(row)) for row in batch]


def collate(items: list[Item]) -> Batch:
    """Stack what could be read; name what could not."""
    good = [item for item in items if item.clip is not None]
    failed = [(item.index, item.error) for item in items if item.clip is None]
    clips = torch.stack([item.clip for item in good]) if good else torch.empty(0, dtype=torch.uint8)
    labels = torch.tensor([item.label for item in good], dtype=torch.int64)
    return Batch(clips, labels, [item.index for item in good], failed, Counter(item.decoder for item in good))


def make_loader(dataset: Dataset, batches: Iterable[Sequence], workers: int) -> DataLoader:
    """A loader whose batches do not depend on the number of workers (0 = this process). batches: the keys of each."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,  # forking a process with decoder and torch threads can hang
        worker_init_fn=_leave_interrupts_to_the_trainer if workers else None,
    )


def in_order(num_rows: int, batch_size: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """The batches of a pass over all rows that fall to one process: every row once, whole batches dealt out in turn."""
    starts = range(rank * batch_size, num_rows, processes * batch_size)
    return [list(range(start, min(start + batch_size, num_rows))) for start in starts]


def batches(loader: DataLoader) -> Iterator[Batch]:
    """What a loader gives. Raises: UserError when one of its processes was killed."""
    with worker_deaths_explained():
        yield from loader


@contextmanager
def worker_deaths_explained() -> Iterator[None]:
    """Torch raises the death of a loader process wherever the main process happens to be: put this around all that a loader feeds.

    Raises: UserError in one line instead.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"data.workers: a loader process died ({str(error).splitlines()[0].rstrip('. ')}); most often memory ran out: "
            "lower data.workers or the batch size, or set data.workers=0 to see the error of a broken video"
        ) from error


def _leave_interrupts_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: the loader must live until the trainer has finished its step and saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM: with it torch ends its workers
