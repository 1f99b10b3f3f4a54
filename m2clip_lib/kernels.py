"""Kernels that start at once: this interpreter's, forked from a process that has imported the slow libraries, once for all notebooks."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from m2clip_lib import paths

# What most notebooks import. None of it starts threads or asks for a GPU when it is imported, so it may be forked.
PRELOADED = ("ipykernel.kernelapp", "m2clip_lib.studies.ablate", "m2clip_lib.viz.plots")


class OwnKernel(AsyncKernelManager):
    """The kernel of this interpreter, whatever is installed under the notebook's kernel name: it may be dead, or of another environment."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.provisioner = _Forking(parent=self, kernel_spec=self.kernel_spec, kernel_id=self.kernel_id)

    @property
    def kernel_spec(self) -> KernelSpec:
        """This interpreter's."""
        return KernelSpec(**get_kernel_dict())


class _Forking(LocalProvisioner):
    """Starts a kernel in a process of Python's fork server, where jupyter_client would start a new interpreter."""

    async def launch_kernel(self, cmd: list[str], **settings: object) -> KernelConnectionInfo:
        self.cwd = settings.get("cwd") or Path.cwd()
        self.process = _Process(cmd, settings["env"], str(self.cwd))
        self.pid = self.process.pid
        return self.connection_info


class _Process:
    """A forked kernel, with the methods of subprocess.Popen that a provisioner calls. Signals reach the processes that it started, too."""

    stdin = stdout = stderr = None

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: str):
        multiprocessing.set_forkserver_preload([*PRELOADED])
        main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")  # else the child would run the user's script
        try:
            self.process = ForkServerProcess(target=_run, args=(list(command), dict(environment), folder))
            self.process.start()
        finally:
            sys.modules["__main__"] = main
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            own_group = os.getpgid(self.pid) == self.pid  # not yet while it starts
            (os.killpg if own_group else os.kill)(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(command: list[str], environment: dict[str, str], folder: str) -> None:
    """Become the kernel: a session of its own, which ends with the process that asked for it."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    importlib.reload(paths)  # it was imported under the environment of the fork server
    # What this kernel forks in turn comes from the same server, as multiprocessing means it to; Python 3.11 to 3.13 start another.
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running
    asked = multiprocessing.parent_process()
    threading.Thread(target=lambda: (asked.join(), os._exit(1)), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it, and may have been started with it blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # jupyter_client's launcher says this through the environment, which was read when ipykernel was imported
    sys.argv = [*command[command.index("-m") + 1 :], f"--IPKernelApp.parent_handle={os.getppid()}"]
    from ipykernel.kernelapp import launch_new_instance

    from m2clip_lib.experiment import set_threads

    set_threads(0)  # torch has read OMP_NUM_THREADS in the fork server
    launch_new_instance()
