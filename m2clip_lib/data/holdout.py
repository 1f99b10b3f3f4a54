"""Validation videos for a dataset that comes without: a share of the training videos, never tearing one source apart."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

from m2clip_lib.data.layouts import Listing

# What clips of one recording have in common. Kinetics: the YouTube id. UCF101: class and group. HMDB51: all before the shot's properties.
SOURCES = (
    re.compile(r"(?P<source>v_.+_g[0-9]+)_c[0-9]+"),
    re.compile(r"(?P<source>.+)_[fhlu]_(?:cm|nm)_np[0-9]+_(?:ba|fr|le|ri)_(?:bad|med|goo)_[0-9]+"),
    re.compile(r"(?P<source>[\w-]{11})_[0-9]{6}_[0-9]{6}"),
)


def hold_out(listing: Listing, share: float, root: Path, numbered: bool = False) -> Listing:
    """Move a share of the training videos to validation, where there is training and no validation.

    Sources are ordered by a hash of their name and taken until the share is reached: the same on every machine. A source is passed over
    where a class would be left without a training video.

    Args:
        share: of the training videos, in [0, 1); 0 leaves the listing as it is.
        numbered: videos whose names differ in their last number alone are of one source (HMDB51).
    """
    splits = {split for _, _, split in listing.rows}
    if not share or "train" not in splits or "val" in splits:
        return listing
    sources: dict[str, list[int]] = defaultdict(list)
    for i, (path, _, split) in enumerate(listing.rows):
        if split == "train":
            sources[source_of(path, root, numbered)].append(i)
    left = Counter(label for _, label, split in listing.rows if split == "train")
    wanted, held = round(share * left.total()), set()
    for _, rows in sorted(sources.items(), key=lambda item: hashlib.sha256(os.fsencode(item[0])).digest()):
        if len(held) >= wanted:
            break
        taken = Counter(listing.rows[i][1] for i in rows)
        if all(left[label] > count for label, count in taken.items()):
            held.update(rows)
            left -= taken
    rows = [(path, label, "val" if i in held else split) for i, (path, label, split) in enumerate(listing.rows)]
    return Listing(rows, listing.class_names)


def source_of(path: Path, root: Path, numbered: bool = False) -> str:
    """What stands for the recording that a video was cut from; its own path below root where the name does not tell."""
    found = next((match for pattern in SOURCES if (match := pattern.fullmatch(path.stem))), None)
    if found:
        return found["source"]
    own = path.relative_to(root) if path.is_relative_to(root) else path
    return re.sub(r"[0-9]+$", "", own.with_suffix("").as_posix()) if numbered else own.as_posix()
