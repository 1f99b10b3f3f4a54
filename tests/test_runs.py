"""A run's folder: what it records about itself, and where its results go."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.classes import labels_sha256
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.runs import Run, check_run_name, git_commit


def read(run: Run) -> dict:
    return json.loads((run.folder / "run.json").read_text())


def test_opening_a_run_records_what_is_needed_to_trust_it(workspace):
    run = Run.open("tiny", "mine", ["train.seed=7"], step="01_first")
    found = read(run)
    assert (found["run"], found["experiment"], found["seed"]) == ("mine", "tiny", 7)
    assert found["config"]["train"]["seed"] == 7
    assert found["config"]["data"]["num_frames"] == 4
    assert set(found["config"]) == {"backbone", "model", "data", "train", "eval"}
    assert found["versions"].keys() >= {"python", "torch", "numpy", "open_clip_torch", "papermill"}
    assert found["hardware"]["cores"] >= 1
    assert found["start"].endswith("+00:00")  # includes its time zone
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=paths.ROOT, capture_output=True, text=True).stdout.strip()
    assert found["git_commit"].removesuffix("+changes") == commit
    assert run.tables.is_dir()
    assert run.figures.is_dir()
    assert run.predictions.is_dir()


@pytest.fixture
def outer(tmp_path, monkeypatch) -> Path:
    """A repository with one commit; the project, as paths.ROOT, is a folder of it and not a repository of its own."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "outer" / "workbook").mkdir(parents=True)
    git(tmp_path / "outer", "init", "-q")
    commit(tmp_path / "outer")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "outer" / "workbook")
    return tmp_path / "outer"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "one")
    return git(folder, "rev-parse", "HEAD")


def test_the_commit_is_not_that_of_a_repository_around_the_project(outer):
    """Before, a ZIP of the workbook in somebody's own repository recorded that repository's commit as its version."""
    assert git_commit() == ""
    git(outer, "add", ".")
    (paths.ROOT / ".git").mkdir()  # empty: git goes on to the folder above
    assert git_commit() == ""


def test_the_commit_is_the_projects_own_also_inside_another_repository_and_from_its_hooks(outer, monkeypatch):
    git(paths.ROOT, "init", "-q")
    assert git_commit().startswith("unreadable: ")  # no commit yet
    own = commit(paths.ROOT)
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))
    assert git_commit() == own
    (paths.ROOT / "new.py").write_text("")
    assert git_commit() == own + "+changes"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_is_unreadable_not_absent(outer, monkeypatch):
    git(paths.ROOT, "init", "-q")
    commit(paths.ROOT)
    for path in (paths.ROOT, *paths.ROOT.rglob("*")):
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # where safe.directory may allow everything
    assert git_commit().startswith("unreadable: detected dubious ownership in repository")


def test_without_git_the_commit_is_unreadable(outer, monkeypatch):
    git(paths.ROOT, "init", "-q")
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unreadable: git: No such file or directory"


