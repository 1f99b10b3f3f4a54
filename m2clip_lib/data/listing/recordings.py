"""A listing, which of its videos show the same recording, and splits that never tear a recording apart."""

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import pandas as pd

from m2clip_lib.data.classes import SPLITS, class_key, loose_key
from m2clip_lib.data.listing.walk import EXTENSIONS

ENDS = 1 << 16  # bytes at each end of a file that are compared
VAL_SHARE, TEST_SHARE = 0.15, 0.15  # of the recordings, for a folder without split folders
Span = tuple[float, float] | None  # of a segment, seconds from the start of its video; None: the whole video


@dataclass(frozen=True)
class Listing:
    """Videos with labels, not yet opened.

    rows: (path, label, split); label is an index into class_names. notes: what listing them decided, one line each.
    passed: what was passed over, one line per reason.
    labels, spans: of annotation rows alone: all labels of each row, ascending, and its segment; label is then the first of them.
    """

    rows: list[tuple[Path, int, str]]
    class_names: list[str]
    notes: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def all_labels(self) -> Sequence[tuple[int, ...]]:
        """All labels of each row."""
        return self.labels or [(label,) for _, label, _ in self.rows]


def real_paths(paths: Iterable[Path]) -> list[Path]:
    """Where each path leads, links followed. A folder is looked up once: a dataset has many videos in few folders."""

    @cache
    def real(path: Path) -> Path:
        try:
            return Path(os.path.realpath(path))
        except ValueError:  # a name that no file can have: the scan gives the reason
            return path

    def is_linked_file(path: Path) -> bool:  # a link to a device or a folder is no video, and stays what it is called
        return os.path.islink(path) and os.path.isfile(path)  # noqa: PTH113, PTH114 (Path's would raise for a name that is too long)

    return [real(path) if is_linked_file(path) else real(path.parent) / path.name for path in paths]


def without_repeats(listing: Listing) -> Listing:
    """Keep the first of several rows with the same file (links followed), label and split; a note says how many repeat another."""
    first: dict[tuple, tuple[Path, int, str]] = {}
    for place, row in zip(real_paths(path for path, *_ in listing.rows), listing.rows, strict=True):
        first.setdefault((place, *row[1:]), row)
    repeats = len(listing.rows) - len(first)
    note = f"lists: {repeats} lines repeat a video; each counts once"
    return replace(listing, rows=list(first.values()), notes=(*listing.notes, note)) if repeats else listing


def copies(listing: Listing) -> list[list[int]]:
    """Groups of rows whose files hold the same video: hard links, and copies under other names. Empty files say nothing.

    Only files of equal size are read, 128 KiB each: two encodings that agree at both ends are one video.
    """
    sizes, contents = defaultdict(list), defaultdict(list)
    for i, (path, _, _) in enumerate(listing.rows):
        try:
            found = os.stat(path)  # noqa: PTH116 -- a third of the time of Path.stat, on 300,000 files
        except (OSError, ValueError):  # missing, or a name that no file can have: the scan gives the reason
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size:
            sizes[found.st_size].append(i)
    for size, rows in sizes.items():
        for i in rows if len(rows) > 1 else ():
            contents[size, _ends(listing.rows[i][0], size)].append(i)
    return [rows for (_, ends), rows in contents.items() if ends and len(rows) > 1]


def _ends(path: Path, size: int) -> bytes:
    """A digest of a file's first and last 64 KiB; empty if the file may not be read."""
    try:
        with path.open("rb") as file:
            start = file.read(ENDS)
            file.seek(max(size - ENDS, 0))
            return hashlib.sha256(start + file.read(ENDS)).digest()
    except OSError:  # the scan gives the reason
        return b""


# What clips of one recording share, tried in this order.
SOURCES = (
    re.compile(r"(v_.+_g[0-9]+)_c[0-9]+"),  # UCF101: class and group
    re.compile(r"(.+)_[fhlu]_(?:cm|nm)_np[0-9]+_(?:ba|fr|le|ri)_(?:bad|med|goo)_[0-9]+"),  # HMDB51: all but the shot's properties
    re.compile(r"(.+)_0[0-9]{5}_0[0-9]{5}"),  # Kinetics: the YouTube id, without start and end in seconds
    re.compile(r"(.+?)[ _-]+(?:clip|part|scene|segment|seg|chunk)[ _-]*[0-9]+", re.IGNORECASE),  # party_clip3
    re.compile(r"(?!.*[0-9]{4}-[0-9]{2}-[0-9]{2}$)(.*[0-9])[ _-][a-zA-Z]?[0-9]{1,5}"),  # video-01_002; not the day of a date
)


