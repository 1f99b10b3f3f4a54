"""The notebook runner on small notebooks: parameters are strict, finished steps are skipped, failures are shown and kept."""

import json
import os
import sys
from types import SimpleNamespace

import nbformat
import pytest

from m2clip_lib import paths, workbook
from m2clip_lib.config import load_experiment
from m2clip_lib.errors import UserError
from m2clip_lib.runs import Run
from m2clip_lib.studies import jobs
from m2clip_lib.studies.studies import load_studies
from m2clip_lib.workbook import NotebookFailed, Step, declared_parameters, execute_step, is_finished, plan_steps, run_workbook

COMMON = 'EXPERIMENT: str = "tiny"\nRUN: str = ""\nOVERRIDES: list = []\n'
FIRST = COMMON + "NUMBER: int = 1\nRATE: float = 0.5\n"
SECOND = COMMON + 'WORD: str = "one"\nNAMES: list = ["a"]\nFAST: bool = True\n'
WRITE = """
import json, os
from pathlib import Path
folder = Path(os.environ["M2CLIP_RESULTS"]) / RUN
output = folder / "{step}.txt"
output.write_text("{step}")
(folder / "{step}.json").write_text(json.dumps({{"outputs": [str(output)]}}))
print("wrote", {parameter})
"""


def write_notebook(name: str, parameters: str, *code: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"# {name}"), nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), paths.NOTEBOOKS / f"{name}.ipynb")


@pytest.fixture
def notebooks(workspace, monkeypatch):
    """Write notebooks for two steps and an optional one that the runner must skip; run.json exists already."""
    monkeypatch.setattr(paths, "NOTEBOOKS", workspace / "notebooks")
    paths.NOTEBOOKS.mkdir()
    write_notebook("01_first", FIRST, WRITE.format(step="01_first", parameter="NUMBER"))
    write_notebook("02_second", SECOND, WRITE.format(step="02_second", parameter="WORD"))
    write_notebook("10_optional", FIRST, "raise RuntimeError('never run')")
    Run.open("tiny", "", [], step="00_test")
    return paths.RESULTS / "tiny"


def plan(overrides=(), parameters=(), first="", only="") -> list[Step]:
    return plan_steps(load_experiment("tiny", overrides), "tiny", overrides, parameters, first, only)


def test_declared_parameters_have_names_and_types(notebooks):
    common = {"EXPERIMENT": "str", "RUN": "str", "OVERRIDES": "list"}
    assert declared_parameters(paths.NOTEBOOKS / "01_first.ipynb") == common | {"NUMBER": "int", "RATE": "float"}


def test_every_step_gets_the_parameters_it_declares(notebooks):
    first, second = plan(["train.lr=0.1"], ["NUMBER=3", "RATE=2", "WORD=two words", 'NAMES=["b", "c"]', "FAST=False"])
    common = {"EXPERIMENT": "tiny", "RUN": "tiny", "OVERRIDES": ["train.lr=0.1"]}
    assert first.parameters == common | {"NUMBER": 3, "RATE": 2}
    assert second.parameters == common | {"WORD": "two words", "NAMES": ["b", "c"], "FAST": False}


@pytest.mark.parametrize("text", ["NUMBR=3", "NUMBER", "=3", ""])
def test_a_parameter_that_no_notebook_declares_is_refused(notebooks, text):
    with pytest.raises(UserError, match=rf"-p {text}: no notebook of this run declares .*; declared: FAST, NAMES, NUMBER, RATE, WORD"):
        plan(parameters=[text])


def test_a_parameter_of_a_notebook_that_does_not_run_is_refused(notebooks):
    with pytest.raises(UserError, match="no notebook of this run declares 'WORD'; declared: NUMBER, RATE"):
        plan(parameters=["WORD=two"], only="01")


@pytest.mark.parametrize(
    "text", ["NUMBER=three", "NUMBER=1.5", "NUMBER=true", "NUMBER=null", "RATE=fast", "RATE=true", "FAST=1", "NAMES=b", 'NAMES={"b": 1}']
)
def test_a_parameter_of_the_wrong_type_is_refused(notebooks, text):
    name = text.partition("=")[0]
    with pytest.raises(UserError, match=rf"{name} is of type (int|float|bool|list)"):
        plan(parameters=[text])


