"""Text files that others wrote: lists, names, prompts. Read as UTF-8, with or without byte order mark, whatever ends their lines."""

import hashlib
import json
from pathlib import Path

from m2clip_lib.errors import UserError

BLANKS = " \t"  # not str.strip's own set: a no-break space may belong to a file name


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that say something, each with its number from 1, without blanks at either end.

    Raises: UserError when the file is missing or is not UTF-8.
    """
    lines = [(number, line.strip(BLANKS)) for number, line in enumerate(read_text(file).split("\n"), start=1)]
    return [(number, line) for number, line in lines if line]


def read_text(file: Path) -> str:
    """The whole file, lines ending in "\\n". Raises: UserError when the file is missing or is not UTF-8."""
    if not file.is_file():
        raise UserError(f"annotations: no such file: {file}; set its path in the data section of the experiment")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from error


def read_json(file: Path) -> object:
    """Raises: UserError naming the line that is not JSON."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error


def file_sha256(file: Path) -> str:
    """Digest of the bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def is_number(text: str) -> bool:
    """Whether the text is a whole number in plain digits."""
    return text.isascii() and text.isdigit()