def source_of(path: Path, root: Path, numbered: bool = False) -> str:
    """Name the recording that a video was cut from; its own path below root, without its ending, if the file name does not tell.

    A name that says no more than the class, or nothing, is no recording: `clip 3`, `003` and `ski/ski_003` are recordings of their own.
    numbered: videos whose names differ only in their last number belong to one recording (HMDB51).
    """
    own = path.relative_to(root) if path.is_relative_to(root) else path
    own = own.with_suffix("") if own.suffix.lower() in EXTENSIONS else own
    found = next(filter(None, (pattern.fullmatch(own.name) for pattern in SOURCES)), None)
    if found and loose_key(found[1]) not in ("", loose_key(path.parent.name)):
        name = found[1]
    else:
        name = re.sub(r"[0-9]+$", "", own.as_posix()) if numbered else own.as_posix()
    return class_key(name)  # macOS stores other bytes for the same name


def hold_out(listing: Listing, share: float, root: Path, numbered: bool = False) -> Listing:
    """Move a share of the training recordings, in [0, 1), to validation if there is no validation split. numbered: see source_of."""
    splits = {split for _, _, split in listing.rows}
    if not share or "train" not in splits or "val" in splits:
        return listing
    return split_recordings(listing, {"val": share}, root, numbered, among="train")


def split_recordings(listing: Listing, shares: dict[str, float], root: Path, numbered: bool = False, among: str = "") -> Listing:
    """Give each recording of the split `among` to one of `shares` or to training, by a hash of its own name.

    So a recording is never torn, more videos or classes leave the others where they are, and it is the same on every machine. Only where
    names leave a class without a training video, or a split empty, does a recording move; a note says so. Recordings of which one has a
    copy of the other's video count as one, unless its copies have several labels: such a video is no recording of anything.
    """
    from scipy.cluster.hierarchy import DisjointSet  # late: a scan's children start without it

    sources = {i: source_of(path, root, numbered) for i, (path, _, split) in enumerate(listing.rows) if split == among}
    same = DisjointSet(sources.values())  # recordings that have the same video
    for rows in copies(listing):
        if len({listing.rows[i][1] for i in rows}) == 1:
            for one, other in pairwise(sources[i] for i in rows if i in sources):
                same.merge(one, other)
    first: dict[str, str] = {}
    for names in same.subsets():
        first.update(dict.fromkeys(names, min(names)))
    videos: dict[str, list[int]] = defaultdict(list)
    for i, name in sources.items():
        videos[first[name]].append(i)
    place = {name: int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64 for name in videos}
    order, limits = sorted(videos, key=place.__getitem__), list(zip(accumulate(shares.values()), shares, strict=True))
    named = {name: next((split for limit, split in limits if place[name] < limit), "train") for name in order}
    parts, labels = dict(named), {name: {listing.rows[i][1] for i in rows} for name, rows in videos.items()}
    for label in sorted(set().union(*labels.values())):
        of_class = [name for name in order if label in labels[name]]
        if all(parts[name] != "train" for name in of_class):
            parts[of_class[-1]] = "train"
    for split in [split for split, share in shares.items() if not among or round(share * len(videos))]:
        left = Counter(label for name, part in parts.items() if part == "train" for label in labels[name])
        spare = (name for name in order if parts[name] == "train" and all(left[label] > 1 for label in labels[name]))
        if split not in parts.values() and (name := next(spare, None)):
            parts[name] = split
    split_of = {i: parts[name] for name, rows in videos.items() for i in rows}
    rows = [(path, label, split_of.get(i, split)) for i, (path, label, split) in enumerate(listing.rows)]
    counts, recordings = Counter(split_of.values()), Counter(parts.values())
    note = "splits: " + ", ".join(f"{split} {counts[split]} videos of {recordings[split]} recordings" for split in SPLITS if counts[split])
    moved = sum(parts[name] != named[name] for name in order)
    if moved:
        note += f"; {moved} of them fill a split or class that would have none, and may move when there are more"
    return replace(listing, rows=rows, notes=(*listing.notes, note))


def torn_recordings(table: pd.DataFrame, root: Path) -> list[str]:
    """A line about recordings that have videos in training and in another split, to go by their names; none if there are none.

    Args:
        table: a manifest's columns path, class_name, split, num_frames. A clip in two formats has one name and as many frames.
    """
    trained: dict[tuple, Path] = {}
    torn: list[tuple[Path, Path]] = []
    for row in sorted(table.itertuples(), key=lambda row: row.split != "train"):
        path = Path(row.path)
        source = source_of(path, root)
        own_name = path.with_suffix("").as_posix().endswith(source)
        key = (row.class_name, path.stem, row.num_frames) if own_name else (source,)
        if row.split == "train":
            trained[key] = path
        elif key in trained and (not own_name or (row.num_frames and path.suffix != trained[key].suffix)):
            torn.append((path, trained[key]))
    if not torn:
        return []
    example = f"{torn[0][0].name} and {torn[0][1].name}"
    return [f"splits: {len(torn)} videos outside training are of recordings that training has, to go by their names: {example}"]
