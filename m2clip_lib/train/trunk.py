"""What the frozen blocks below the first adapter make of a training clip: computed once, kept as float16, read at every step."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from m2clip_lib.data.dataset import Item, TrainClips, batches, make_loader
from m2clip_lib.data.workers import own
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.files import check_space, hash_texts, show_bytes
from m2clip_lib.models import M2CLIP, Backbone

Report = Callable[[str], None]


class SavedClips(Dataset):
    """The same `views` clips of every video, those of epochs 1 to `views`, in turns. tokens: what is kept of them; None: they are read."""

    def __init__(self, clips: TrainClips, views: int, tokens: "TrunkTokens | None"):
        self.clips, self.views, self.tokens = clips, views, tokens

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
        error = "it could not be read when the tokens of its clips were computed" if found is None else ""
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

    def _open(self) -> tuple[np.memmap, np.memmap]:
        if self._tokens is None:
            for name, size in (("tokens.f16", self.item_bytes), ("kept.u8", 1)):
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / name).open("ab") as file:
                    file.truncate(self.shape[0] * self.shape[1] * size)
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


def saved_clips(
    clips: TrainClips,
    rows: Sequence[int],
    views: int,
    model: M2CLIP,
    backbone: Backbone,
    inputs: Sequence[str],
    place: Path,
    processes: Processes,
    autocast: Callable[[], torch.autocast],
    loading: tuple[int, int],
    report: Report,
) -> SavedClips:
    """Draw `views` clips of each video once and for all, and compute the tokens in front of the model's first adapter that are missing.

    Args:
        rows: the videos in use. inputs: everything but the model that decides the tokens. place: the folder for all kept tokens.
        autocast: the precision of training. loading: batch size, and number of loader processes.
    Raises: UserError when the disk is too small, or values do not fit float16.
    """
    if not model.trunk_blocks:
        report(f"train.saved_views: {views} clips of each video, in turns; an adapter stands in the first block, so no tokens are kept")
        return SavedClips(clips, views, None)
    one = torch.zeros(1, 3, clips.clip_len, clips.side, clips.side, device=processes.device)
    with autocast():
        shape = (views, len(clips), *model.trunk(one).shape[1:])
    tokens = TrunkTokens(place / hash_texts(*inputs, backbone.sha256, str(model.trunk_blocks), str(shape))[:16], shape)
    if processes.is_main:
        size = show_bytes(views * len(clips) * tokens.item_bytes)
        frozen = f"{model.trunk_blocks} of {len(model.visual.blocks)} blocks"
        report(f"trunk: {frozen} of {views} clips per video are computed once: {size} in {place}")
        with own(tokens.folder / ".lock", "train.saved_views", wait=True):
            missing = tokens.missing(rows)
            if missing:
                check_space(tokens.folder, len(missing) * tokens.item_bytes, "train.saved_views")
                _fill(tokens, clips, missing, model, backbone, autocast, loading)
    processes.from_main(None)
    return SavedClips(clips, views, tokens)


@torch.inference_mode()
def _fill(
    tokens: TrunkTokens,
    clips: TrainClips,
    missing: Sequence[tuple[int, int]],
    model: M2CLIP,
    backbone: Backbone,
    autocast: Callable[[], torch.autocast],
    loading: tuple[int, int],
) -> None:
    size, workers = loading
    device = next(model.parameters()).device
    for view in sorted({view for view, _ in missing}):
        rows = [row for of_view, row in missing if of_view == view]
        keys = [[(view + 1, row) for row in rows[start : start + size]] for start in range(0, len(rows), size)]
        for batch in batches(make_loader(clips, keys, workers)):
            if not batch.indices:
                continue
            with autocast():
                found = model.trunk(backbone.video(batch.clips, device)).half().cpu()
            good = found.isfinite().flatten(1).all(dim=1)
            if not good.all():
                row = batch.indices[int((~good).nonzero()[0])]
                raise UserError(f"train.saved_views: the tokens of row {row} of the training split do not fit float16; set it to 0")
            tokens.keep(view, batch.indices, found)
