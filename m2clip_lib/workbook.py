"""Run the notebooks in order with papermill, skip what is finished, stop at the first failure, end with the report."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment, parse_value
from m2clip_lib.data.prepare import data_fingerprint
from m2clip_lib.data.workers import cores, own
from m2clip_lib.errors import UserError
from m2clip_lib.files import code_digest, file_sha256, hash_texts, read_json, storage_error, write_json
from m2clip_lib.runs import check_folders, check_run_name

GIVEN = ("EXPERIMENT", "RUN", "OVERRIDES", "INTERACTIVE")  # parameters the runner itself sets
TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list}


@dataclass(frozen=True)
class Step:
    """One notebook of a run. key: digest of everything its result depends on; parameters: what papermill injects."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    key: str


class NotebookFailed(Exception):  # noqa: N818 (it says what happened)
    """A notebook stopped at an error. user_error: bad input rather than a fault of the workbook."""

    def __init__(self, message: str, user_error: bool):
        super().__init__(message)
        self.user_error = user_error


def run_workbook(
    experiment_name: str = "",
    run_name: str = "",
    overrides: Sequence[str] = (),
    parameters: Sequence[str] = (),
    first: str = "",
    only: str = "",
    report: Callable[[str], None] = print,
) -> Path:
    """Execute the notebooks of a run and write its report.

    Args:
        experiment_name: entry of configs/config.py; "" is the default. run_name: folder in results/; "" is the experiment's name.
        overrides: "section.field=value". parameters: "NAME=VALUE" for the notebooks that declare NAME.
        first, only: a step's number ("03"): start there, or run it alone; such steps run even if nothing has changed.
    Returns: the report's path.
    Raises: UserError for bad input, NotebookFailed when a notebook stops.
    """
    start = time.perf_counter()
    experiment = load_experiment(experiment_name, overrides)
    run = check_run_name(run_name or experiment.name)
    folder = paths.RESULTS / run
    check_folders(paths.RESULTS, folder)
    steps = plan_steps(experiment, run, overrides, parameters, first, only)
    state_file, page, executed = folder / "steps.json", folder / "report.html", 0
    known = read_json(state_file) if state_file.is_file() else {}
    complete = not (first or only) and page.is_file() and all(is_finished(folder, step, known) for step in steps)
    with nullcontext() if complete else own(paths.RESULTS / ".locks" / f"{run}.run", f"--run {run}"), ExitStack() as ahead:
        for number, step in enumerate(steps, start=1):
            state = read_json(state_file) if state_file.is_file() else {}
            label = f"[{number}/{len(steps)}] {step.name}"
            if not (first or only) and is_finished(folder, step, state):
                report(f"{label}: finished before, inputs unchanged, skipped")
                continue
            report(f"{label}: running")
            if step.name.startswith("03_") and (study := next((s for s in steps[number:] if s.name.startswith("05_")), None)):
                ahead.enter_context(studies_ahead(experiment, run, overrides, study, report))
            if step.name.startswith("05_"):
                ahead.close()
            write_json(state_file, {name: entry for name, entry in state.items() if name != step.name})
            began = time.perf_counter()
            execute_step(folder, step)
            seconds = round(time.perf_counter() - began, 1)
            report(f"{label}: done in {seconds:.0f} s")
            write_json(state_file, state | {step.name: {"key": step.key, "seconds": seconds}})
            executed += 1
        if not executed and page.is_file():
            report(f"nothing to do: every step of run {run!r} is finished and its inputs are unchanged; see {paths.shown(page)}")
            return page
        from m2clip_lib.viz.report import write_report

        steps_s = {name: entry["seconds"] for name, entry in sorted(read_json(state_file).items())}
        timing = {"last_call_s": round(time.perf_counter() - start, 1), "steps_s": steps_s, "all_steps_s": round(sum(steps_s.values()), 1)}
        write_json(folder / "run.json", read_json(folder / "run.json") | {"timing": timing})
        write_report(folder)
        report(f"report: {paths.shown(page)}  ({time.perf_counter() - start:.0f} s in total)")
        return page


@contextmanager
def studies_ahead(experiment: Experiment, run: str, overrides: Sequence[str], study: Step, report: Callable[[str], None]) -> Iterator[None]:
    """Let trainings of notebook 05 use the cores that notebooks 03 and 04, each on one, leave idle. What they begin, 05 waits for.

    Only on a CPU, where 05 trains what 03 does not (eval.ablation_epochs), and with the notebook's own seeds and variants.
    """
    changed = {"VARIANTS", "SEEDS", "TRAIN", "PROCESSES", "CLUSTER"} & study.parameters.keys()
    gpu = any(list(Path("/dev").glob(device)) for device in ("nvidia[0-9]*", "kfd", "dxg"))
    longer = experiment.eval.ablation_epochs not in (0, experiment.train.epochs)
    if changed or gpu or not longer or experiment.train.threads != 1 or cores() < 2:
        yield
        return
    report(f"      trainings of {study.name} begin on the other core{'s' * (cores() > 2)}")
    arguments = json.dumps([experiment.name, run, list(overrides), study.parameters.get("STUDIES", ["quick"]), cores() - 1])
    code = (  # it ends with this process, however that ends: then its standard input is closed
        "import json, os, sys, threading; threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start(); "
        "from m2clip_lib.studies.jobs import begin_studies; begin_studies(*json.loads(sys.argv[1]))"
    )
    log = paths.RESULTS / run / "ablations" / "ahead.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen([sys.executable, "-c", code, arguments], stdin=subprocess.PIPE, stdout=file, stderr=file, cwd=paths.ROOT)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # two threads that share a core with a training wait for one another
    try:
        yield
    finally:
        child.terminate()
        child.wait()
        os.environ.pop("OMP_NUM_THREADS")
        os.environ |= {} if threads is None else {"OMP_NUM_THREADS": threads}


