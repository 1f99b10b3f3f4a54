"""The five notebooks on a tiny set with two labels per video: mAP in place of top-1, and nothing that breaks for want of one label."""

import json

import nbformat
import pandas as pd
import pytest

from m2clip_lib.models.checkpoint import read_checkpoint_info
from m2clip_lib.workbook import run_workbook

OVERRIDES = ["data.two_shapes=true", "data.prepared=two", "train.balance=sampling"]
STEPS = ["01_data_preparation", "02_backbone_check", "03_training", "04_evaluation", "05_ablations"]


@pytest.mark.slow  # about a minute: the whole workbook
def test_the_workbook_runs_on_videos_with_two_labels(workspace):
    page = run_workbook("tiny", "two", OVERRIDES, ['VARIANTS=["static adapter", "full"]'], report=lambda line: None)
    results = page.parent
    for step in STEPS:
        for cell in nbformat.read(results / "executed" / f"{step}.ipynb", as_version=4).cells:
            assert [output for output in cell.get("outputs", []) if output.output_type == "error" or output.get("name") == "stderr"] == []
    headline = pd.read_csv(results / "tables" / "headline.csv")
    assert {"mean_ap", "mean_ap_low", "mean_ap_high", "f1", "direction"} <= set(headline)
    assert not {"top1", "top5", "ece"} & set(headline)
    assert headline.model.unique().tolist() == ["frozen CLIP, zero-shot", "probe on the frame mean", "M2-CLIP"]
    assert headline.f1.isna().tolist() == [True, True, False, False, False]  # only the trained model has thresholds
    assert headline.balance.fillna("").tolist() == ["", "", *["sampling"] * 3]
    per_class = pd.read_csv(results / "tables" / "per_class.csv")
    assert per_class.videos.sum() == 24  # 12 videos, two labels each
    assert {"ap", "f1", "threshold", "threshold_chosen_on"} <= set(per_class)
    assert set(per_class.threshold_chosen_on) == {"val"}
    honesty = pd.read_csv(results / "tables" / "honesty.csv")
    assert honesty.played.unique().tolist() == ["forwards", "backwards", "shuffled", "repeated"]
    assert {"mean_ap", "drop", "drop_low", "drop_high"} <= set(honesty)
    summary = pd.read_csv(results / "tables" / "ablation_summary.csv")
    assert {"mean_ap", "mean_ap_min", "mean_ap_max", "backwards_mean_ap"} <= set(summary)
    assert "confusion.csv" not in {file.name for file in (results / "tables").iterdir()}
    assert {"headline", "honesty", "per_class", "gain", "curves", "ablation_mean_ap"} <= {
        file.stem for file in results.glob("figures/*.png")
    }
    assert "reaches an mAP of" in page.read_text()
    metrics = pd.read_csv(results / "metrics.csv")
    assert "val_top1_ensemble" not in metrics
    trained = json.loads((results / "03_training.json").read_text())
    assert trained["best_val_mean_ap"] == metrics.val_mean_ap_ensemble.max()
    info = read_checkpoint_info(results.parents[1] / "checkpoints" / "two" / "best.safetensors")
    assert info.config.several_labels
    assert info.extra["balance"] == "sampling"
