"""The house: rooms small enough to find a file in, and one door for the notebooks."""

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
    assert {room.name: len(files) for room, files in rooms.items() if len(files) > 15} == {}  # 14 and the room's __init__


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(LIBRARY).as_posix())
def test_every_file_says_what_it_is_and_fits_on_300_lines(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


def test_every_name_of_the_door_can_be_had():
    for name in m2clip_lib.__all__:
        assert getattr(m2clip_lib, name) is not None
        assert name in dir(m2clip_lib)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        m2clip_lib.nothing  # noqa: B018


def test_the_door_loads_nothing_before_it_is_asked():
    code = "import sys, m2clip_lib; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_imports_what_it_needs_in_five_lines(notebook):
    lines = [line for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code" for line in cell["source"]]
    assert sum(line.startswith(("import ", "from ")) for line in lines) <= 5
    assert sum("m2clip_lib" in line for line in lines if line.startswith(("import ", "from "))) <= 3