HOLD = """
import sys
from m2clip_lib.runs import own_run
with own_run("tiny", sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("held", "refused", "free"), [("train", "03_training", "eval"), ("04_evaluation", "eval", "train")])
def test_a_step_that_another_process_is_at_is_refused_and_its_record_is_untouched(workspace, held, refused, free):
    Run.open("tiny", "", [], step=held)
    before = (paths.RESULTS / "tiny" / "run.json").read_text()
    process = subprocess.Popen([sys.executable, "-c", HOLD, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"--run tiny: process {process.pid} on host .* is at work on it; wait until it ends, or stop it"):
        Run.open("tiny", "", ["train.lr=0.5"], step=refused)
    assert (paths.RESULTS / "tiny" / "run.json").read_text() == before
    Run.open("tiny", "", [], step=free)
    Run.open("tiny", "other", [], step=refused)
    process.communicate("end\n")
    Run.open("tiny", "", [], step=refused)


def test_a_run_without_a_name_is_named_after_the_experiment(workspace):
    run = Run.open("", "", [], step="eval")  # no experiment either: the default one
    assert (run.name, run.folder) == ("tiny", paths.RESULTS / "tiny")
    assert run.checkpoint == paths.CHECKPOINTS / "tiny" / "best.safetensors"


def test_steps_add_to_one_another_and_the_start_stays_the_first(workspace):
    first = Run.open("tiny", "", [], step="01_first")
    first.record(videos=48, outputs=[])
    start = "2024-05-01T10:00:00+00:00"  # long ago
    (first.folder / "run.json").write_text(json.dumps(read(first) | {"start": start}))
    second = Run.open("tiny", "", [], step="02_second")
    second.record(top1=12.5)
    found = read(second)
    assert found["start"] == start
    assert set(found["steps"]) == {"01_first", "02_second"}
    assert found["end"] == found["steps"]["02_second"]["end"]
    assert json.loads((first.folder / "01_first.json").read_text()) == {"videos": 48, "outputs": []}
    assert json.loads((first.folder / "02_second.json").read_text()) == {"top1": 12.5}


def test_each_step_keeps_its_own_provenance_and_the_top_level_is_that_of_the_training(workspace):
    """Before, after `eval -o train.lr=0.5` the run said lr 0.5 of a model trained with 0.01."""
    Run.open("tiny", "", [], step="02_backbone_check")
    Run.open("tiny", "", ["train.lr=0.25", "train.seed=4"], step="train").describe_inputs(backbone_sha256="trained on")
    run = Run.open("tiny", "", ["train.lr=0.5"], step="eval")
    run.describe_inputs(backbone_sha256="evaluated on")
    found = read(run)
    assert {step: entry["config"]["train"]["lr"] for step, entry in found["steps"].items()} == {
        "02_backbone_check": 0.01,
        "train": 0.25,
        "eval": 0.5,
    }
    assert (found["config"]["train"]["lr"], found["seed"], found["sha256"]) == (0.25, 4, {"backbone": "trained on"})
    assert found["steps"]["eval"]["sha256"] == {"backbone": "evaluated on"}
    assert set(found["steps"]["eval"]) == {*["config", "seed", "git_commit", "versions", "hardware", "sha256", "outputs", "start", "end"]}
    Run.open("tiny", "", ["train.lr=0.75"], step="train")
    assert read(run)["config"]["train"]["lr"] == 0.75  # trained again


def test_a_run_of_an_older_version_goes_on(workspace):
    """Its steps have times alone, and its top level is what is known of the training."""
    run = Run("tiny", load_experiment("tiny"), "eval")
    run.folder.mkdir(parents=True)
    old = {"steps": {"train": {"start": "2024-05-01T10:00:00+00:00", "end": ""}}, "seed": 4, "sha256": {"manifest": "abc"}}
    (run.folder / "run.json").write_text(json.dumps(old))
    found = read(Run.open("tiny", "", ["train.seed=7"], step="eval"))
    assert (found["seed"], found["sha256"]) == (4, {"manifest": "abc"})
    assert found["steps"]["eval"]["seed"] == 7


def test_digests_of_list_names_and_backbone_are_kept_together(workspace, tmp_path):
    run = Run.open("tiny", "", [], step="01_first")
    run.describe_inputs(Manifest(pd.DataFrame(), ["left", "right"], tmp_path, "abc"))
    run.describe_inputs(backbone_sha256="def")
    assert read(run)["sha256"] == {"manifest": "abc", "labels": labels_sha256(["left", "right"]), "backbone": "def"}
    Run.open("tiny", "", [], step="02_second")
    assert read(run)["sha256"]["manifest"] == "abc"


def test_figures_and_tables_go_to_their_folders(workspace):
    run = Run.open("tiny", "", [], step="01_first")
    figure, _ = plt.subplots()
    assert run.save(figure, "plot") == run.figures / "plot.png"
    assert (run.figures / "plot.png").read_bytes().startswith(b"\x89PNG")
    plt.close(figure)
    table = pd.DataFrame({"name": ["a, b", "c"], "top1": [68.678, 1 / 3]})
    assert run.save(table, "numbers") == run.tables / "numbers.csv"
    assert run.read_table("numbers").name.tolist() == ["a, b", "c"]
    assert run.read_table("numbers").top1.tolist() == [68.678, 0.333333]  # 98.854 was kept as 98.85 and then said as 98.8
    assert not list(run.folder.rglob("*.tmp"))


def test_a_missing_table_is_named(workspace):
    run = Run.open("tiny", "", [], step="01_first")
    with pytest.raises(UserError, match=r"no table .*headline.csv; run the notebook that writes it first"):
        run.read_table("headline")


@pytest.mark.parametrize("place", ["", "tiny", "tiny/tables"])
def test_a_results_path_that_is_a_file_is_refused(workspace, place):
    file = paths.RESULTS / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("in the way")
    with pytest.raises(UserError, match="is a file, a folder is needed there; move it away or choose another --run"):
        Run.open("tiny", "", [], step="01_first")
    assert file.read_text() == "in the way"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "-p", " a", "a ", "a:b", "what?", "a\nb", "x" * 300])
def test_a_name_that_is_not_a_folder_name_is_refused(name):
    with pytest.raises(UserError, match="a run's name becomes a folder"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["demo", "k400_b16", "2024-05-01.second", "größer"])
def test_ordinary_names_are_accepted(name):
    assert check_run_name(name) == name


@given(st.text(max_size=30))
@example("\0")
def test_an_accepted_name_stays_inside_results(name):
    try:
        accepted = check_run_name(name)
    except UserError:
        return
    folder = (paths.RESULTS / accepted).resolve()
    assert folder.parent == paths.RESULTS.resolve()
