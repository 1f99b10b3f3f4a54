"""Safetensors files that notice a flipped or a missing byte: the digest of the whole file stands in its own header."""

import hashlib
import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_EMPTY = b'"sha256":"' + b"0" * 64 + b'"'  # in another value of the header the quotes would be escaped
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class DamagedFile(Exception):  # noqa: N818 (it says what happened)
    """The bytes are not those that were written."""


def seal(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose metadata carries the SHA-256 of all its bytes (counted with zeros in the digest's place)."""
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata | {"sha256": "0" * 64})
    content = _in_order(content)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(_EMPTY, b'"sha256":"' + digest + b'"', 1)


def check_seal(content: bytes) -> None:
    """Raises: DamagedFile unless these are the bytes that were sealed."""
    found = _SEAL.search(_header(content))
    if found is None:
        raise DamagedFile("its header holds no digest")
    blank = content[: found.start()] + _EMPTY + content[found.end() :]
    if hashlib.sha256(blank).hexdigest().encode() != found[1]:
        raise DamagedFile("its content does not match its digest")


def open_sealed(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """Tensors and bytes of a sealed file. Raises: DamagedFile."""
    content = Path(path).read_bytes()
    check_seal(content)
    try:
        return load(content), content
    except SafetensorError as error:
        raise DamagedFile(str(error)) from error


def _in_order(content: bytes) -> bytes:
    """The header's keys sorted: safetensors writes them in an order that changes from call to call, and the same state is the same file."""
    old = _header(content)
    header = json.dumps(json.loads(old[8:]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[len(old) :]


def _header(content: bytes) -> bytes:
    return content[: 8 + int.from_bytes(content[:8], "little")]
