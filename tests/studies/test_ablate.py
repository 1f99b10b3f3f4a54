"""Ablations: one named change per variant, the same seeds, nothing trained twice."""

import json
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from safetensors.torch import load_file

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import open_backbone
from m2clip_lib.studies.ablate import job_table, study_comparisons, study_findings, study_protocol, summary_table
from m2clip_lib.studies.jobs import Job, gpu_name, plan_jobs, run_job, run_jobs, take_over
from m2clip_lib.studies.studies import Study

pytestmark = pytest.mark.xdist_group("trained")
CHANGES = {"none": ("model.visual_adapter=none",), "static adapter": ("model.static=true",), "full": ()}


def plan(overrides=(), variants=("full",), seeds=(0,), key="k") -> list[Job]:
    study = Study("quick", "?", {name: CHANGES[name] for name in variants})
    return plan_jobs(load_experiment("tiny"), "tiny", overrides, study, seeds, key)


def test_every_variant_is_trained_with_every_seed(workspace):
    jobs = plan(["train.lr=0.5"], ["static adapter", "full"], [0, 3])
    assert [job.name for job in jobs] == ["static_adapter-seed0", "static_adapter-seed3", "full-seed0", "full-seed3"]
    same = ("train.threads=1", "data.workers=0")
    assert jobs[0].overrides == ("train.lr=0.5", "model.static=true", "train.seed=0", *same)
    assert jobs[3].overrides == ("train.lr=0.5", "train.seed=3", *same)
    assert jobs[0].folder == paths.RESULTS / "tiny" / "ablations" / "static_adapter-seed0"
    assert len({job.key for job in jobs}) == 4


def test_trainings_of_a_study_may_be_shorter_unless_asked_otherwise(workspace):
    study = Study("quick", "?", {"full": ()})
    experiment = load_experiment("tiny", ["eval.ablation_epochs=4"])
    (short,) = plan_jobs(experiment, "tiny", ["eval.ablation_epochs=4"], study, [0], "k")
    (asked,) = plan_jobs(experiment, "tiny", ["eval.ablation_epochs=4", "train.epochs=2"], study, [0], "k")
    assert [load_experiment("tiny", job.overrides).train.epochs for job in (short, asked)] == [4, 2]


def test_each_job_gets_one_of_the_gpus_that_are_shown():
    """Without the variable the second GPU was an IndexError."""
    assert [gpu_name({}, number) for number in range(3)] == ["0", "1", "2"]
    assert [gpu_name({"CUDA_VISIBLE_DEVICES": "5,GPU-8f2"}, number) for number in range(2)] == ["5", "GPU-8f2"]


def test_a_job_is_done_only_with_the_same_key(workspace):
    (job,) = plan(key="now")
    assert not job.is_done()
    job.folder.mkdir(parents=True)
    (job.folder / "result.json").write_text(json.dumps({"key": job.key}))
    assert job.is_done()
    assert not plan(key="another")[0].is_done()
    assert not plan(["train.lr=0.5"], key="now")[0].is_done()


def planned_as_trained(trained) -> list[Job]:
    """The jobs of the trained workbook; their key is in their results."""
    variants = ["none", "static adapter", "full"]
    key = json.loads((trained[1] / "ablations" / "full-seed0" / "result.json").read_text())["key"].partition("|train.seed")[0]
    return plan(variants=variants, seeds=[0, 1], key=key)


def test_finished_jobs_are_skipped(trained):
    lines = []
    jobs = planned_as_trained(trained)
    before = {job.name: (job.folder / "result.json").stat().st_mtime_ns for job in jobs}
    run_jobs(jobs, processes=1, report=lines.append)
    assert lines == ["6 of 6 trainings are finished already"]
    assert before == {job.name: (job.folder / "result.json").stat().st_mtime_ns for job in jobs}


def test_the_full_variant_of_the_base_seed_is_the_training_of_the_run_itself(trained):
    main, full = (load_file(trained[0] / "checkpoints" / "tiny" / part / "last.safetensors") for part in ("", "ablations/full-seed0"))
    assert main.keys() == full.keys()
    assert all(main[name].equal(full[name]) for name in main)


