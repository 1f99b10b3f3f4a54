"""The library's structure: rooms are small enough to find a file in, and notebooks have a single entry point."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

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
