"""Forked kernels: they see the environment of now, and end with the process that asked for them."""

import asyncio
import os
import select
import signal
import subprocess
import sys

import pytest

from m2clip_lib.kernels import OwnKernel

START = """
import asyncio, signal
from m2clip_lib import kernels
kernels.PRELOADED = ("ipykernel.kernelapp",)
async def start():
    kernel = kernels.OwnKernel()
    await kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    await client.wait_for_ready(60)
    print(kernel.provisioner.pid, flush=True)
asyncio.run(start())
signal.pause()
"""


async def answer(code: str) -> str:
    """What a kernel prints."""
    kernel, printed = OwnKernel(), []
    await kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    try:
        await client.wait_for_ready(60)
        await client.execute_interactive(code, output_hook=lambda message: printed.append(message["content"].get("text", "")))
    finally:
        client.stop_channels()
        await kernel.shutdown_kernel(now=True)
    assert not await kernel.is_alive()
    return "".join(printed)


def test_a_kernel_sees_folder_and_environment_of_now_although_the_fork_server_is_older(tmp_path, monkeypatch):
    code = "import os; from m2clip_lib import paths; print(os.getcwd(), paths.RESULTS, __import__('multiprocessing').current_process().pid)"
    for name in ("one", "two"):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setenv("M2CLIP_RESULTS", str(place / "results"))
        found = asyncio.run(answer(code)).split()
        assert found[:2] == [str(place), str(place / "results")]
        assert int(found[2]) != os.getpid()


@pytest.mark.slow
def test_a_kernel_ends_with_the_process_that_asked_for_it(tmp_path):
    """As one that jupyter_client starts; a training in it would go on unseen."""
    process = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    kernel = os.pidfd_open(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for_end(kernel)
    process.stdout.close()


def wait_for_end(descriptor: int) -> bool:
    """Whether a process ends within a minute."""
    return bool(select.select([descriptor], [], [], 60)[0])


def test_what_a_kernel_forks_comes_from_the_same_server():
    """Otherwise notebook 05 waits for a second one that imports torch again."""
    code = "import os, multiprocessing as m; print(m.get_context('forkserver').Pool(1).apply(os.getppid) == os.getppid())"
    assert asyncio.run(answer(code)).split() == ["True"]
