"""Checks of a listing before any video is opened: labels against paths, leaks between splits, mirrored directions."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from m2clip_lib.data.classes import class_finder, name_from_folder
from m2clip_lib.data.listing.annotations import read_kinetics_table
from m2clip_lib.data.listing.folders import SPLIT_FOLDERS
from m2clip_lib.data.listing.recordings import Listing, copies, real_paths
from m2clip_lib.errors import UserError

log = logging.getLogger(__name__)

KINETICS_TIMES = re.compile(r"_[0-9]{6}_[0-9]{6}$")
UCF_STEM = re.compile(r"v_(.+)_g[0-9]+_c[0-9]+")
ONE_SPLIT = "a model must not be tested on its training videos: remove them from one split"
DIRECTION = re.compile(r"\b(left|right)\b", re.IGNORECASE)
MIRROR_PAIRS = (
    *(("left", "right"), ("counterclockwise", "clockwise"), ("east", "west"), ("links", "rechts"), ("gauche", "droite")),
    *(("izquierda", "derecha"), ("sinistra", "destra"), ("esquerda", "direita"), ("左", "右"), ("왼쪽", "오른쪽")),
    *(("逆时针", "顺时针"), ("antihoraire", "horaire"), ("antihorario", "horario"), ("gegen den uhrzeigersinn", "im uhrzeigersinn")),
)


def read_kinetics_names(file: Path) -> dict[str, str]:
    """Return the class names that a Kinetics CSV gives: to `<id>_<start>_<end>`, and to `<id>` where all its clips have one class."""
    names = defaultdict(set)
    for name, video, times, _ in read_kinetics_table(file):
        names[f"{video}_{times}"].add(name)
        names[video].add(name)
    return {stem: found.pop() for stem, found in names.items() if len(found) == 1}


def check_labels_in_paths(listing: Listing, table: dict[str, str] | None = None) -> int:
    """Compare each label with the class that the video's path carries.

    A path carries a class in its nearest folder that is named like one, in UCF101's file name (`v_Class_g01_c01`), or through the Kinetics
    table if one is given. Folders shared by all videos of several labels, and folders named like a split, are ignored.
    Returns: how many videos could be checked.
    Raises: UserError with counts and three examples when they disagree.
    """
    find, shared = class_finder(listing.class_names), set()
    if len({label for _, label, _ in listing.rows}) > 1:
        top = Path(os.path.commonpath([path.parent.absolute() for path, _, _ in listing.rows]))
        shared = {top, *top.parents}
    wrong, checked, in_table = [], 0, 0
    for (path, label, _), labels in zip(listing.rows, listing.all_labels, strict=True):
        known = table.get(path.stem) or table.get(KINETICS_TIMES.sub("", path.stem)) if table else None
        in_table += known is not None
        carried = [own for own in map(find, [known] if known else _names_in_path(path, shared)) if own is not None]
        checked += bool(carried)
        if carried and not set(labels) & set(carried):
            pair = listing.class_names[carried[0]], listing.class_names[label]
            wrong.append((pair, f"{path.parent.name}/{path.name} says {pair[0]!r}, its label {pair[1]!r}"))
    if table is not None and listing.rows and not in_table:
        raise UserError("data.check_csv: none of the listed videos is in that table; give the table of the same dataset")
    if wrong:
        firsts = dict(reversed(wrong))  # the first video of every confusion: three videos of one class would say less
        examples = [*reversed(firsts.values()), *(text for _, text in wrong if text not in firsts.values())][:3]
        counts = f"{len(wrong)} of {checked} videos whose path carries a class ({len(listing.rows)} listed)"
        raise UserError(f"labels: {counts} have the label of another: {'; '.join(examples)}; check names file and label order")
    return checked


def _names_in_path(path: Path, shared: set[Path]) -> list[str]:
    """The names in a path that may be classes, the nearest first; a class may have a subfolder named like another class."""
    found = UCF_STEM.fullmatch(path.stem)
    folders = takewhile(lambda folder: folder not in shared, path.absolute().parents)
    names = [folder.name for folder in folders if folder.name.lower() not in SPLIT_FOLDERS]
    return [found[1], *names] if found else names


def check_leaks(listing: Listing, trusted: bool = False) -> list[str]:
    """Check that every video belongs to one class and one split, whatever links lead to it, and under whatever names it is stored.

    Args:
        trusted: copies in two splits are no more than a doubt.
    Returns: lines of doubt, such as about videos that are stored under several classes, where nobody can say which is right.
    Raises: UserError with counts and three examples when a path has two labels, unless it is listed by annotation rows, or a video is in
        two splits.
    """
    names, several = listing.class_names, bool(listing.labels)
    splits, labels = defaultdict(dict), defaultdict(dict)  # path -> ordered set
    for place, (_, label, split) in zip(real_paths(path for path, *_ in listing.rows), listing.rows, strict=True):
        splits[place][split] = labels[place][names[label]] = None
    torn = [f"{path.name} is {' and '.join(map(repr, found))}" for path, found in labels.items() if len(found) > 1]
    if torn and not several:
        raise UserError(f"lists: {len(torn)} of {len(labels)} videos have two labels: {'; '.join(torn[:3])}; keep one line for each")
    torn = [f"{path.name} in {' and '.join(found)}" for path, found in splits.items() if len(found) > 1]
    if torn:
        raise UserError(f"lists: {len(torn)} of {len(splits)} videos are in two splits: {'; '.join(torn[:3])}; {ONE_SPLIT}")
    unsure = []
    for rows in copies(listing):
        by_split = {split: path for path, _, split in (listing.rows[i] for i in rows)}
        by_label = {names[label]: path for path, label, _ in (listing.rows[i] for i in rows)}
        if len(by_label) > 1 and not several:
            unsure.append(" and ".join(f"{path.name} in {name!r}" for name, path in by_label.items()))
        elif len(by_split) > 1:
            torn.append(" and ".join(f"{path.parent.name}/{path.name} in {split}" for split, path in by_split.items()))
    doubts = [f"labels: {len(unsure)} videos are stored under several classes: {'; '.join(unsure[:3])}"] if unsure else []
    if torn:
        found = f"lists: {len(torn)} videos are in two splits, as copies or hard links: {'; '.join(torn[:3])}"
        if not trusted:
            raise UserError(f"{found}; {ONE_SPLIT}, or set data.trust_list=true if the splits are official")
        doubts.append(f"{found}; data.trust_list is set: they stay")
    return doubts


def mirror_classes(class_names: Sequence[str], pairs: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Classes whose mirrored clips show another class, or none: they say left or right, or another class is their mirror image in words.

    pairs: words that a mirror exchanges, beside MIRROR_PAIRS; joined to other words too, as in "swipeleft".
    """
    other = {a.casefold(): b.casefold() for pair in (*MIRROR_PAIRS, *pairs) for a, b in (pair, pair[::-1])}
    terms = "|".join(sorted(map(re.escape, other), key=len, reverse=True))
    term = re.compile(rf"{terms}|(?<![^\W\d])[lr](?![^\W\d])|\b[lr](?=to ?[lr]\b)")  # of single letters only those that stand alone
    other |= {"l": "r", "r": "l"}
    said = {name: _in_one_spelling(name) for name in class_names}
    turned = {name: term.sub(lambda found: other[found[0]], text) for name, text in said.items()}
    images = {text for name, text in turned.items() if text != said[name]}
    words = {name: {found[1] for found in re.finditer(rf"\b({terms})(?:wards?)?\b", text)} for name, text in said.items()}
    opposed = {other[word] for of_name in words.values() for word in of_name}
    return [n for n in class_names if DIRECTION.search(name_from_folder(n)) or said[n] in images or words[n] & opposed]


