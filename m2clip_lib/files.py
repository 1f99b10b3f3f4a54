"""Files, in four parts: atomic writing and disk space, sealed safetensors files, digests, and text, which is UTF-8 on every machine."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from m2clip_lib.errors import UserError

_ELSEWHERE = "keep results, checkpoints and data elsewhere (M2CLIP_RESULTS, M2CLIP_CHECKPOINTS, M2CLIP_DATA)"
_AGAIN = f"the previous file is untouched; free some space, or {_ELSEWHERE}, then run the same command again"
_STORAGE = {  # what the system says -> what is wrong, and what to do
    os.strerror(errno.ENOSPC): f"the disk is full; {_AGAIN}",
    os.strerror(errno.EDQUOT): f"the disk quota is used up; {_AGAIN}",
    os.strerror(errno.EROFS): f"the file system is read-only; {_ELSEWHERE}",
    os.strerror(errno.EACCES): f"permission denied; give this user access to it, or {_ELSEWHERE}",
    os.strerror(errno.EPERM): f"operation not permitted; give this user access to it, or {_ELSEWHERE}",
    os.strerror(errno.EEXIST): "a file is where a folder has to be; give another place",
    os.strerror(errno.ENOTDIR): "a file is where a folder has to be; give another place",
    os.strerror(errno.EISDIR): "is a folder; give the name of a file",
    os.strerror(errno.ENAMETOOLONG): "the name is too long; give a shorter one",
    "Could not determine home directory": "set HOME to a folder, or give paths that do not begin with ~",
}


def storage_error(error: Exception, place: str | Path = "") -> UserError | None:
    """Explain an error of the storage: full, read-only, not permitted. Returns: None for any other error.

    Libraries only quote the system in errors of their own, so its words count, not the type. place: default: what the error names.
    """
    told = next((told for said, told in _STORAGE.items() if said in f"{getattr(error, 'strerror', '')} {error}"), "")
    place = str(place or getattr(error, "filename", None) or ("" if isinstance(error, OSError) else error)).rstrip(".")
    return UserError(f"{place}: {told}" if place else told) if told else None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place.

    Raises: UserError when the disk is full, or nothing may be written there; the old file is intact, and no temporary file is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _force_to_disk(temporary)
        temporary.replace(path)
        _force_to_disk(path.parent)  # the rename itself
    except Exception as error:
        if explained := storage_error(error, path):
            raise explained from error
        raise
    finally:
        with contextlib.suppress(OSError):  # where nothing may be written, there is nothing to remove
            temporary.unlink()


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network and FUSE folders cannot be flushed; their files can
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, lambda file: file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"))


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check, before long work, that `needed` bytes fit into the folder. Raises: UserError with both figures."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        short = f"needs about {show_bytes(needed)} in {folder}, {show_bytes(free)} are free"
        raise UserError(f"{what}: {short}; free some space or choose another folder")


def show_bytes(count: float) -> str:
    """1536 -> "1.5 KB" (1 KB = 1024 bytes)."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


_ZEROS = "0" * 64
_EMPTY = f'"sha256":"{_ZEROS}"'.encode()  # in another value of the header the quotes would be escaped
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class DamagedFile(Exception):  # noqa: N818 (it says what happened)
    """The bytes differ from those that were written."""


def seal(tensors: dict, metadata: dict[str, str]) -> bytes:
    """Make a safetensors file whose metadata carries the SHA-256 of all its bytes (hashed with zeros in place of the digest)."""
    from safetensors.torch import save  # late: child processes that only read videos start without torch

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = _in_order(save(plain, metadata | {"sha256": _ZEROS}))
    return content.replace(_EMPTY, f'"sha256":"{hashlib.sha256(content).hexdigest()}"'.encode(), 1)


def check_seal(content: bytes) -> None:
    """Check a sealed file. Raises: DamagedFile when the bytes differ from those that were sealed."""
    found = _SEAL.search(_header(content))
    if found is None:
        raise DamagedFile("its header holds no digest")
    blank = content[: found.start()] + _EMPTY + content[found.end() :]
    if hashlib.sha256(blank).hexdigest().encode() != found[1]:
        raise DamagedFile("its content does not match its digest")


def open_sealed(path: Path) -> tuple[dict, dict[str, str]]:
    """Read the tensors and the metadata of a sealed file. Raises: DamagedFile."""
    from safetensors.torch import load

    check_seal(content := Path(path).read_bytes())
    try:
        return load(content), json.loads(_header(content)[8:])["__metadata__"]
    except (SafetensorError, ValueError) as error:
        raise DamagedFile(str(error)) from error


def _in_order(content: bytes) -> bytes:
    """Sort the header's keys: safetensors writes them in an order that changes from call to call, and equal states must be equal files."""
    old = _header(content)
    header = json.dumps(json.loads(old[8:]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[len(old) :]


def _header(content: bytes) -> bytes:
    return content[: 8 + int.from_bytes(content[:8], "little")]


NOT_INPUTS = (  # code that cannot change a step's result
    "__main__.py", "workbook.py", "kernels.py", "viz/report.py", "viz/panel.py", "viz/explorer.py", "viz/browser.py",
    "viz/browser_panel.py", "viz/moments_panel.py",
)  # fmt: skip


def code_digest(core: bool = False) -> str:
    """Hash the library's code that results depend on: when it changes, finished steps are run again.

    core: only the code that decides numbers, without figures, maps and timelines; finished trainings depend on this alone.
    """
    above = ("cli/", "viz/", "attention/", "curate/", "moments/")
    root, skipped = Path(__file__).parent, above if core else above[:1]
    facts = []
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.suffix in {".py", ".json", ".csv", ".safetensors"} and name not in NOT_INPUTS and not name.startswith(skipped):
            facts.append(f"{name} {file_sha256(file)}")
    return hash_texts(*facts)


def hash_texts(*parts: str) -> str:
    """Hash several texts with SHA-256."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def file_sha256(file: Path) -> str:
    """Hash the bytes of a file with SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


BLANKS = " \t"  # not str.strip's own set: a no-break space may belong to a file name


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return the non-blank lines, stripped, each with its number counted from 1. Raises: UserError as read_text."""
    lines = [(number, line.strip(BLANKS)) for number, line in enumerate(read_text(file).split("\n"), start=1)]
    return [(number, line) for number, line in lines if line]


def read_text(file: Path) -> str:
    """Read a text file as UTF-8, with or without byte order mark. Raises: UserError when it is missing or not UTF-8."""
    if not file.is_file():
        raise UserError(f"annotations: no such file: {file}; set its path in the data section of the experiment")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}: not UTF-8 (byte {error.start}, in line {line}: {error.reason}); save it as UTF-8") from error


def read_json(file: Path) -> object:
    """Parse a JSON file, in UTF-8. Raises: UserError naming the line that is not JSON."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
