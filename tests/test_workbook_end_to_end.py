"""The five notebooks on a tiny experiment: every promised file exists and has the right content."""

import hashlib
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from m2clip_lib import paths
from m2clip_lib.models.backbone import load_backbone
from m2clip_lib.models.checkpoint import read_checkpoint_info
from m2clip_lib.workbook import run_workbook

pytestmark = pytest.mark.xdist_group("trained")
STEPS = ["01_data_preparation", "02_backbone_check", "03_training", "04_evaluation", "05_ablations"]


@pytest.fixture(scope="module")
def results(trained):
    return trained[1]


def record(results: Path, step: str) -> dict:
    return json.loads((results / f"{step}.json").read_text())


def test_every_step_ran_and_left_its_record_and_its_executed_copy(trained, results):
    lines = trained[2]
    assert [line for line in lines if "running" in line] == [f"[{i}/5] {step}: running" for i, step in enumerate(STEPS, start=1)]
    for step in STEPS:
        assert record(results, step)
        executed = nbformat.read(results / "executed" / f"{step}.ipynb", as_version=4)
        assert any(cell.get("outputs") for cell in executed.cells)
        page = (results / "executed" / f"{step}.html").read_text()
        assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://[^"']*""", page)


def test_no_step_shows_a_raw_table_list_or_mapping(results):
    """pandas cuts long texts and aligns them to the right; style.shown does neither."""
    for file in sorted((results / "executed").glob("*.ipynb")):
        for cell in nbformat.read(file, as_version=4).cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                assert "dataframe" not in "".join(data.get("text/html", "")), cell.source
                assert set(data) - {"text/plain"} or not data or data["text/plain"].startswith("<"), cell.source


