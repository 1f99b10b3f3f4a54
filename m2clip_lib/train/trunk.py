"""What the frozen blocks below the first adapter make of a training clip: computed once, kept as float16, read at every step."""

import os
from collections import ChainMap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from m2clip_lib.data.dataset import Item, TrainClips, batches, make_loader
from m2clip_lib.data.workers import own, with_progress
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.files import check_space, hash_texts, show_bytes
from m2clip_lib.models import M2CLIP, Backbone


class SavedClips(Dataset):
    """The same `views` clips of every video, those of epochs 1 to `views`, in turns."""

    def __init__(self, clips: TrainClips, views: int, tokens: "TrunkTokens | None" = None, failed: dict[int, str] | None = None):
        """tokens: what is kept of the clips; None: they are read. failed: row -> reason, of the videos without tokens."""
        self.clips, self.views, self.tokens, self.failed = clips, views, tokens, failed or {}

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def item_bytes(self) -> int:
        """Size of one clip, or of its tokens."""
        return self.tokens.item_bytes if self.tokens else self.clips.item_bytes

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, row = key
        view = (epoch - 1) % self.views
        if self.tokens is None:
            return self.clips[view + 1, row]
        found = self.tokens.read(view, row)
        error = self.failed.get(row, "it has no tokens") if found is None else ""
        return Item(row, self.clips.labels[row], found, error, "kept tokens")


class TrunkTokens:
    """One file of tokens (views, rows, t, n, c), float16, and one byte per clip that says whether its tokens are there."""

    def __init__(self, folder: Path, shape: Sequence[int]):
        """folder: of these clips and this trunk alone. shape: of all tokens."""
        self.folder, self.shape = folder, tuple(shape)
        self._tokens = self._kept = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tokens": None, "_kept": None}  # loader processes open the files themselves

    @property
    def item_bytes(self) -> int:
        """Size of the tokens of one clip."""
        return 2 * int(np.prod(self.shape[2:]))

    def create(self) -> None:
        """Make the files where they are missing, in full, so that a disk cannot fill up later. Raises: OSError on a full disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in (("tokens.f16", self.item_bytes), ("kept.u8", 1)):
            with (self.folder / name).open("ab") as file:
                file.truncate(size := size * self.shape[0] * self.shape[1])
                if hasattr(os, "posix_fallocate"):  # Linux; a write to a mapped page without room on the disk kills the process
                    os.posix_fallocate(file.fileno(), 0, size)

    def _open(self) -> tuple[np.memmap, np.memmap]:
        if self._tokens is None:
            self._tokens = np.memmap(self.folder / "tokens.f16", np.float16, mode="r+", shape=self.shape)
            self._kept = np.memmap(self.folder / "kept.u8", np.uint8, mode="r+", shape=self.shape[:2])
        return self._tokens, self._kept

    def missing(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """The (view, row) whose tokens are not there yet."""
        _, kept = self._open()
        return [(view, int(row)) for view in range(self.shape[0]) for row in rows if not kept[view, row]]

    def read(self, view: int, row: int) -> Float[Tensor, "t n c"] | None:
        """The tokens of a clip, if they are there."""
        tokens, kept = self._open()
        return torch.from_numpy(tokens[view, row].copy()) if kept[view, row] else None

    def keep(self, view: int, rows: Sequence[int], found: Float[Tensor, "b t n c"]) -> None:
        """Write the tokens of clips, and then that they are there, so that a process that is killed in between loses them alone."""
        tokens, kept = self._open()
        tokens[view, rows] = found.numpy()
        tokens.flush()
        kept[view, rows] = 1


@dataclass(frozen=True)
class Trunk:
    """The frozen blocks below the first adapter, as a training runs them. loading: batch size, and number of loader processes."""

    model: M2CLIP
    backbone: Backbone
    processes: Processes
    autocast: Callable[[], torch.autocast]
    loading: tuple[int, int]
    report: Callable[[str], None]

    def saved_clips(self, clips: TrainClips, rows: Sequence[int], views: int, inputs: Sequence[str], place: Path) -> SavedClips:
        """Draw `views` clips of each video once and for all, and compute the missing tokens in front of the first adapter.

        The processes of a training share the work.

        Args:
            rows: the videos in use. inputs: everything that decides the tokens but the trunk's own size. place: the folder for all tokens.
        Raises: UserError when the disk is too small, or values do not fit float16.
        """
        model, processes = self.model, self.processes
        if not model.trunk_blocks:
            self.report(
                f"train.saved_views: {views} clips of each video, in turns; no block stays as it is below what is trained, "
                "so no tokens are kept"
            )
            return SavedClips(clips, views)
        one = torch.zeros(1, 3, clips.clip_len, clips.side, clips.side, device=processes.device)
        with self.autocast():
            shape = (views, len(clips), *model.trunk(one).shape[1:])
        tokens = TrunkTokens(place / hash_texts(*inputs, str(model.trunk_blocks), str(shape))[:16], shape)
        with own(tokens.folder / ".lock", "train.saved_views", wait=True) if processes.is_main else nullcontext():
            if processes.is_main:
                size, frozen = views * len(clips) * tokens.item_bytes, f"{model.trunk_blocks} of {len(model.visual.blocks)} blocks"
                self.report(f"trunk: {frozen} of {views} clips per video are computed once: {show_bytes(size)} in {place}")
                if not (tokens.folder / "kept.u8").is_file():
                    check_space(tokens.folder, size, "train.saved_views")
                tokens.create()
            missing = processes.from_main(tokens.missing(rows) if processes.is_main else None)
            failed = self._fill(tokens, clips, missing[processes.rank :: processes.count])
            return SavedClips(clips, views, tokens, dict(ChainMap(*processes.gather(failed))))

    @torch.inference_mode()
    def _fill(self, tokens: TrunkTokens, clips: TrainClips, missing: Sequence[tuple[int, int]]) -> dict[int, str]:
        """Compute tokens. Returns: row -> reason, of the videos that cannot be read."""
        size, workers = self.loading
        failed: dict[int, str] = {}
        for view in sorted({view for view, _ in missing}):
            rows = [row for of_view, row in missing if of_view == view]
            keys = [[(view + 1, row) for row in rows[start : start + size]] for start in range(0, len(rows), size)]
            loaded = batches(make_loader(clips, keys, workers))
            for batch in with_progress(loaded, len(keys), f"tokens of view {view + 1}", self.report, "batches"):
                failed |= dict(batch.failed)
                if not batch.indices:
                    continue
                with self.autocast():
                    found = self.model.trunk(self.backbone.video(batch.clips, self.processes.device)).half().cpu()
                good = found.isfinite().flatten(1).all(dim=1)
                if not good.all():
                    row = batch.indices[int((~good).nonzero()[0])]
                    raise UserError(f"train.saved_views: the tokens of row {row} of the training split do not fit float16; set it to 0")
                tokens.keep(view, batch.indices, found)
        return failed
