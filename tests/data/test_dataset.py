"""Training clips and batches: an item is a function of (seed, epoch, index), workers change nothing, broken videos are skipped."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import m2clip_lib
from m2clip_lib.data.dataset import EpochSampler, Item, TrainClips, VideoReader, collate, make_loader
from m2clip_lib.data.listing.folders import list_folder
from m2clip_lib.data.scan import scan
from m2clip_lib.data.transforms import Augmentation
from m2clip_lib.data.video.decode import VideoError
from m2clip_lib.errors import UserError
from m2clip_lib.files import show_bytes

SIDE = 48
LIVELY = Augmentation((SIDE, SIDE + 12), random_resized_crop=True, rand_augment=True, mirror=True)


@pytest.fixture(scope="module")
def table(video_folder, tmp_path_factory) -> pd.DataFrame:
    """Twelve videos; the file of row 7 was deleted after the scan."""
    table = scan(list_folder(video_folder), 1, tmp_path_factory.mktemp("journal"))
    table.loc[7, "path"] = str(video_folder / "gone.mp4")
    return table


def numbered(row: int, indices, short_side: int) -> tuple[np.ndarray, str]:
    """Return made-up frames, 40 wide and `short_side` high: red = row, green = frame number, blue = column."""
    frames = np.zeros((len(indices), short_side, 40, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = row, np.asarray(indices)[:, None, None], np.arange(40)
    return frames, "made up"


def made_up(frames_per_video: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"num_frames": frames_per_video, "label": range(len(frames_per_video))})


def train_clips(table: pd.DataFrame, seed: int = 0, how: Augmentation = LIVELY) -> TrainClips:
    return TrainClips(table, VideoReader(table, "auto"), 4, 2, SIDE, how, seed)


def frame_numbers(clip: torch.Tensor) -> list[int]:
    return clip[..., 1, 0, 0].tolist()


# --- training clips ---


def test_training_item_depends_on_seed_epoch_and_index_alone(table):
    clips = train_clips(table)
    first = clips[3, 5].clip
    clips[1, 0], clips[2, 5]  # other items in between, and another state of every global generator
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(clips[3, 5].clip, first)
    assert torch.equal(train_clips(table)[3, 5].clip, first)
    assert not torch.equal(clips[4, 5].clip, first)
    assert not torch.equal(train_clips(table, seed=1)[3, 5].clip, first)


def test_training_item_carries_label_row_and_uint8_clip(table):
    item = train_clips(table)[1, 8]
    assert (item.index, item.label, item.error) == (8, int(table.label[8]), "")
    assert item.clip.shape == (4, 3, SIDE, SIDE)
    assert item.clip.dtype == torch.uint8


def test_training_reads_the_frames_that_sampling_chose():
    clips = TrainClips(made_up([30, 30]), numbered, 4, 5, 32, Augmentation((32, 32)), seed=0)
    starts = set()
    for epoch in range(60):
        picked = frame_numbers(clips[epoch, 1].clip)
        assert np.diff(picked).tolist() == [5, 5, 5]
        assert clips[epoch, 1].clip[0, 0, 0, 0] == 1  # red says which row was read
        starts.add(picked[0])
    assert min(starts) >= 0
    assert max(starts) <= 14  # 14 + 15 = 29, the last frame
    assert len(starts) > 10


def test_each_video_of_an_epoch_has_its_own_draw():
    clips = TrainClips(made_up([30] * 30), numbered, 4, 5, 32, Augmentation((32, 32)), seed=0)
    assert len({frame_numbers(clips[1, row].clip)[0] for row in range(30)}) > 7


def test_short_side_is_drawn_from_the_whole_range():
    sides = []

    def reader(row, indices, short_side):
        sides.append(short_side)
        return numbered(row, indices, short_side)

    clips = TrainClips(made_up([9]), reader, 2, 1, 30, Augmentation((30, 33)), seed=0)
    for epoch in range(80):
        clips[epoch, 0]
    assert set(sides) == {30, 31, 32, 33}


# --- batches ---


def batches(dataset: TrainClips, workers: int, epochs: int = 2) -> list:
    """All batches of some training epochs."""
    sampler = EpochSampler(len(dataset), seed=5, batch_size=5)
    loader = make_loader(dataset, sampler, workers)
    out = []
    for epoch in range(1, epochs + 1):
        sampler.epoch = epoch
        out += list(loader)
    return out


def test_no_worker_and_two_workers_give_bitwise_equal_training_batches(table):
    """Starts two worker processes, each of which imports torch: about 7 s."""
    alone, helped = batches(train_clips(table), 0), batches(train_clips(table), 2)
    assert len(alone) == len(helped) == 6
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.clips, two.clips)
        assert torch.equal(one.labels, two.labels)
        assert (one.indices, one.failed) == (two.indices, two.failed)


def test_broken_video_is_left_out_of_its_batch_and_listed(table):
    seen, failed = [], []
    for batch in batches(train_clips(table), 0, epochs=1):
        assert len(batch.clips) == len(batch.labels) == len(batch.indices)
        assert batch.labels.tolist() == table.label[batch.indices].tolist()
        seen += batch.indices
        failed += batch.failed
    assert sorted(seen) == [row for row in range(12) if row != 7]
    assert [row for row, _ in failed] == [7]
    assert failed[0][1]


def test_batch_of_only_broken_videos_is_empty_and_keeps_its_types():
    batch = collate([Item(3, 1, None, "empty file"), Item(4, 0, None, "missing")])
    assert batch.failed == [(3, "empty file"), (4, "missing")]
    assert (len(batch.clips), len(batch.labels), batch.indices) == (0, 0, [])
    assert batch.clips.dtype == torch.uint8
    assert batch.labels.dtype == torch.int64


def test_error_other_than_a_broken_video_is_raised():
    def reader(row, indices, short_side):
        raise MemoryError("a bug of ours")

    with pytest.raises(MemoryError):
        TrainClips(made_up([9]), reader, 2, 1, 32, LIVELY, 0)[1, 0]


def test_video_error_of_the_reader_becomes_the_error_of_the_item():
    def reader(row, indices, short_side):
        raise VideoError("frame 8 cannot be decoded")

    item = TrainClips(made_up([9]), reader, 2, 1, 32, LIVELY, 0)[1, 0]
    assert dataclasses.astuple(item) == dataclasses.astuple(Item(0, 0, None, "frame 8 cannot be decoded"))


def test_order_of_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(20, seed, batch_size=20)
        sampler.epoch = epoch
        return next(iter(sampler))

    assert sorted(row for _, row in order(0, 1)) == list(range(20))
    assert {epoch for epoch, _ in order(0, 3)} == {3}
    assert order(0, 1) == order(0, 1)
    rows = [[row for _, row in order(seed, epoch)] for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert rows[0] != rows[1]
    assert rows[0] != rows[2]


# --- shared memory, through which workers hand over their batches ---


@pytest.mark.parametrize(("workers", "batch_size", "batches"), [(2, 4, 5), (1, 4, 3), (2, 30, 2)])
def test_shared_memory_that_is_too_small_is_refused_with_sizes_and_setting(monkeypatch, workers, batch_size, batches):
    """batches: those that wait for the trainer, at most two per worker and no more than there are, and the one in use."""
    clips = TrainClips(made_up([9] * 30), numbered, 4, 1, 32, Augmentation((32, 32)), seed=0)
    needed = batches * batch_size * 4 * 3 * 32 * 32
    sampler = EpochSampler(30, seed=0, batch_size=batch_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2 * needed, used=0, free=needed - 1))
    message = (
        rf"{workers} loader processes need {show_bytes(needed)} of shared memory, and /dev/shm has .* free of .*--shm-size.*data.workers=0"
    )
    with pytest.raises(UserError, match=message):
        make_loader(clips, sampler, workers)
    make_loader(clips, sampler, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2 * needed, used=0, free=needed))
    make_loader(clips, sampler, workers)


SCRIPT = """
import os, signal
from pathlib import Path
import numpy as np, pandas as pd
from m2clip_lib.data import dataset
from m2clip_lib.data.transforms import Augmentation
from m2clip_lib.errors import UserError
def black(row, indices, short_side):
    return np.zeros((len(indices), short_side, short_side, 3), np.uint8), "made up"
