"""The notebook sources are clean, short and only call the library; and papermill's own command line can run them."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from m2clip_lib import paths
from m2clip_lib.kernels import OwnKernel

pytestmark = pytest.mark.xdist_group("trained")
NOTEBOOKS = sorted((Path(paths.__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
def file(request) -> Path:
    return request.param


def code_cells(file: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def parameter_cell(file: Path) -> nbformat.NotebookNode:
    tagged = [cell for cell in code_cells(file) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    return tagged[0]


def test_the_required_notebooks_are_five_and_in_order():
    numbers = [file.name[:2] for file in NOTEBOOKS]
    assert [number for number in numbers if "00" < number < "10"] == ["01", "02", "03", "04", "05"]


def test_sources_carry_no_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_a_notebook_is_short(file):
    cells = nbformat.read(file, as_version=4).cells
    assert len(cells) <= 30
    assert sum(bool(line.strip()) for cell in code_cells(file) for line in cell.source.splitlines()) <= 100


def test_words_that_hold_for_every_experiment_are_not_about_the_demonstration(file):
    """Before, "On the demo, the static adapter can only guess" stood in the ablations of every experiment."""
    prose = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "markdown"]
    text = "\n".join(line for source in prose for line in source.splitlines() if not line.startswith("|"))
    assert "demo" not in re.sub("`[^`]*`", "", text).lower()  # commands may name it


def test_a_notebook_only_calls_the_library(file):
    for cell in code_cells(file):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)]
        assert "sys.path" not in cell.source
        assert "chdir" not in cell.source


def test_parameters_are_typed_literals_that_papermill_understands(file):
    """Papermill silently drops or truncates what it does not understand: every line must come back as Python reads it."""
    lines = ast.parse(parameter_cell(file).source).body
    assert all(isinstance(line, ast.AnnAssign) for line in lines)
    expected = {line.target.id: (line.annotation.id, ast.literal_eval(line.value)) for line in lines}
    found = papermill.inspect_notebook(str(file))
    assert {name: (info["inferred_type_name"], ast.literal_eval(info["default"])) for name, info in found.items()} == expected
    assert all(type(value).__name__ == kind for kind, value in expected.values())
    assert all(info["help"] for info in found.values())  # the comment with meaning or unit


def test_every_notebook_takes_experiment_run_and_overrides(file):
    assert {"EXPERIMENT", "RUN", "OVERRIDES"} <= papermill.inspect_notebook(str(file)).keys()


def test_a_notebook_opens_its_own_step_and_ends_with_its_record(file):
    cells = code_cells(file)
    assert f'step="{file.stem}"' in "\n".join(cell.source for cell in cells)
    last = [node for node in ast.walk(ast.parse(cells[-1].source)) if isinstance(node, ast.Call)]
    assert "run.record" in {ast.unparse(node.func) for node in last}
    assert sum(cell.source.count("run.record(") for cell in cells) == 1


def test_a_notebook_opens_with_a_question_and_links_to_notebooks_that_exist(file):
    text = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "markdown"]
    assert "**Question: " in text[0]
    assert "| reads | writes | time (demo) | needs |" in text[0]
    links = [part.partition(")")[0] for part in "\n".join(text).split("](")[1:]]
    assert all((file.parent / link).is_file() for link in links)


def papermill_command(notebook: Path, output: Path, *parameters: str) -> subprocess.CompletedProcess:
    """Run papermill's own command line from a folder outside the repository."""
    pairs = [word for parameter in parameters for word in ("-p", *parameter.split("=", 1))]
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", *pairs]
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir()
    return subprocess.run(command, cwd=elsewhere, env=dict(os.environ), capture_output=True, text=True, timeout=300)