def _in_one_spelling(name: str) -> str:
    text = re.sub(r"[\W_]+", " ", name_from_folder(name).casefold())
    return re.sub(
        r"\b(?:anti ?|counter ?)clockwise|\ba?c?cw\b", lambda found: "clockwise" if found[0] == "cw" else "counterclockwise", text
    )


def check_mirror(class_names: Sequence[str], mirror: bool | Literal["force"], pairs: Sequence[tuple[str, str]] = ()) -> None:
    """Refuse to mirror clips whose classes a mirror exchanges. Raises: UserError naming two such classes, unless forced."""
    speaking = mirror_classes(class_names, pairs)
    if not mirror or not speaking:
        return
    left_right = [name for name in speaking if DIRECTION.search(name_from_folder(name))]
    said, speaking = ("name left or right", left_right) if left_right else ("are exchanged by a mirror", speaking)
    named = " and ".join(repr(name) for name in speaking[:2])
    if mirror != "force":
        wrong = f"data.mirror: {len(speaking)} of {len(class_names)} classes {said} ({named}): a mirrored clip would carry the wrong label"
        raise UserError(f'{wrong}; set data.mirror to false, or to "force" to mirror anyway')
    log.warning("data.mirror is forced; %d classes %s (%s): mirrored clips may be mislabelled", len(speaking), said, named)
