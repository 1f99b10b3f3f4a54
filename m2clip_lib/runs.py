"""A run: the folder results/<run>/ with everything needed to trust its numbers."""

import os
import platform
import re
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.csvfiles import read_csv, write_csv
from m2clip_lib.data.classes import labels_sha256
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.workers import cores, own
from m2clip_lib.errors import UserError
from m2clip_lib.files import file_sha256, read_json, write_atomically, write_json

PNG_TEXT = "Description"  # the PNG's own field for what the picture shows
TRAINING = ("03_training", "train")  # steps that train: what they write is what the run is
EVALUATION = ("04_evaluation", "eval")  # steps that predict
PACKAGES = ("torch", "torchvision", "open_clip_torch", "decord", "decord2", "torchcodec", "av", "numpy", "pandas", "papermill")


class Run:
    """results/<name>/: run.json (provenance), NN_<step>.json (results of a step), tables/*.csv, figures/*.png, predictions/."""

    def __init__(self, name: str, experiment: Experiment, step: str):
        self.name, self.experiment, self.step = name, experiment, step
        self.folder = paths.RESULTS / name
        self.tables, self.figures, self.predictions = self.folder / "tables", self.folder / "figures", self.folder / "predictions"
        self.started = _now()

    @classmethod
    def open(cls, experiment_name: str, run_name: str, overrides: list[str], step: str) -> "Run":
        """Start a step of a run. run_name "" is the experiment's name.

        Raises: UserError for an unknown experiment, a bad override, a results path that cannot be used, or another process at this step.
        """
        experiment = load_experiment(experiment_name, overrides)
        run = cls(check_run_name(run_name or experiment.name), experiment, step)
        folders = (paths.RESULTS, run.folder, run.tables, run.figures, run.predictions)
        check_folders(*folders)
        with own_run(run.name, step):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            run._write_provenance()
        return run

    @property
    def checkpoint(self) -> Path:
        """Path of the run's checkpoint that tables report (eval.checkpoint), which may not exist yet."""
        return paths.CHECKPOINTS / self.name / f"{self.experiment.eval.checkpoint}.safetensors"

    def record(self, **metrics: object) -> None:
        """Write the results of this step to <step>.json and its end to run.json; every notebook ends with this.

        outputs: paths of files; run.json keeps their digests, so that a step whose output was replaced is run again.
        """
        write_json(self.folder / f"{self.step}.json", metrics)
        files = [Path(path) for path in metrics.get("outputs", [])]
        outputs = {paths.shown(file): file_sha256(file) for file in files if file.is_file()}
        self._write_provenance(end=_now().isoformat(), outputs=outputs)

    def save(self, result: Figure | pd.DataFrame, name: str) -> Path:
        """Save a figure as figures/<name>.png or a table as tables/<name>.csv."""
        if isinstance(result, Figure):
            path = self.figures / f"{name}.png"
            text = {PNG_TEXT: finding(result)}
            write_atomically(path, lambda file: result.savefig(file, format="png", dpi=150, bbox_inches="tight", metadata=text))
            return path
        path = self.tables / f"{name}.csv"
        write_csv(path, result, "%.6g")  # four digits, rounded again in a sentence, would be another number
        return path

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a table that an earlier step saved. Raises: UserError when there is none."""
        path = self.tables / f"{name}.csv"
        if not path.is_file():
            raise UserError(f"results: no table {path}; run the notebook that writes it first")
        return read_csv(path)

    def speed(self) -> dict[str, object]:
        """How fast the run was trained, clips per second without validation, on which device, and the commit; empty where not recorded."""
        table, about = self.folder / "metrics.csv", read_json(self.folder / "run.json")
        metrics = read_csv(table) if table.is_file() else pd.DataFrame({"clips": [0], "seconds": [float("nan")]})
        hardware = about.get("hardware", {})
        device = hardware.get("gpu") or hardware.get("processor", "")
        speed = float(metrics.clips.sum() / metrics.seconds.sum()) if metrics.seconds.sum() else float("nan")
        return {"train_clips_per_s": speed, "device": device, "commit": about.get("git_commit", "")[:12]}

    def describe_inputs(self, manifest: Manifest | None = None, backbone_sha256: str = "", checkpoint: Path | None = None) -> None:
        """Write the digests of manifest, class names, backbone and checkpoint into run.json."""
        digests = {"backbone": backbone_sha256} if backbone_sha256 else {}
        if manifest is not None:
            digests |= {"manifest": manifest.sha256, "labels": labels_sha256(manifest.class_names)}
        if checkpoint is not None:
            digests["checkpoint"] = file_sha256(checkpoint)
        self._write_provenance(sha256=digests)

    def _write_provenance(self, end: str = "", sha256: dict[str, str] | None = None, outputs: dict[str, str] | None = None) -> None:
        """Update this step's entry. The top level repeats that of the training, with its inputs, or until then that of the latest step."""
        file = self.folder / "run.json"
        old = read_json(file) if file.is_file() else {}
        steps, start = old.get("steps", {}), self.started.isoformat()
        known = steps.get(self.step, {})
        steps[self.step] = {
            "config": self.experiment.model_dump(mode="json", exclude={"name"}),
            "seed": self.experiment.train.seed,
            "git_commit": git_commit(),
            "versions": versions(),
            "hardware": hardware(),
            "sha256": (known.get("sha256", {}) if known.get("start") == start else {}) | (sha256 or {}),
            "outputs": outputs or {},
            "start": start,
            "end": end,
        }
        trained = max((name for name in TRAINING if name in steps), key=lambda name: steps[name]["start"], default=self.step)
        shown = {key: value for key, value in steps[trained].items() if key not in ("outputs", "start", "end")}
        own = shown.get("sha256", {})  # older entries have times alone
        shown["sha256"] = {name: digest for name, digest in own.items() if name != "checkpoint"} or old.get("sha256", {})
        times = {"start": old.get("start", start), "end": end or old.get("end", "")}
        write_json(file, old | {"run": self.name, "experiment": self.experiment.name} | shown | times | {"steps": steps})


