"""Commands in locales and terminals that are not UTF-8: names of folders stay what they are, and printing never raises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


SAY_A_FOLDER = "import os, sys; from m2clip_lib.cli import main; main(['train', '--resume', os.listdir(sys.argv[1])[0]])"


@pytest.mark.parametrize("name", ["滑雪", "plongée"])
@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        (C_LOCALE, "ascii"),
        ({"PYTHONIOENCODING": "ascii"}, "ascii"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"LC_ALL": "C.UTF-8"}, "utf-8"),
    ],
)
def test_a_folder_is_named_right_in_any_locale_and_terminal(tmp_path, name, environment, encoding):
    (tmp_path / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    command = [sys.executable, "-c", SAY_A_FOLDER, str(tmp_path)]
    done = subprocess.run(command, env=kept | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.rstrip() == f"m2clip: --resume {name}: give auto or never".encode(encoding, "backslashreplace")


def test_files_written_in_another_locale_are_utf_8(tmp_path):
    for name in ("滑雪", "plongée"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.mp4").touch()
    code = (
        "import sys; from pathlib import Path; import pandas as pd; from m2clip_lib.csvfiles import write_csv;"
        "from m2clip_lib.files import *; from m2clip_lib.data.listing.folders import list_folder;"
        "names = ['\\u6ed1\\u96ea', 'plong\\u00e9e']; write_json(Path(sys.argv[1], 'a.json'), names);"
        "write_csv(Path(sys.argv[1], 'a.csv'), pd.DataFrame({'class_name': names}));"
        "assert read_json(Path(sys.argv[1], 'a.json')) == names; assert set(list_folder(Path(sys.argv[1])).class_names) == set(names)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | C_LOCALE | {"PYTHONPATH": str(ROOT)}, check=True)
    assert "plongée" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").split() == ["class_name", "滑雪", "plongée"]
