"""Fixtures: a headless Chromium, and a real JupyterLab on copies of the notebooks. Screenshots are kept in $M2CLIP_SCREENSHOTS."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from m2clip_lib import paths

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser installs it")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {  # JupyterLab's: render every cell of a page, and fetch nothing from the network
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="session")
def screenshots() -> Path:
    folder = Path(os.environ.get("M2CLIP_SCREENSHOTS") or "/tmp/m2clip-screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def browser(trained):
    """Start Chromium only after the workbook has run: the event loops of playwright and papermill conflict."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: make test-browser installs Debian's where permitted")
    with playwright.sync_playwright() as driver:
        # playwright makes a new profile each time; no sandbox, because tests run as root in containers.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])
        yield chromium
        chromium.close()


COUNT_MODEL_CALLS = """
from pathlib import Path

from m2clip_lib.moments import windows

def counted(*given, scored=windows.predict, **options):
    with Path({file!r}).open("a") as file:
        file.write("x")
    return scored(*given, **options)

windows.predict = counted
"""


@pytest.fixture(scope="session")
def lab_root(tmp_path_factory) -> Path:
    """The folder that JupyterLab shows. A character is added to its file model_calls when notebook 11 scores a video's windows."""
    root = tmp_path_factory.mktemp("lab")
    (root / "model_calls").touch()
    return root


@pytest.fixture(scope="session")
def lab(trained, lab_root):
    """Start a JupyterLab on copies of the notebooks that open the trained run "tiny"; lab(name) returns a notebook's address."""
    root = lab_root
    for file in paths.NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(file, as_version=4)
        for cell in notebook.cells:
            cell.source = cell.source.replace('EXPERIMENT: str = "demo"', 'EXPERIMENT: str = "tiny"')
            if file.name.startswith("03"):  # a separate run, long enough for the curves to grow
                cell.source = cell.source.replace('RUN: str = ""', 'RUN: str = "live"').replace(
                    "OVERRIDES: list = []", 'OVERRIDES: list = ["train.epochs=4"]'
                )
        if file.name.startswith("11"):
            notebook.cells.insert(0, nbformat.v4.new_code_cell(COUNT_MODEL_CALLS.format(file=str(root / "model_calls"))))
        nbformat.write(notebook, root / file.name)
    settings = root / "settings"
    for name, values in SETTINGS.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {name: str(root / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--ServerApp.port_retries=0"]
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | own | {"JUPYTERLAB_SETTINGS_DIR": str(settings)}, stdout=log, stderr=log, cwd=root
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, root / "server.log")
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)  # the server gives no other sign that it listens
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
