"""Tables as text: CSV whose cells come back as they were and are no formulas elsewhere, and the headers of lists that people send."""

import csv
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from m2clip_lib.files import write_atomically

# Columns that never hold numbers, whatever their cells look like.
TEXTS = ("class_name", "most_often_taken_for", "path", "reason", "model", "variant", "prompt", "list_sha256", "note")
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # what a spreadsheet would run; behind apostrophes it is text
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE | re.ASCII)
SEPARATORS = (",", ";", "\t")


def write_csv(file: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table atomically. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    safe = table.map(_as_text)
    safe.columns = [_as_text(name) for name in table.columns]
    write_atomically(file, lambda path: safe.to_csv(path, index=False, float_format=float_format, encoding="utf-8"))


def read_csv(file: Path) -> pd.DataFrame:
    """Read what write_csv wrote. A column is of numbers or truth values if all its cells are and it holds no names; an empty one is NaN."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    names = [as_written(name) for name in table.columns]
    for place, (column, name) in enumerate(zip(list(table), names, strict=True)):
        cells = set(table[column]) - {""}
        is_text = name in TEXTS or (place == 0 and name == "true_class")  # of a confusion table; elsewhere it is a percentage
        if not is_text and all(map(NUMBER.fullmatch, cells)):
            table[column] = pd.to_numeric(table[column])
        elif not is_text and cells <= {"True", "False"} and not (table[column] == "").any():
            table[column] = table[column] == "True"
        else:
            table[column] = table[column].map(as_written)
    table.columns = names
    return table


def _as_text(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def as_written(cell: str) -> str:
    """Return the text that write_csv wrote into a cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def split_cells(line: str, separator: str) -> list[str]:
    """Split a line of a list at "," or ";" or a tab, quoted cells included, or at blanks (" ")."""
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def split_row(line: str, separator: str, count: int, wide: int) -> list[str]:
    """Split a line into `count` cells, of which number `wide` may hold separators; [] if there are fewer."""
    after = count - 1 - wide
    if separator == " ":  # not joined again from words: several blanks stay several
        *cells, rest = line.split(maxsplit=wide) or [""]
        cells += rest.rsplit(maxsplit=after)
    else:
        cells = split_cells(line, separator)
        end = len(cells) - after
        cells = [*cells[:wide], separator.join(cells[wide:end]), *cells[end:]]
    return cells if len(cells) == count else []


def squeezed(word: str) -> str:
    """Spell a column's name in one way: "Class_Name" and "class name" are "classname"."""
    return re.sub(r"[\W_]", "", word).lower()


def find_header(line: str, known: Collection[str]) -> tuple[str, list[str]] | None:
    """Return the separator and the squeezed names of a header of two or more known columns; None if the line is no such header."""
    for separator in (*SEPARATORS, " "):
        heads = [squeezed(cell) for cell in split_cells(line, separator)]
        if len(heads) > 1 and set(heads) <= set(known):
            return separator, heads
    return None
