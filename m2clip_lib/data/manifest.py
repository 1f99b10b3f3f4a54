"""The manifest: one row per video with all that later steps need, so that no step has to open a video again to learn about it.

Columns: path, label (int), class_name, listed_as (the class name before corrections), split (train | val | test), num_frames, fps,
duration_s, width, height, codec, times (when each frame is shown, see video/times.py), status ("ok", or the reason why the video cannot
be used). A video that corrections.csv ignores has no row. From annotation rows also: labels (all of them, ascending; label is the first),
start_frame, file_frames; num_frames and duration_s are those of the segment.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy import ndarray

from m2clip_lib.csvfiles import write_csv
from m2clip_lib.data.classes import SPLITS, labels_sha256, no_split
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json, write_atomically, write_json

VERSION = "manifest 5"  # change it with the columns, or with what is read from a file: older manifests are then replaced
FILE, SIDE_FILE, UNREADABLE_FILE = "manifest.parquet", "manifest.json", "unreadable.csv"


@dataclass(frozen=True)
class Manifest:
    """The table, its class names (index = label), and the digest of both that runs record."""

    table: pd.DataFrame
    class_names: list[str]
    folder: Path
    sha256: str

    def has(self, name: str) -> bool:
        """Whether a split has usable videos."""
        return bool(((self.table.split == name) & (self.table.status == "ok")).any())

    def split(self, name: str) -> pd.DataFrame:
        """Return the usable videos of one split, in a fixed order. Raises: UserError if there are none, or no such split."""
        if name not in (splits := set(self.table.split)):
            raise UserError(f"{self.folder / FILE}: {no_split(name, splits)}")
        rows = self.table[(self.table.split == name) & (self.table.status == "ok")].reset_index(drop=True)
        if rows.empty:
            raise UserError(f"{self.folder / FILE}: no readable video in split {name!r}; see {UNREADABLE_FILE} beside it")
        return rows

    @property
    def several_labels(self) -> bool:
        """Whether any video, or segment, has more than one label."""
        return "labels" in self.table and bool((self.table.labels.map(len) > 1).any())

    def targets(self, name: str) -> Bool[ndarray, "n k"]:
        """Which labels each usable video of a split has."""
        rows = self.split(name)
        found = np.zeros((len(rows), len(self.class_names)), bool)
        for own, labels in zip(found, rows.get("labels", rows.label), strict=True):
            own[labels] = True
        return found

    def names_of(self, row: tuple) -> str:
        """The class names of a row of the table, as itertuples gives it."""
        return " + ".join(self.class_names[label] for label in getattr(row, "labels", [row.label]))

    def by_label(self, some: pd.DataFrame | None = None) -> pd.DataFrame:
        """The table, or some of its rows, with one row per label of each video: a video with two labels is in it twice, under one index."""
        table = self.table if some is None else some
        if not self.several_labels:
            return table
        rows = table.explode("labels")
        return rows.assign(label=rows.labels.astype(int), class_name=[self.class_names[label] for label in rows.labels])

    def summary(self) -> pd.DataFrame:
        """Return counts per split: listed, ok, missing, unreadable."""
        ok, missing = self.table.status == "ok", self.table.status.str.startswith("missing")
        counted = pd.DataFrame({"listed": 1, "ok": ok, "missing": missing, "unreadable": ~(ok | missing)})
        return counted.groupby(self.table.split).sum().reindex([split for split in SPLITS if split in set(self.table.split)])


def write_manifest(table: pd.DataFrame, class_names: list[str], folder: Path, root: Path, made_from: str) -> Manifest:
    """Write table, side file (names, counts, digests) and the table of unreadable files.

    made_from: digest of the listing and its files, so that an unchanged dataset is not scanned again.
    """
    # Paths relative to the root: the same data has the same digest on every machine.
    digest = hashlib.sha256("\n".join(class_names).encode())
    for row in table.itertuples():
        path = Path(row.path)
        relative = path.relative_to(root) if path.is_relative_to(root) else path
        annotated = f"|{list(row.labels)}|{row.start_frame}" if "labels" in table else ""
        digest.update(f"{relative.as_posix()}|{row.label}|{row.split}|{row.num_frames}|{row.status}{annotated}\n".encode())
    manifest = Manifest(table, class_names, folder, digest.hexdigest())
    write_atomically(folder / FILE, lambda file: table.to_parquet(file, index=False))
    bad = table.loc[table.status != "ok", ["path", "class_name", "split", "status"]]
    write_csv(folder / UNREADABLE_FILE, bad)
    side = {
        "class_names": class_names,
        "root": str(root),
        "sha256": manifest.sha256,
        "labels_sha256": labels_sha256(class_names),
        "made_from": made_from,
        "counts": manifest.summary().astype(int).to_dict(orient="index"),
    }
    write_json(folder / SIDE_FILE, side)
    return manifest


def add_to_manifest(folder: Path, about: dict[str, object]) -> None:
    """Add entries to the side file: digests of the lists, prompts, vocabulary. It is not rewritten if it already holds them."""
    side = read_side_file(folder)
    if side | about != side:
        write_json(folder / SIDE_FILE, side | about)


def read_manifest(folder: Path, how_to_make: str) -> Manifest:
    """Read what write_manifest wrote. Raises: UserError naming the command `how_to_make` if there is no manifest or an old one."""
    if not (folder / FILE).is_file() or not (folder / SIDE_FILE).is_file():
        raise UserError(f"manifest: none at {folder / FILE}; make it with: {how_to_make}")
    side = read_side_file(folder)
    table = pd.read_parquet(folder / FILE)
    if "times" not in table:
        raise UserError(f"manifest: {folder / FILE} was made by an older version of the workbook; make it again with: {how_to_make}")
    return Manifest(table, side["class_names"], folder, side["sha256"])


def read_side_file(folder: Path) -> dict:
    """Return a manifest's names, counts and digests, and what add_to_manifest added."""
    return read_json(folder / SIDE_FILE)


def made_from(folder: Path) -> str:
    """Return the digest that the manifest in this folder was made from; "" if there is no manifest."""
    complete = (folder / SIDE_FILE).is_file() and (folder / FILE).is_file()
    return read_side_file(folder)["made_from"] if complete else ""


def listing_sha256(listing: Listing) -> str:
    """Return a digest of paths, labels, splits, sizes and modification times; new, missing or replaced videos change it."""
    digest = hashlib.sha256("\n".join([VERSION, *listing.class_names]).encode())
    if listing.labels:
        digest.update(repr((listing.labels, listing.spans)).encode())
    for path, label, split in listing.rows:
        try:
            stat = path.stat()
            mark = (stat.st_size, stat.st_mtime_ns)
        except (OSError, ValueError):  # missing, or a name that no file can have: the scan gives the reason
            mark = None
        digest.update(os.fsencode(path) + f"|{label}|{split}|{mark}\n".encode())
    return digest.hexdigest()