@pytest.mark.parametrize("name", ["EXPERIMENT", "RUN", "OVERRIDES", "INTERACTIVE"])
def test_names_that_the_runner_sets_are_reserved(notebooks, name):
    with pytest.raises(UserError, match=f"{name} is set by the command itself"):
        plan(parameters=[f"{name}=x"])


@pytest.mark.parametrize(("flag", "arguments"), [("--from", {"first": "07"}), ("--only", {"only": "7"}), ("--only", {"only": "10"})])
def test_an_unknown_step_is_refused_with_the_existing_ones(notebooks, flag, arguments):
    with pytest.raises(UserError, match=f"{flag} {next(iter(arguments.values()))}: no such step; there are: 01_first, 02_second"):
        plan(**arguments)


def test_from_and_only_choose_steps(notebooks):
    assert [step.name for step in plan()] == ["01_first", "02_second"]
    assert [step.name for step in plan(first="02")] == ["02_second"]
    assert [step.name for step in plan(only="01")] == ["01_first"]
    assert [step.name for step in plan(only="02_second")] == ["02_second"]
    assert plan(only="02")[0].key == plan()[1].key  # the same step when run alone


def test_a_steps_key_changes_with_everything_it_depends_on(notebooks):
    base = [step.key for step in plan()]
    assert [step.key for step in plan()] == base
    assert changed(base, plan(parameters=["WORD=two"])) == [False, True]
    assert changed(base, plan(parameters=["NUMBER=2"])) == [True, True]  # later steps read its files
    assert changed(base, plan(["train.lr=0.5"])) == [True, True]
    assert changed(base, plan(["data.video_seed=1"])) == [True, True]
    write_notebook("02_second", SECOND, WRITE.format(step="02_second", parameter="WORD + '!'"))
    assert changed(base, plan()) == [False, True]


def changed(before: list[str], steps: list[Step]) -> list[bool]:
    return [step.key != key for key, step in zip(before, steps, strict=True)]


def test_a_step_is_finished_while_its_key_record_and_outputs_are_there(notebooks):
    step = plan()[0]
    state, output = {step.name: {"key": step.key, "seconds": 1}}, notebooks / "weights.bin"
    assert not is_finished(notebooks, step, state)  # no record
    (notebooks / "01_first.json").write_text(json.dumps({"outputs": [str(output)]}))
    assert not is_finished(notebooks, step, state)  # its output is gone
    output.write_text("x")
    assert is_finished(notebooks, step, state)
    assert not is_finished(notebooks, step, {})
    assert not is_finished(notebooks, step, {step.name: {"key": "another", "seconds": 1}})


def run(*parameters: str, **options) -> list[str]:
    """Run the workbook and return the lines it reports, without the seconds."""
    lines: list[str] = []
    run_workbook("tiny", parameters=parameters, report=lines.append, **options)
    return [line.split(" in ")[0].split("  (")[0] for line in lines]


def test_a_step_whose_output_was_replaced_is_not_finished(notebooks):
    """Before, a run was "finished" although its checkpoint had been trained again with other settings."""
    step, output = plan()[0], notebooks / "01_first.txt"
    output.write_text("as written")
    Run("tiny", load_experiment("tiny"), "01_first").record(outputs=[str(output)])
    assert is_finished(notebooks, step, {"01_first": {"key": step.key}})
    output.write_text("replaced")
    assert not is_finished(notebooks, step, {"01_first": {"key": step.key}})


