"""Listings from annotation rows, path,label[,start,end]: several labels per video, and segments of a video as clips of their own."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from m2clip_lib.csvfiles import find_header, split_cells
from m2clip_lib.data.classes import NAME_WORDS, class_finder, class_key, refuse_lookalikes
from m2clip_lib.data.listing.folders import LABEL_WORDS, PATH_WORDS, as_stored
from m2clip_lib.data.listing.recordings import Listing, Span, real_paths
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_lines

WORDS = {"path": PATH_WORDS, "label": LABEL_WORDS | NAME_WORDS}
WORDS |= {end: {end, f"{end}s", f"{end}time", f"time{end}", f"{end}sec", f"{end}seconds"} for end in ("start", "end")}


def list_annotations(root: Path, lists: dict[str, Path], class_names: Sequence[str] = ()) -> Listing:
    """Read annotation files, one CSV per split with the columns path and label (a class name), and start and end in seconds or neither.

    Rows with the same path, start and end are several labels of one video, or of one segment of it; a segment is a row of its own. Paths
    are relative to root.

    Args:
        class_names: in label order; without them, the labels that occur, in alphabetical order.
    Raises: UserError with file and line for a row that cannot be understood.
    """
    find, given_rows, found, repeats = class_finder(class_names), [], defaultdict(dict), 0
    for split, file in lists.items():
        lines = read_lines(file)
        separator, heads = _columns(file, *(lines[0] if lines else (1, "")))
        for number, line in lines[1:]:
            given = split_cells(line, separator)
            cells = dict.fromkeys(("start", "end"), "") | dict(zip(heads, given, strict=False))  # empty cells at the end may be missing
            if len(given) > len(heads) or not (cells.get("path") and cells.get("label")):
                raise UserError(f"{file}:{number}: {line!r}: expected {', '.join(heads)}")
            name, span = class_key(cells["label"]), _span(f"{file}:{number}", cells["start"], cells["end"])
            if class_names and find(name) is None:
                known = f"the {len(class_names)} classes of data.names_file"
                raise UserError(f"{file}:{number}: {name!r} is not one of {known}; correct it, or add it there")
            given_rows.append((as_stored(root, cells["path"]), span, split, class_names[find(name)] if class_names else name))
    first: dict[Path, Path] = {}  # a video has several paths: links, and those with ".."
    for place, (path, span, split, label) in zip(real_paths(row[0] for row in given_rows), given_rows, strict=True):
        labels = found[first.setdefault(place, path), span, split]
        repeats += label in labels
        labels[label] = None  # an ordered set
    names = list(class_names) or sorted({label for labels in found.values() for label in labels})
    refuse_lookalikes(names, ", ".join(map(str, lists.values())))
    if found and len(names) < 2:
        raise UserError(f"{next(iter(lists.values()))}: only one class ({names[0]!r}); a classifier needs two or more")
    labels = tuple(tuple(sorted(map(names.index, of_row))) for of_row in found.values())
    rows = [(path, own[0], split) for (path, _, split), own in zip(found, labels, strict=True)]
    notes = (f"lists: {repeats} lines repeat a label; each counts once",) if repeats else ()
    return Listing(rows, names, notes, labels=labels, spans=tuple(span for _, span, _ in found))


def _columns(file: Path, number: int, line: str) -> tuple[str, list[str]]:
    """The separator of the header, and what each column is."""
    separator, heads = find_header(line, set().union(*WORDS.values())) or ("", [])
    columns = [next(column for column, words in WORDS.items() if head in words) for head in heads]
    if separator == " " or sorted(columns) not in (["label", "path"], ["end", "label", "path", "start"]):
        raise UserError(f"{file}:{number}: {line!r}: expected the header path,label or path,label,start,end")
    return separator, columns


def _span(where: str, start: str, end: str) -> Span:
    """A segment in seconds, or None for the whole video."""
    if not start and not end:
        return None
    try:
        span = float(start), float(end)
    except ValueError:
        span = math.nan, math.nan
    if not (math.isfinite(sum(span)) and span[0] >= 0):
        raise UserError(f"{where}: start {start!r}, end {end!r}: expected seconds from the start of the video, or neither of them")
    if span[1] <= span[0]:
        raise UserError(f"{where}: the segment ends at {end} s, which is not after its start at {start} s")
    return span
