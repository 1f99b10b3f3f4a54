"""The manifest: one row a video, with all that later steps need, so that nobody opens a video twice to learn what it is.

Columns: path, label (int), class_name, split (train | val | test), num_frames, fps, duration_s, width, height, codec,
decord (whether that decoder can be trusted with the file), status ("ok", or the reason why the video cannot be used).
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from m2clip_lib.data.classes import labels_sha256
from m2clip_lib.data.listing.folders import Listing
from m2clip_lib.errors import UserError
from m2clip_lib.files import write_atomically, write_json

VERSION = "manifest 3"  # changes with the columns and with what is read off a file: older manifests are then made anew
FILE, SIDE_FILE, UNREADABLE_FILE = "manifest.parquet", "manifest.json", "unreadable.csv"


@dataclass(frozen=True)
class Manifest:
    """The table, its class names (index = label), and the digest of list and names that runs write down."""

    table: pd.DataFrame
    class_names: list[str]
    folder: Path
    sha256: str

    def split(self, name: str) -> pd.DataFrame:
        """The usable videos of one split, in a fixed order. Raises: UserError when there are none."""
        rows = self.table[(self.table.split == name) & (self.table.status == "ok")].reset_index(drop=True)
        if rows.empty:
            raise UserError(f"{self.folder / FILE}: no readable video in split {name!r}; see {UNREADABLE_FILE} beside it")
        return rows

    def summary(self) -> pd.DataFrame:
        """Counts a split: listed, ok, missing, unreadable."""
        ok, missing = self.table.status == "ok", self.table.status.str.startswith("missing")
        counted = self.table.assign(listed=1, ok=ok, missing=missing, unreadable=~(ok | missing))
        columns = ["listed", "ok", "missing", "unreadable"]
        return counted.groupby("split")[columns].sum().reindex([s for s in ("train", "val", "test") if s in set(self.table.split)])


def write_manifest(table: pd.DataFrame, class_names: list[str], folder: Path, root: Path, made_from: str) -> Manifest:
    """Write table, side file (names, counts, digests) and the table of unreadable files.

    made_from: digest of what the manifest was made from, so that an unchanged dataset is not scanned again.
    """
    digest = _table_sha256(table, class_names, root)
    write_atomically(folder / FILE, lambda file: table.to_parquet(file, index=False))
    bad = table.loc[table.status != "ok", ["path", "class_name", "split", "status"]]
    write_atomically(folder / UNREADABLE_FILE, lambda file: bad.to_csv(file, index=False))
    manifest = Manifest(table, class_names, folder, digest)
    side = {
        "class_names": class_names,
        "root": str(root),
        "sha256": digest,
        "labels_sha256": labels_sha256(class_names),
        "made_from": made_from,
        "counts": manifest.summary().astype(int).to_dict(orient="index"),
    }
    write_json(folder / SIDE_FILE, side)
    return manifest


def add_to_manifest(folder: Path, about: dict[str, object]) -> None:
    """Write more into the side file: digests of the lists, prompts, vocabulary. Nothing is written where all of it stands there already."""
    side = read_side_file(folder)
    if side | about != side:
        write_json(folder / SIDE_FILE, side | about)


def read_manifest(folder: Path, how_to_make: str) -> Manifest:
    """Raises: UserError naming the command that makes it when there is none."""
    if not (folder / FILE).is_file() or not (folder / SIDE_FILE).is_file():
        raise UserError(f"manifest: none at {folder / FILE}; make it with: {how_to_make}")
    side = read_side_file(folder)
    table = pd.read_parquet(folder / FILE)
    if "decord" not in table:
        raise UserError(f"manifest: {folder / FILE} was made by an older version of the workbook; make it again with: {how_to_make}")
    return Manifest(table, side["class_names"], folder, side["sha256"])


def read_side_file(folder: Path) -> dict:
    """Names, counts, digests of a manifest, and what add_to_manifest wrote."""
    return json.loads((folder / SIDE_FILE).read_text())


def made_from(folder: Path) -> str:
    """What the manifest in this folder was made from; "" when there is none."""
    there = (folder / SIDE_FILE).is_file() and (folder / FILE).is_file()
    return read_side_file(folder)["made_from"] if there else ""


def listing_sha256(listing: Listing) -> str:
    """Digest of paths, labels, splits, sizes and times of change: new, gone or replaced videos change it."""
    digest = hashlib.sha256("\n".join([VERSION, *listing.class_names]).encode())
    for path, label, split in listing.rows:
        try:
            stat = path.stat()
            mark = (stat.st_size, stat.st_mtime_ns)
        except (OSError, ValueError):  # gone, or no file can have this name: the scan says which
            mark = None
        digest.update(os.fsencode(path) + f"|{label}|{split}|{mark}\n".encode())
    return digest.hexdigest()


def _table_sha256(table: pd.DataFrame, class_names: list[str], root: Path) -> str:
    """Digest of names and rows with paths relative to the root: the same data has the same digest on every machine."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for row in table.itertuples():
        path = Path(row.path)
        relative = path.relative_to(root) if path.is_relative_to(root) else path
        digest.update(f"{relative.as_posix()}|{row.label}|{row.split}|{row.num_frames}|{row.status}\n".encode())
    return digest.hexdigest()