def pictures(notebook: Path) -> int:
    """Number of pictures in an executed notebook."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_papermill_alone_runs_the_first_notebook_from_anywhere(workspace, monkeypatch):
    """Starts a kernel, writes and scans 48 synthetic videos: about 15 s."""
    monkeypatch.setenv("MPLBACKEND", "Agg")  # as in many containers: before, the executed notebook held no picture
    done = papermill_command(NOTEBOOKS[1], workspace / "out.ipynb", "EXPERIMENT=tiny", "RUN=alone", "GRID_CLASSES=3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((workspace / "results" / "alone" / "01_data_preparation.json").read_text())["videos"] == 48
    assert (workspace / "results" / "alone" / "figures" / "clips.png").is_file()
    assert pictures(workspace / "out.ipynb") == 3
    assert not list((workspace / "elsewhere").iterdir())  # nothing is written to the working directory


def test_papermill_takes_a_first_look_at_a_drawn_video_and_an_own_one(workspace, video_folder):
    """Runs the optional notebook before anything is prepared; its CLIP has random weights."""
    own = next(video_folder.rglob("*.mp4"))
    given = {"EXPERIMENT": "tiny", "VIDEO": str(own), "LABELS": "a door, a window"}
    papermill.execute_notebook(NOTEBOOKS[0], workspace / "out.ipynb", given, kernel_manager_class=OwnKernel, progress_bar=False)
    found = json.loads((workspace / "results" / "tiny" / "00_first_look.json").read_text())
    assert found["colour"] in ("red", "green", "blue", "yellow")
    assert found["forwards"] == pytest.approx(found["backwards"], abs=1)  # frames are averaged; compression differs a little
    text = (workspace / "out.ipynb").read_text()
    assert "a window" in text


def test_papermill_runs_the_attention_explorer(trained, workspace):
    """Runs the optional notebook, including its widget, on a copy of the finished run."""
    for name in ("results", "checkpoints", "data"):
        shutil.copytree(trained[0] / name, workspace / name, dirs_exist_ok=True)
    (explorer,) = [file for file in NOTEBOOKS if file.stem == "10_attention_explorer"]
    papermill.execute_notebook(
        explorer, workspace / "out.ipynb", {"EXPERIMENT": "tiny"}, kernel_manager_class=OwnKernel, progress_bar=False
    )
    for name in ("hit_relevance.png", "hit_relevance.mp4", "hit_branches.png", "hit_words.png", "mistake.png"):
        assert (workspace / "results" / "tiny" / "figures" / name).is_file()
    assert json.loads((workspace / "results" / "tiny" / "10_attention_explorer.json").read_text())["block"] == 3


def test_papermill_compares_two_runs(trained, workspace):
    """Runs the optional notebook on the trainings of the study, with its widget."""
    for name in ("results", "checkpoints", "data"):
        shutil.copytree(trained[0] / name, workspace / name, dirs_exist_ok=True)
    (notebook,) = [file for file in NOTEBOOKS if file.stem == "12_compare_runs"]
    given = {"EXPERIMENT": "tiny", "FIRST": "tiny", "SECOND": "tiny/ablations/none-seed0"}
    papermill.execute_notebook(notebook, workspace / "out.ipynb", given, kernel_manager_class=OwnKernel, progress_bar=False)
    runs = pd.read_csv(workspace / "results" / "tiny" / "tables" / "runs.csv").run
    assert {"tiny", "tiny/ablations/none-seed0", "tiny/ablations/full-seed1"} <= set(runs)


@pytest.mark.slow
def test_papermill_fills_the_browser_with_pages_of_thumbnails(trained, workspace):
    """Runs the optional notebook, with its widgets, and finds what it saves."""
    for name in ("results", "checkpoints", "data"):
        shutil.copytree(trained[0] / name, workspace / name, dirs_exist_ok=True)
    (notebook,) = [file for file in NOTEBOOKS if file.stem == "11_browser"]
    papermill.execute_notebook(
        notebook, workspace / "out.ipynb", {"EXPERIMENT": "tiny", "MAP": True}, kernel_manager_class=OwnKernel, progress_bar=False
    )
    for name in ("suspects", "mistakes", "unsure", "map"):
        assert (workspace / "results" / "tiny" / "figures" / f"browser_{name}.png").is_file()
    assert json.loads((workspace / "results" / "tiny" / "11_browser.json").read_text())["videos"] == 48
    assert len(list((workspace / "data" / "tiny" / "thumbnails").glob("*.jpg"))) == 48