def bus_error(*arguments):
    os.kill(os.getpid(), signal.SIGBUS)
if __name__ == "__main__":
    dataset.SHARED = Path("/no such folder")  # as if there had been room before
    for reader in (black, bus_error):
        clips = dataset.TrainClips(pd.DataFrame({"num_frames": [9] * 40, "label": 0}), reader, 8, 1, 64, Augmentation((64, 64)), 0)
        loader = dataset.make_loader(clips, [[(1, row) for row in range(place, place + 8)] for place in range(0, 40, 8)], 1)
        try:
            print([len(batch.clips) for batch in [*dataset.batches(loader)]])
        except UserError as error:
            print(error)
"""


@pytest.mark.slow
def test_shared_memory_that_runs_out_ends_the_run(tmp_path):
    """In 1 MB, which holds one batch of five. Before, the training waited for ever for a batch that was lost on its way."""
    (tmp_path / "script.py").write_text(SCRIPT)
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 99; "
    command = ["unshare", "-m", "sh", "-c", mount + 'exec "$@"', "sh", sys.executable, str(tmp_path / "script.py")]
    library = os.environ | {"PYTHONPATH": str(Path(m2clip_lib.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=library, timeout=200)
    if done.returncode == 99 or done.stderr.startswith("unshare"):
        pytest.skip("only root can mount a small /dev/shm")
    full, killed = done.stdout.splitlines()
    assert re.fullmatch(r"data.workers: a loader process died \(.*No space left on device.*\); .*--shm-size.*data.workers=0.*", full)
    assert re.fullmatch(r"data.workers: a loader process died \(.*exited unexpectedly\); .*", killed)
