"""Freed memory is reused without requesting it from the kernel again."""

import ctypes
import resource
import sys

import forked
import pytest

from m2clip_lib import experiment as heap


def faults(keep: bool) -> tuple[int, int]:
    """Count the page faults of allocating, writing and freeing 64 MB, the first and the second time."""
    if keep:
        assert heap.keep_freed_memory()
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
    counts = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(2**26)
        libc.memset(block, 1, 2**26)
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return counts[0], counts[1]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.parametrize("keep", [False, True])
def test_a_freed_block_is_reused_without_page_faults(keep, tmp_path):
    """Runs in a separate process, because the setting cannot be undone."""
    done = forked.run(__file__, "keep" if keep else "as it is", cwd=tmp_path)
    first, second = map(int, done.stdout.split())
    assert first > 1000
    assert second < 100 if keep else second > 1000


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    assert not heap.keep_freed_memory()


if __name__ == "__main__":
    print(*faults(keep=sys.argv[1] == "keep"))
