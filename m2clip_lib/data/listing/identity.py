"""Which paths are one video: links, hard links and byte copies are the same, whatever they are called."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from pathlib import Path

HEAD = 65536  # bytes; files of one size that differ here are not read to their end
LEAST = 1024  # bytes of a file that can be a video: empty and broken ones are not copies of one another


def identities(paths: Iterable[Path], copies: bool) -> list[Hashable]:
    """A key for each path, equal for paths of one file, and with `copies` also for files with the same bytes.

    For that, only files of the same size are read, and most of them no further than their beginning.
    """
    paths = list(paths)
    keys: list[Hashable] = real_paths(paths)
    by_size: dict[int, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, path in enumerate(paths):
        try:
            stat = path.stat()
        except (OSError, ValueError):  # missing, or a name that no file can have: the scan gives the reason
            continue
        keys[i] = (stat.st_dev, stat.st_ino)
        if copies and stat.st_size >= LEAST and path.is_file():
            by_size[stat.st_size][keys[i]].append(i)
    for files in by_size.values():
        for same in _equal(files, lambda i: _digest(paths[i], HEAD)):
            for equal in _equal(same, lambda i: _digest(paths[i], -1)):
                first = next(iter(equal))
                for rows in equal.values():
                    for i in rows:
                        keys[i] = first
    return keys


def _equal(files: dict[Hashable, list[int]], mark: Callable[[int], Hashable]) -> list[dict[Hashable, list[int]]]:
    """The groups of two or more files with the same mark."""
    if len(files) < 2:
        return []
    groups: dict[Hashable, dict] = defaultdict(dict)
    for key, rows in files.items():
        groups[mark(rows[0])][key] = rows
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: Path, length: int) -> Hashable:
    """Digest of the first bytes of a file (-1: all); a file that cannot be read equals no other."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(length)).digest() if length > 0 else hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path


def real_paths(paths: Iterable[Path]) -> list[Path]:
    """Where each path leads, links followed. A folder is looked up once: a dataset has many videos in few folders."""

    @cache
    def real(path: Path) -> Path:
        try:
            return Path(os.path.realpath(path))
        except ValueError:  # a name that no file can have: the scan gives the reason
            return path

    # is_symlink would raise for a name that is too long
    return [real(path) if os.path.islink(path) else real(path.parent) / path.name for path in paths]  # noqa: PTH114
