"""Paths: environment variables override the defaults, and the working directory matters only to a library away from its clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2clip_lib import paths

NAMES = ("ROOT", "CONFIG", "NOTEBOOKS", "DATA", "RESULTS", "CHECKPOINTS")
REPOSITORY = Path(__file__).parent.parent


def places(cwd: Path, **environment: str) -> dict[str, Path]:
    """Return the paths in a new process, because the module reads the environment only once, when it is imported."""
    code = f"import json; from m2clip_lib import paths; print(json.dumps({{n: str(getattr(paths, n)) for n in {NAMES}}}))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("M2CLIP_")}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=clean | {"PYTHONPATH": str(REPOSITORY)} | environment, check=True, capture_output=True
    )
    return {name: Path(value) for name, value in json.loads(out.stdout).items()}


def test_defaults_are_in_the_repository_wherever_python_is_started(tmp_path):
    found = places(tmp_path)
    assert found == {
        "ROOT": REPOSITORY,
        "CONFIG": REPOSITORY / "configs" / "config.py",
        "NOTEBOOKS": REPOSITORY / "notebooks",
        "DATA": REPOSITORY / "data",
        "RESULTS": REPOSITORY / "results",
        "CHECKPOINTS": REPOSITORY / "checkpoints",
    }


def test_a_library_away_from_its_clone_takes_the_clone_it_is_run_in(tmp_path):
    site, clone = tmp_path / "site", tmp_path / "clone"
    (site / "m2clip_lib").mkdir(parents=True)
    for name in ("__init__.py", "paths.py"):
        shutil.copy(REPOSITORY / "m2clip_lib" / name, site / "m2clip_lib")
    (clone / "notebooks").mkdir(parents=True)
    (clone / "configs").mkdir()
    (clone / "configs" / "config.py").touch()
    for cwd, root in ((clone, clone), (clone / "notebooks", clone), (tmp_path, site)):  # kernels start in notebooks/
        assert places(cwd, PYTHONPATH=str(site))["ROOT"] == root


def test_each_variable_moves_its_own_path(tmp_path):
    moved = {f"M2CLIP_{name}": str(tmp_path / name) for name in ("CONFIG", "DATA", "RESULTS", "CHECKPOINTS")}
    found = places(tmp_path, **moved)
    assert {name: found[name] for name in ("CONFIG", "DATA", "RESULTS", "CHECKPOINTS")} == {
        name: tmp_path / name for name in ("CONFIG", "DATA", "RESULTS", "CHECKPOINTS")
    }
    assert found["ROOT"] == REPOSITORY


def test_the_root_variable_moves_paths_without_a_variable_of_their_own(tmp_path):
    found = places(tmp_path, M2CLIP_ROOT=str(tmp_path / "r"), M2CLIP_DATA=str(tmp_path / "d"))
    assert found["RESULTS"] == tmp_path / "r" / "results"
    assert found["NOTEBOOKS"] == tmp_path / "r" / "notebooks"
    assert found["DATA"] == tmp_path / "d"


def test_variable_may_use_the_home_folder_and_empty_means_unset(tmp_path):
    found = places(tmp_path, M2CLIP_DATA="~/videos", M2CLIP_RESULTS="", HOME=str(tmp_path / "home"))
    assert found["DATA"] == tmp_path / "home" / "videos"
    assert found["RESULTS"] == REPOSITORY / "results"


def test_a_relative_variable_becomes_absolute_on_import(tmp_path):
    assert places(tmp_path, M2CLIP_DATA="here")["DATA"] == tmp_path / "here"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("data/videos", paths.ROOT / "data" / "videos"), ("/mnt/videos", Path("/mnt/videos")), ("~/videos", Path.home() / "videos")],
)
def test_paths_of_the_config_file_resolve_against_the_root(written, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.resolve(written) == meant


def test_messages_show_paths_inside_the_root_relative_to_it():
    assert paths.shown(paths.ROOT / "data" / "a") == str(Path("data") / "a")
    assert paths.shown(Path("/elsewhere/a")) == "/elsewhere/a"