def test_the_kernels_own_log_stays_off_the_terminal(notebooks, capfd):
    """Before, `make demo` printed "[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel." when a kernel was shut down."""
    write_notebook("01_first", FIRST, "get_ipython().kernel.log.error('KeyboardInterrupt caught in kernel.')")
    execute_step(notebooks, plan()[0])
    assert "KeyboardInterrupt" not in capfd.readouterr().err


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_the_kernel_is_of_this_interpreter_whatever_is_installed_as_python3(notebooks, tmp_path, monkeypatch, capsys, python):
    """Another environment's kernel, or one whose environment is gone, often stands first under this name."""
    spec = {"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    file = tmp_path / "kernels" / "python3" / "kernel.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    write_notebook("01_first", FIRST, "import sys\nprint(sys.executable)")
    execute_step(notebooks, plan()[0])
    assert capsys.readouterr().out.strip() == sys.executable


@pytest.mark.parametrize("backend", ["Agg", "no such backend", "matplotlibrc"])
def test_an_executed_notebook_holds_its_pictures_whatever_the_environment_says(notebooks, tmp_path, monkeypatch, backend):
    if backend == "matplotlibrc":
        (tmp_path / "matplotlibrc").write_text("backend: pdf\nfigure.dpi: 20\ntext.usetex: True\n")
        monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
        monkeypatch.delenv("MPLBACKEND", raising=False)
    else:
        monkeypatch.setenv("MPLBACKEND", backend)
    write_notebook("01_first", FIRST, "import m2clip_lib as m2clip\nfigure, (ax,) = m2clip.new_figure(4, 2)\nax.set_title('found');")
    execute_step(notebooks, plan()[0])
    outputs = nbformat.read(notebooks / "executed" / "01_first.ipynb", 4).cells[-1].outputs
    assert [set(output.data) for output in outputs] == [{"image/png", "text/plain"}]


def test_what_is_finished_is_not_run_again_and_what_changed_is(notebooks, capsys):
    """Starts eight kernels, about one second each."""
    assert run()[:4] == ["[1/2] 01_first: running", "[1/2] 01_first: done", "[2/2] 02_second: running", "[2/2] 02_second: done"]
    assert "      wrote 1\n" in capsys.readouterr().out  # what a notebook prints, indented
    assert (notebooks / "report.html").is_file()
    for kind in ("ipynb", "html"):
        assert (notebooks / "executed" / f"01_first.{kind}").is_file()
    skipped = ["[1/2] 01_first: finished before, inputs unchanged, skipped", "[2/2] 02_second: finished before, inputs unchanged, skipped"]
    again = run()
    assert again[:2] == skipped
    assert again[2].startswith("nothing to do: every step of run 'tiny' is finished")
    assert len(again) == 3
    assert run("WORD=two")[:3] == [skipped[0], "[2/2] 02_second: running", "[2/2] 02_second: done"]
    assert "      wrote two\n" in capsys.readouterr().out
    (notebooks / "01_first.txt").unlink()
    lost = run("WORD=two")
    assert lost[0] == "[1/2] 01_first: running"
    assert lost[2] == skipped[1]
    assert run("WORD=two", only="02")[0] == "[1/1] 02_second: running"  # requested by name: it runs although nothing changed
    assert [line for line in run("NUMBER=2") if "running" in line] == ["[1/2] 01_first: running", "[2/2] 02_second: running"]
    assert set(json.loads((notebooks / "run.json").read_text())["timing"]["steps_s"]) == {"01_first", "02_second"}


def test_a_failing_notebook_shows_cell_and_error_and_keeps_what_it_did(notebooks):
    fail = "print('so far')\nnumbers = [1, 2]\nnumbers[7]"
    write_notebook("02_second", SECOND, "print('before')", fail, "print('never')")
    with pytest.raises(
        NotebookFailed, match=r"02_second failed in cell 4: IndexError: list index out of range \(partial output: "
    ) as caught:
        run()
    assert not caught.value.user_error
    partial = nbformat.read(notebooks / "executed" / "02_second.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in partial.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "before" in printed
    assert "so far" in printed
    assert "never" not in printed
    assert "IndexError" in (notebooks / "executed" / "02_second.html").read_text()
    # Once fixed, the run continues at the step that failed.
    write_notebook("02_second", SECOND, WRITE.format(step="02_second", parameter="WORD"))
    assert run()[:2] == ["[1/2] 01_first: finished before, inputs unchanged, skipped", "[2/2] 02_second: running"]


def test_bad_input_in_a_notebook_is_distinguished_from_a_fault(notebooks):
    write_notebook("01_first", FIRST, "from m2clip_lib.errors import UserError", "raise UserError('data.root: no such folder')")
    with pytest.raises(NotebookFailed, match=r"01_first failed in cell 4: UserError: data.root: no such folder") as caught:
        run()
    assert caught.value.user_error
    assert json.loads((notebooks / "steps.json").read_text()) == {}


def test_parameters_reach_the_notebook_unchanged(notebooks):
    write_notebook("02_second", SECOND, "assert (WORD, NAMES, FAST) == ('it\\'s \"so\" # here', ['b', 'ß'], False)")
    (step,) = plan(parameters=['WORD=it\'s "so" # here', 'NAMES=["b", "ß"]', "FAST=false"], only="02")
    execute_step(notebooks, step)


@pytest.mark.parametrize("place", ["", "tiny"])
def test_a_results_path_that_is_a_file_is_refused_before_anything_runs(workspace, place):
    file = paths.RESULTS / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("in the way")
    with pytest.raises(UserError, match="is a file, a folder is needed there; move it away or choose another --run"):
        run()


class Started:
    """Stands for a child process."""

    def __init__(self, command):
        self.command, self.ended = command, False
        self.terminate = self.wait = lambda: setattr(self, "ended", True)


@pytest.fixture
def started(monkeypatch):
    """The child processes that the runner starts, on a machine of two cores."""
    children = []

    def start(command, **settings):
        children.append(Started(command))
        return children[-1]

    monkeypatch.setattr(workbook, "cores", lambda: 2)
    monkeypatch.setattr(workbook.subprocess, "Popen", start)
    return children


def test_trainings_of_the_study_begin_beside_the_long_training(workspace, started, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    overrides, lines = ["train.epochs=2", "eval.ablation_epochs=1"], []
    experiment = load_experiment("tiny", overrides)
    with workbook.studies_ahead(experiment, "tiny", overrides, Step("05_ablations", workspace, {"EXPERIMENT": "tiny"}, ""), lines.append):
        assert json.loads(started[0].command[-1]) == ["tiny", "tiny", overrides, ["quick"], 1]
        assert not started[0].ended
        assert os.environ["OMP_NUM_THREADS"] == "1"  # notebooks that run meanwhile keep to one core
    assert started[0].ended
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert lines == ["      trainings of 05_ablations begin on the other core"]


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        ([], {}),  # the same number of epochs: one of them is the training of notebook 03
        (["eval.ablation_epochs=1", "train.epochs=1"], {}),
        (["eval.ablation_epochs=1", "train.epochs=2", "train.threads=0"], {}),  # it takes all cores itself
        (["eval.ablation_epochs=1", "train.epochs=2"], {"SEEDS": [7]}),
        (["eval.ablation_epochs=1", "train.epochs=2"], {"TRAIN": False}),
    ],
)
def test_no_training_begins_ahead_that_notebook_05_would_not_do(workspace, started, overrides, parameters):
    experiment = load_experiment("tiny", overrides)
    with workbook.studies_ahead(experiment, "tiny", overrides, Step("05_ablations", workspace, parameters, ""), print):
        assert not started


def test_what_begins_ahead_is_what_notebook_05_plans(workspace, monkeypatch):
    overrides, planned = ["eval.ablation_epochs=1", "train.lr=0.5"], []
    monkeypatch.setattr(jobs, "load_manifest", lambda experiment: SimpleNamespace(sha256="of the videos"))
    monkeypatch.setattr(jobs, "run_jobs", lambda found, processes: planned.extend(found))
    jobs.begin_studies("tiny", "run", overrides, ["quick"], 1)
    experiment = load_experiment("tiny", overrides)
    (study,) = load_studies(experiment, ["quick"], overrides)
    key = jobs.study_key(experiment, SimpleNamespace(sha256="of the videos"))
    assert planned == jobs.plan_jobs(experiment, "run", overrides, study, [0, 1], key)