def finding(figure: Figure) -> str:
    """Join a figure's titles into one line, the text for readers who cannot see it."""
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    return ". ".join(" ".join(title.split()) for title in titles if title)


def own_run(name: str, step: str) -> AbstractContextManager[None]:
    """Hold what a step of a run writes: a training its checkpoints, an evaluation its predictions.

    Raises: UserError naming host and process of the one that is at work on it.
    """
    if step not in TRAINING + EVALUATION:
        return nullcontext()
    folder = paths.CHECKPOINTS if step in TRAINING else paths.RESULTS
    check_folders(*folder.parents, folder, folder / name)
    return own(folder / ".locks" / f"{name}.{'train' if step in TRAINING else 'eval'}", f"--run {name}")


def check_folders(*folders: Path) -> None:
    """Raises: UserError when one of the paths exists and is not a folder."""
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"results: {folder} is a file, a folder is needed there; move it away or choose another --run")


def check_run_name(name: str) -> str:
    """Return the name. Raises: UserError when it cannot be the name of a folder."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(f"--run {name!r}: a run's name becomes a folder in results/; use letters, digits, '-', '_' and '.'")
    return name


def hardware() -> dict[str, object]:
    """Describe processor, cores and GPU, which timings depend on."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    units = ", ".join(name for name, flag in (("AVX-512", "avx512f"), ("AMX", "amx_bf16")) if flag in flags)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = {"processor": model or platform.processor(), "cores": cores(), "units": units}
    return found | {"gpu": gpu, "system": platform.platform()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which results depend."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def short_commit(commit: str) -> str:
    """The first digits of what git_commit gives, and whether the tree differed."""
    return commit[:12] + ("+changes" if commit.endswith("+changes") else "")


def git_commit() -> str:
    """The commit of this project, followed by "+changes" when the tree differs from it.

    "" when the project is no repository of its own, whatever repository it lies in; "unreadable: " and git's reason when git refuses,
    as it does for a repository that belongs to another user.
    """
    if not (paths.ROOT / ".git").exists():
        return ""
    # A hook sets variables that name the repository it runs for.
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    options = {"cwd": paths.ROOT, "env": environment | {"LC_ALL": "C"}, "capture_output": True, "encoding": "utf-8", "errors": "replace"}
    asked = (("rev-parse", "--show-toplevel"), ("rev-parse", "HEAD"), ("status", "--porcelain"))
    try:
        top, commit, changed = (subprocess.run(["git", *each], check=True, **options).stdout.strip() for each in asked)
    except OSError as error:
        return f"unreadable: git: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return f"unreadable: {(error.stderr.splitlines() or ['git failed'])[0].removeprefix('fatal: ')}"
    return commit + ("+changes" if changed else "") if Path(top).resolve() == paths.ROOT.resolve() else ""


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