def test_a_job_leaves_predictions_log_and_result(trained, workspace):
    """Trains one variant for one epoch; another process trained the same one for `trained`, so the weights must agree to the bit."""
    prepared = f"data.prepared={trained[0] / 'data' / 'tiny'}"
    (job,) = plan([prepared], ["static adapter"], [1])
    told = run_job(job)
    assert {file.name for file in job.folder.iterdir()} == {
        *(".lock", "log.txt", "metrics.csv", "result.json", "run.json", "train.json"),
        *(f"predictions{played}.{kind}" for played in ("", "_backwards") for kind in ("json", "npz", "parquet")),
    }
    result = json.loads((job.folder / "result.json").read_text())
    earlier = json.loads((trained[1] / "ablations" / job.name / "result.json").read_text())
    for field in ("variant", "seed", "trainable", "best_epoch", "top1", "epochs"):
        assert result[field] == earlier[field]
    assert told == f"ensemble top-1 {result['top1']:.1f} %"
    about = json.loads((job.folder / "run.json").read_text())
    assert about["config"]["model"]["static"]
    assert len(about["sha256"]["manifest"]) == 64
    assert "epoch 1/1" in (job.folder / "log.txt").read_text()
    file = f"checkpoints/tiny/ablations/{job.name}/best.safetensors"
    mine, other = load_file(workspace / file), load_file(trained[0] / file)
    assert all(mine[name].equal(other[name]) for name in other)
    run_jobs([job], processes=1, report=lambda line: None)  # nothing to do: no process is started


