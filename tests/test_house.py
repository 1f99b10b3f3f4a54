"""The library's structure: rooms are small enough to find a file in, and notebooks have a single entry point."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import m2clip_lib

LIBRARY = Path(m2clip_lib.__file__).parent
FILES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((LIBRARY.parent / "notebooks").glob("*.ipynb"))


def test_no_room_has_more_than_14_files():
    rooms = {folder: sorted(folder.glob("*.py")) for folder in {file.parent for file in FILES}}
    assert {room.name: len(files) for room, files in rooms.items() if len(files) > 15} == {}  # 14 files and the room's __init__


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(LIBRARY).as_posix())
def test_every_file_has_a_docstring_and_at_most_300_lines(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


def test_every_exported_name_resolves():
    for name in m2clip_lib.__all__:
        assert getattr(m2clip_lib, name) is not None
        assert name in dir(m2clip_lib)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        m2clip_lib.nothing  # noqa: B018


def test_importing_the_library_loads_nothing_heavy():
    code = "import sys, m2clip_lib; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_needs_at_most_five_import_lines(notebook):
    lines = [line for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code" for line in cell["source"]]
    assert sum(line.startswith(("import ", "from ")) for line in lines) <= 5
    assert sum("m2clip_lib" in line for line in lines if line.startswith(("import ", "from "))) <= 3


LINUX, WINDOWS, MAC = "linux", "win32", "darwin"
PROJECT = tomllib.loads((LIBRARY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("system", "processor", "packages"),
    [
        (LINUX, "x86_64", ["decord"]),
        (WINDOWS, "AMD64", ["decord"]),
        (LINUX, "aarch64", ["decord2"]),
        (MAC, "arm64", []),  # decord2's wheels need macOS 14, and no marker that pip understands says so
        (MAC, "x86_64", []),  # neither has a wheel
        (WINDOWS, "ARM64", []),
        (LINUX, "ppc64le", []),
    ],
)
def test_decord_or_its_stand_in_is_installed_where_it_has_a_wheel(system, processor, packages):
    found = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("decord")]
    here = {"sys_platform": system, "platform_machine": processor}
    assert [one.name for one in found if one.marker.evaluate(here)] == packages


def test_no_dependency_asks_for_the_release_of_the_kernel():
    """pip 24 stops at kernels whose release is no version of Python's kind, such as 5.15.0-91-generic."""
    assert "platform_release" not in (LIBRARY.parent / "pyproject.toml").read_text(encoding="utf-8")


def test_torchcodec_is_an_extra_and_every_pinned_version_is_allowed():
    extras = PROJECT["optional-dependencies"]
    assert [name for name, lines in extras.items() if any(line.startswith("torchcodec") for line in lines)] == ["torchcodec"]
    lines = (LIBRARY.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    wanted = [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]]
    versions = {one.name: pinned.get(one.name.lower().replace("_", "-")) for one in wanted}
    assert [name for name, version in versions.items() if version is None] == ["playwright"]
    assert [one.name for one in wanted if versions[one.name] and not one.specifier.contains(versions[one.name])] == []