def test_no_executed_notebook_holds_an_error_or_a_warning(results):
    for step in STEPS:
        for cell in nbformat.read(results / "executed" / f"{step}.ipynb", as_version=4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error"
                assert output.get("name") != "stderr", (step, output.text)


def test_every_promised_figure_and_table_exists(results):
    data, model = ["clips", "class_balance", "files"], ["block", "walk", "text_similarity", "zero_shot", "relabelling", "curves"]
    findings = ["headline", "honesty", "calibration", "confusion", "per_class", "gain", "focus", "frames", "embedding"]
    ablations = ["ablation_top1", "ablation_direction"]
    assert {file.stem for file in (results / "figures").glob("*.png")} == {*data, *model, *findings, *ablations}
    tables = "videos parameters accuracy headline per_class confusion confused honesty calibration abstention focus frames"
    tables += " comparison ablation ablation_summary ablation_tests"
    expected = {f"{name}.csv" for name in tables.split()} | {"comparison.md", "comparison.tex"}
    assert {file.name for file in (results / "tables").iterdir()} == expected


def test_tables_have_the_columns_that_make_a_number_verifiable(results):
    protocol = {"split", "views", "frames", "stride", "prompt", "list_sha256", "epoch_chosen_on"}
    for name in ("accuracy", "headline"):
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        accuracy = {"model", "readout", "top1", "top1_low", "top1_high", "interval", "top5", "direction", "seeds"}
        accuracy |= {"mean_class", "ece", "direction_videos", "mix", "precision", "ensemble_weight", "weight_chosen_on", "balance"}
        counts = {"videos", "failed", "listed", "missing", "unreadable", "scored", "count_unreadable_as_wrong"}
        assert set(table) == accuracy | counts | protocol
        assert (table.top1_low <= table.top1).all()
        assert (table.top1 <= table.top1_high).all()
        assert (table.videos == 12).all()
    summary = pd.read_csv(results / "tables" / "ablation_summary.csv")
    assert protocol < set(summary)
    assert (summary.seeds == 2).all()
    assert summary.variant.unique().tolist() == ["none", "static adapter", "full"]
    for measure in ("top1", "top5", "direction", "backwards_true", "backwards_opposite"):
        assert (summary[f"{measure}_min"] <= summary[measure]).all()
        assert (summary[measure] <= summary[f"{measure}_max"]).all()


def test_the_run_file_records_where_the_numbers_come_from(trained, results, clip_file):
    run = json.loads((results / "run.json").read_text())
    fields = "run experiment config seed git_commit versions hardware start end steps sha256 timing"
    assert set(run) == set(fields.split())
    assert (run["run"], run["experiment"], run["seed"]) == ("tiny", "tiny", 0)
    assert run["start"] <= run["end"]
    assert list(run["steps"]) == STEPS
    manifest = json.loads((trained[0] / "data" / "tiny" / "manifest.json").read_text())
    names = "\n".join(manifest["class_names"])
    assert run["sha256"] == {
        "manifest": manifest["sha256"],
        "labels": hashlib.sha256(names.encode()).hexdigest(),
        "backbone": load_backbone(clip_file).sha256,
    }
    assert set(run["timing"]["steps_s"]) == set(STEPS)
    assert sum(run["timing"]["steps_s"].values()) == pytest.approx(run["timing"]["all_steps_s"], abs=0.1)


def test_checkpoints_carry_what_is_needed_to_use_them(trained, clip_file):
    folder = trained[0] / "checkpoints" / "tiny"
    for name in ("best", "last"):
        info = read_checkpoint_info(folder / f"{name}.safetensors")
        assert (folder / f"{name}.json").is_file()
        assert len(info.config.class_names) == 12
        assert info.config.num_frames == 4
        assert info.prompts[0] == "A video of moving left"
        assert info.backbone_source == str(clip_file)
        assert info.preprocessing["image_size"] == 64
        assert info.extra["run"] == "tiny"
        assert info.extra["precision"] in ("fp32", "bf16")  # what was used, where the experiment says auto


def test_predictions_hold_every_test_video_and_the_controls(results):
    for name in ("test", "test_backwards", "test_frozen_clip", "test_frame_mean_probe"):
        rows = pd.read_parquet(results / "predictions" / f"{name}.parquet")
        assert len(rows) == 12
        assert rows.path.is_unique
        assert json.loads((results / "predictions" / f"{name}.json").read_text())["failed"] == []


def test_records_agree_with_tables_and_metrics(results):
    metrics = pd.read_csv(results / "metrics.csv")
    assert record(results, "03_training")["best_val_top1"] == metrics.val_top1_ensemble.max()
    assert record(results, "01_data_preparation")["videos"] == 48
    headline = pd.read_csv(results / "tables" / "headline.csv")
    assert f"names {headline.top1.iloc[-1]:.1f} % of 12" in record(results, "04_evaluation")["finding"]
    assert len(record(results, "05_ablations")["summary"]["quick"]) == 3 * 3


def test_names_that_clip_does_not_know_are_no_warning_in_the_report(results):
    """Only names that were accepted although they are permuted, or that nobody can judge, belong there in red."""
    assert record(results, "02_backbone_check")["label_check_p_value"] > 0.05
    assert record(results, "02_backbone_check")["warning"] == ""
    assert '<p class="warning">' not in (results / "report.html").read_text()


def test_report_shows_the_finding_and_every_figure(results):
    page = (results / "report.html").read_text()
    assert record(results, "04_evaluation")["finding"] in page
    assert page.count("data:image/png;base64,") == 19  # all but text_similarity, which only its notebook shows
    assert page.count('href="executed/') == 5
    assert not re.findall(r"""(?:src|href)=["']https?:""", page)


def test_a_second_run_has_nothing_to_do(trained, results, monkeypatch):
    root = trained[0]
    for name in ("DATA", "RESULTS", "CHECKPOINTS"):
        monkeypatch.setattr(paths, name, root / name.lower())
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}
    lines: list[str] = []
    assert run_workbook("tiny", report=lines.append) == results / "report.html"
    assert [line for line in lines if "skipped" in line] == [
        f"[{i}/5] {step}: finished before, inputs unchanged, skipped" for i, step in enumerate(STEPS, start=1)
    ]
    assert lines[-1].startswith("nothing to do: every step of run 'tiny' is finished and its inputs are unchanged")
    assert before == {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}


def test_nothing_temporary_is_left_behind(trained):
    assert not [file for file in trained[0].rglob("*") if file.suffix == ".tmp"]


def test_the_settings_of_the_training_are_shown_as_they_are(results):
    """Before, the table rounded them to one decimal: a learning rate of 0.01 was shown as 0.0."""
    page = (results / "executed" / "03_training.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r"<td[^>]*>\s*(lr|weight_decay|loss_weights\.mlm)\s*</td>\s*<td[^>]*>\s*([^<]*?)\s*</td>", page))
    assert rows == {"lr": "0.01", "weight_decay": "0.01", "loss_weights.mlm": "0.1"}