def test_a_failing_job_is_named_with_its_log(workspace):
    """Starts one process that imports torch."""
    (job,) = plan(["data.prepared=nowhere"])
    lines = []
    with pytest.raises(UserError, match=r"1 of 1 trainings failed: full-seed0: manifest: none at .* \(log: .*full-seed0/log.txt\)"):
        run_jobs([job], processes=1, report=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("trainings to do: 1, 1 at a time; log of each: ")
    assert lines[1].startswith("full-seed0 failed (manifest: none at ")
    assert not job.is_done()


def test_a_job_that_a_killed_driver_left_running_is_waited_for(workspace):
    """The second finds the result of the first, which holds the job."""
    (job,) = plan()
    job.folder.mkdir(parents=True)
    found = []
    waiting = threading.Thread(target=lambda: found.append(run_job(job)))
    with FileLock(job.folder / ".lock"):  # another object of another process would do the same
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        (job.folder / "result.json").write_text(json.dumps({"key": job.key, "top1": 12.5}))
    waiting.join(30)
    assert found == ["ensemble top-1 12.5 %"]


@pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_a_cluster_runs_the_same_jobs_and_collects_them(trained, workspace, cluster, monkeypatch):
    """submitit's executors of this machine: one calls, one starts a new interpreter per job."""
    monkeypatch.setattr("pdb.post_mortem", lambda *_: None)  # the debug executor opens a debugger
    monkeypatch.setattr(paths, "RESULTS", workspace / "results")
    prepared = f"data.prepared={trained[0] / 'data' / 'tiny'}"
    (job,), lines = plan([prepared], ["full"], [0]), []
    run_jobs([job], report=lines.append, cluster=cluster)
    assert lines[0].startswith(f"1 trainings submitted ({cluster}); logs: ")
    earlier = json.loads((trained[1] / "ablations" / job.name / "result.json").read_text())
    assert json.loads((job.folder / "result.json").read_text())["top1"] == earlier["top1"]
    run_jobs([job], report=lines.append, cluster=cluster)
    assert lines[-1] == "1 of 1 trainings are finished already"
    (bad,) = plan(["data.prepared=nowhere"], seeds=[7])
    with pytest.raises(UserError, match=r"1 of 1 trainings failed: full-seed7: .*manifest: none at"):
        run_jobs([bad], report=lines.append, cluster=cluster)
    with pytest.raises(UserError, match="--cluster sge: give one of slurm, local, debug"):
        run_jobs([bad], report=lines.append, cluster="sge")


def test_job_table_has_one_row_per_job_and_readout(trained):
    table = job_table(planned_as_trained(trained))
    assert len(table) == 3 * 2 * 3
    assert set(table.columns) >= {
        "variant",
        "seed",
        "readout",
        "top1",
        "top5",
        "direction",
        "backwards_true",
        "backwards_opposite",
        "videos",
        *("interval", "listed", "missing", "unreadable", "scored", "count_unreadable_as_wrong"),
    }
    assert (table.videos == 12).all()
    assert (table.listed == 12).all()
    assert study_protocol(planned_as_trained(trained))["count_unreadable_as_wrong"] is False


def test_job_table_without_backwards_has_no_such_columns(trained, workspace):
    source = trained[1] / "ablations" / "full-seed0"
    (job,) = plan()
    job.folder.mkdir(parents=True)
    for name in ("result.json", "predictions.json", "predictions.npz", "predictions.parquet"):
        shutil.copy(source / name, job.folder / name)
    assert "backwards_true" not in job_table([job])


def test_summary_is_mean_minimum_and_maximum_over_seeds():
    rows = [
        ("static adapter", 0, 10.0, 50.0),
        ("static adapter", 1, 20.0, 52.0),
        ("full", 0, 60.0, 90.0),
        ("full", 1, 70.0, 100.0),
        ("full", 2, 83.0, 95.0),
    ]
    table = pd.DataFrame(rows, columns=["variant", "seed", "top1", "direction"]).assign(readout="ensemble", trainable=7, videos=12)
    summary = summary_table(table).set_index("variant")
    assert summary.index.tolist() == ["static adapter", "full"]  # in the order given
    assert summary.seeds.tolist() == [2, 3]
    assert summary.loc["static adapter", ["top1", "top1_min", "top1_max"]].tolist() == [15.0, 10.0, 20.0]
    np.testing.assert_allclose(summary.loc["full", ["top1", "direction", "direction_min"]].astype(float), [71.0, 95.0, 90.0])
    assert summary.trainable.tolist() == [7, 7]
    assert "top5" not in summary


def test_the_run_s_own_training_is_not_done_again(trained):
    """Before, full-seed0 was trained a second time to the bit; copying it takes no time and the job says so."""
    results = {name: json.loads((trained[1] / "ablations" / name / "result.json").read_text()) for name in ("full-seed0", "full-seed1")}
    assert results["full-seed0"]["taken_over"]
    assert not results["full-seed1"]["taken_over"]
    assert "is finished" in (trained[1] / "ablations" / "full-seed0" / "log.txt").read_text()


@pytest.mark.parametrize("change", [["train.lr=0.5"], ["train.threads=2"], ["model.static=true"]])
def test_a_training_with_other_settings_is_not_taken_over(trained, change):
    (job,) = plan()
    experiment = load_experiment("tiny", [*job.overrides, *change])
    assert not take_over(job, experiment, load_manifest(experiment), open_backbone(experiment))


def test_comparisons_pair_the_same_seeds_and_videos(trained):
    jobs = planned_as_trained(trained)
    found = study_comparisons(jobs)
    assert len(found) == 3
    means = job_table(jobs).query("readout == 'ensemble'").groupby("variant").top1.mean()
    for row in found.itertuples():
        assert row.difference == pytest.approx(means[row.better] - means[row.other], abs=1e-6)
        assert row.difference >= 0
    assert set(study_comparisons(jobs, "direction").columns) == {"better", "other", "difference", "low", "high", "p_value", "ahead"}


def test_findings_claim_an_order_only_where_the_test_does():
    rows = [("full", "none", 60.25, 55.0, 65.5, 0.001, True), ("full", "half", 1.5, -4.0, 7.0, 0.8, False)]
    table = pd.DataFrame(rows, columns=["better", "other", "difference", "low", "high", "p_value", "ahead"])
    assert study_findings(table) == [
        "“full” is ahead of “none” by 60.2 points of top-1 (95 % interval 55.0 to 65.5, p = 0.001).",
        "“full” and “half” cannot be told apart: 1.5 points of top-1 (95 % interval -4.0 to 7.0, p = 0.8).",
    ]
