"""Corrections that a person makes after looking at the videos: data/<prepared>/corrections.csv, written by hand or by a notebook.

Columns: path (below the folder of the videos, with slashes, or absolute), action, class_name (of "relabel": the right class), note.
Lists and folders, from which the labels come, are never changed.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd

from m2clip_lib.csvfiles import as_written, write_csv
from m2clip_lib.data.classes import class_finder, class_key
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_text

FILE = "corrections.csv"
ACTIONS = ("accept", "relabel", "ignore")  # its label is right; it has another one; leave the video out


@dataclass(frozen=True)
class Correction:
    """One row of the file."""

    path: str
    action: str
    class_name: str = ""
    note: str = ""


COLUMNS = tuple(field.name for field in fields(Correction))


def name_below(path: str | Path, root: Path) -> str:
    """How the file names a video: its path below root, with slashes; the absolute path if it lies elsewhere."""
    place = root / path
    return class_key((place.relative_to(root) if place.is_relative_to(root) else place.absolute()).as_posix())


def read_corrections(file: Path, root: Path, class_names: Sequence[str]) -> dict[str, Correction]:
    """Read the file, if there is one: the name of a video (see name_below) -> its correction.

    Raises: UserError with file and line for an unknown action or class, a video with two rows, and a row of another form.
    """
    if not file.is_file():
        return {}
    found: dict[str, Correction] = {}
    find, table = class_finder(class_names), csv.DictReader(io.StringIO(read_text(file), newline=""))
    for row in table:
        where = f"{file}:{table.line_num}"
        if not set(COLUMNS[:3]) <= set(row) <= set(COLUMNS) or None in row.values():  # another column would be lost by write_correction
            raise UserError(f"{where}: expected the columns {', '.join(COLUMNS)} in the header, and a cell for each, separated by commas")
        one = _checked(Correction(*(as_written(row.get(column, "").strip()) for column in COLUMNS)), where, root, class_names, find)
        if one.path in found:
            raise UserError(f"{where}: {one.path!r} has two rows; keep one of them")
        found[one.path] = one
    return found


def _checked(asked: Correction, where: str | Path, root: Path, class_names: Sequence[str], find: Callable) -> Correction:
    """The correction with the names that the listing uses."""
    label = find(asked.class_name)
    if not asked.path:
        raise UserError(f"{where}: no path; give the video's path below {root}, or remove the line")
    if asked.action not in ACTIONS:
        raise UserError(f"{where}: unknown action {asked.action!r}; expected {', '.join(ACTIONS)}")
    if asked.action == "relabel" and label is None:
        known = f"the {len(class_names)} classes ({class_names[0]!r}, ...)"
        raise UserError(f"{where}: {asked.class_name!r} is not one of {known}; correct it")
    return replace(asked, path=name_below(asked.path, root), class_name=class_names[label] if asked.action == "relabel" else "")


def write_correction(file: Path, root: Path, class_names: Sequence[str], asked: Correction) -> None:
    """Write one row, over an earlier one of the same video; with the action "" the video's row is removed. Raises: see read_corrections."""
    found = read_corrections(file, root, class_names)
    if asked.action:
        one = _checked(replace(asked, note=" ".join(asked.note.split())), file, root, class_names, class_finder(class_names))
        found[one.path] = one
    else:
        found.pop(name_below(asked.path, root), None)
    write_csv(file, pd.DataFrame([asdict(one) for one in found.values()], columns=list(COLUMNS)))


def correct(listing: Listing, corrections: dict[str, Correction], root: Path) -> tuple[Listing, list[int], Counter[str]]:
    """Give relabelled videos their new label, and leave out those to ignore.

    Returns: the listing, of which a line in `passed` says what was done; the label that each of its rows had; videos per action.
    Raises: UserError when a video listed by annotation rows is to be relabelled.
    """
    rows, kept, counts, seen = [], [], Counter(), set()
    for place, (path, label, split) in enumerate(listing.rows):
        found = corrections.get(name_below(path, root)) if corrections else None
        if found:
            seen.add(found.path)
            counts[found.action] += 1
        if not found or found.action != "ignore":
            relabel = found is not None and found.action == "relabel"
            if relabel and listing.labels:
                raise UserError(f"corrections: {found.path!r} is to be relabelled, but its labels are annotation rows; correct them there")
            rows.append((path, listing.class_names.index(found.class_name) if relabel else label, split))
            kept.append(place)
    lines = [f"corrections: {counts['relabel']} videos relabelled, {counts['ignore']} left out, {counts['accept']} accepted as they are"]
    if unknown := [name for name in corrections if name not in seen]:
        counts["not listed"] = len(unknown)
        lines.append(f"corrections: WARNING: {len(unknown)} rows name no listed video, such as {unknown[0]!r}; correct their paths")
    own = {name: tuple(values[i] for i in kept) for name, values in (("labels", listing.labels), ("spans", listing.spans)) if values}
    before = [listing.rows[i][1] for i in kept]
    return replace(listing, rows=rows, passed=(*listing.passed, *(lines if corrections else ())), **own), before, counts


def corrections_sha256(corrections: dict[str, Correction]) -> str:
    """A digest of what the corrections change: that a video was accepted, or a note, changes no manifest."""
    changes = sorted(f"{one.path}|{one.action}|{one.class_name}" for one in corrections.values() if one.action != "accept")
    return hashlib.sha256("\n".join(changes).encode()).hexdigest()
