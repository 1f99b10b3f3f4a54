"""What pip, conda and make install: the same packages, and every file that the library opens."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from m2clip_lib import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_conda_takes_the_dependencies_of_pyproject_and_the_tested_versions():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, with_pip = environment["dependencies"]
    assert environment["name"] == "m2clip"
    assert with_pip == {"pip": ["-c constraints.txt", "-e ."]}
    (python,) = [one.partition("=")[2] for one in conda if one.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert "pip" in conda


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith(("tests/", "results/sample/")) and (paths.ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((paths.ROOT / name).read_bytes())
    code = "import sys; from setuptools import build_meta; out = sys.argv[1]; build_meta.build_wheel(out); build_meta.build_sdist(out)"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, check=True)
    return out


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    library = paths.ROOT / "m2clip_lib"
    assert names == {
        f"m2clip_lib/{file.relative_to(library).as_posix()}" for file in library.rglob("*.*") if "__pycache__" not in file.parts
    }


def test_the_sdist_holds_what_the_workbook_needs(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["configs/config.py", "constraints.txt", "environment.yml", "Makefile", "train.py", "eval.py", "LICENSE", "docs/data.md"]
    assert set(needed) <= names
    assert {f"notebooks/{file.name}" for file in (paths.ROOT / "notebooks").glob("*.ipynb")} <= names


@pytest.mark.slow
def test_the_wheel_brings_what_the_library_opens(built, tmp_path):
    """Unpacked as pip does, and used outside the repository."""
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = """
import sys

sys.path.insert(0, sys.argv[1])
from m2clip_lib import load_backbone, published_costs
from m2clip_lib.viz.style import TEMPLATES

print(load_backbone("demo").image_size, len(published_costs("Kinetics-400")) > 0, TEMPLATES.get_template("report.html").name)
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "64 True report.html\n", done.stderr