def plan_steps(experiment: Experiment, run: str, overrides: Sequence[str], parameters: Sequence[str], first: str, only: str) -> list[Step]:
    """Return the steps to consider, each with its parameters and key. Raises: UserError for an unknown step or parameter."""
    notebooks = sorted(paths.NOTEBOOKS.glob("0[1-9]_*.ipynb"))
    chosen = {n for n in notebooks if (n.name[:2] == only[:2] if only else n.name[:2] >= first[:2])}
    for flag, value in (("--from", first), ("--only", only)):
        if value and not any(notebook.name.startswith(value + "_") or notebook.stem == value for notebook in notebooks):
            raise UserError(f"{flag} {value}: no such step; there are: {', '.join(n.stem for n in notebooks)}")
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks}
    values = _parse_parameters(parameters, {notebook: declared[notebook] for notebook in chosen})
    base = {"EXPERIMENT": experiment.name, "RUN": run, "OVERRIDES": list(overrides), "INTERACTIVE": False}
    key = hash_texts(experiment.model_dump_json(), data_fingerprint(experiment), code_digest())
    steps = []
    for notebook in notebooks:
        own = {name: value for name, value in values.items() if name in declared[notebook]}
        cells = read_json(notebook)["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        key = hash_texts(key, source, json.dumps(own, sort_keys=True))
        if notebook in chosen:
            steps.append(Step(notebook.stem, notebook, {k: v for k, v in (base | own).items() if k in declared[notebook]}, key))
    return steps


def is_finished(folder: Path, step: Step, state: dict) -> bool:
    """Whether this step was finished with the same key and its outputs are still what it wrote."""
    record = folder / f"{step.name}.json"
    if state.get(step.name, {}).get("key") != step.key or not record.is_file():
        return False
    if not all(Path(path).exists() for path in read_json(record).get("outputs", [])):
        return False
    written = read_json(folder / "run.json").get("steps", {}).get(step.name, {}).get("outputs", {})
    return all(file_sha256(paths.resolve(path)) == digest for path, digest in written.items())


def execute_step(folder: Path, step: Step) -> None:
    """Run one notebook; its executed copy (.ipynb and .html) is kept even when it fails."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from m2clip_lib.kernels import OwnKernel

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else the kernel's debugger warns in every executed notebook
    output = folder / "executed" / f"{step.name}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(step.notebook),
            str(output),
            parameters=step.parameters,
            kernel_name="python3",
            kernel_manager_class=OwnKernel,
            cwd=str(step.notebook.parent),
            progress_bar=sys.stderr.isatty(),
            stdout_file=_Indented(),
            # ERROR would show a race of every shutdown: the interrupt that precedes it, when it meets a kernel that is not idle yet.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        _export_html(output)
        raise NotebookFailed(
            f"{step.name} failed in cell {error.cell_index}: {error.ename}: {error.evalue} (partial output: {paths.shown(output)})",
            user_error=error.ename == "UserError" or storage_error(error) is not None,
        ) from error
    _export_html(output)


def declared_parameters(notebook: Path) -> dict[str, str]:
    """Map the parameters that a notebook declares to their type names."""
    import papermill

    return {name: info["inferred_type_name"] for name, info in papermill.inspect_notebook(str(notebook)).items()}


class _Indented:
    """Standard output with every line indented, for what a notebook prints under the line of its step."""

    def __init__(self) -> None:
        self.fresh = True

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            sys.stdout.write(("      " if self.fresh else "") + line)
            self.fresh = line.endswith("\n")

    def flush(self) -> None:
        sys.stdout.flush()


def _parse_parameters(given: Sequence[str], declared: dict[Path, dict[str, str]]) -> dict[str, Any]:
    names = sorted({name for parameters in declared.values() for name in parameters if name not in GIVEN})
    values = {}
    for text in given:
        name, equals, raw = text.partition("=")
        if name in GIVEN:
            raise UserError(f"-p {text}: {name} is set by the command itself (EXPERIMENT, --run, -o)")
        if not equals or name not in names:
            raise UserError(f"-p {text}: no notebook of this run declares {name!r}; declared: {', '.join(names)}")
        kind = next(parameters[name] for parameters in declared.values() if name in parameters)
        try:
            values[name] = TypeAdapter(TYPES.get(kind, str)).validate_python(parse_value(raw, TYPES.get(kind, str)), strict=True)
        except ValidationError:
            raise UserError(f"-p {text}: {name} is of type {kind}") from None
    return values


def _export_html(notebook: Path) -> None:
    from nbconvert import HTMLExporter

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # it warns that figures have no alternative text
    exporter = HTMLExporter(template_name="lab", mathjax_url="", require_js_url="", jquery_url="")
    page, _ = exporter.from_filename(str(notebook))
    notebook.with_suffix(".html").write_text(page, encoding="utf-8")
