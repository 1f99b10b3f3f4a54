"""Command lines in processes of their own, forked from one that has imported everything, which may take a new interpreter ten seconds."""

import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from m2clip_lib import paths


def start(*arguments: object, cwd: Path, log: Path, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """Start what `python ARGUMENTS` would. log: folder for its out.txt and err.txt."""
    process = ForkServerProcess(target=_run, args=([*map(str, arguments)], dict(os.environ) | (environment or {}), str(cwd), str(log)))
    process.start()
    return process


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run what `python ARGUMENTS` would."""
    with tempfile.TemporaryDirectory() as log:
        process = start(*arguments, cwd=cwd, log=Path(log))
        process.join()
        out, err = (Path(log, name).read_text(encoding="utf-8") for name in ("out.txt", "err.txt"))
        return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def _run(arguments: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        file = os.open(Path(log) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    importlib.reload(paths)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
