"""From a checkpoint to tables: the same numbers as the workbook's, and honest about videos that cannot be read."""

import json
import shutil

import pandas as pd
import pytest

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.engine.score import predict_checkpoint, score_checkpoint, write_tables
from m2clip_lib.errors import UserError
from m2clip_lib.runs import Run

pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def scoring(trained, workspace):
    """Opens a run in this test's own results/, on the data of the trained workbook: (open, checkpoint, its results)."""
    root, results, _ = trained

    def open_run(*overrides: str) -> tuple[Run, Manifest]:
        run = Run.open("tiny", "scored", [f"data.prepared={root / 'data' / 'tiny'}", *overrides], step="eval")
        return run, load_manifest(run.experiment)

    return open_run, root / "checkpoints" / "tiny" / "best.safetensors", results


def test_scoring_a_checkpoint_gives_the_workbooks_table(scoring):
    open_run, checkpoint, results = scoring
    run, manifest = open_run()
    shown = score_checkpoint(run, manifest, checkpoint)
    written, expected = (pd.read_csv(folder / "tables" / "accuracy.csv") for folder in (run.folder, results))
    pd.testing.assert_frame_equal(written, expected)
    assert shown.readout.tolist() == ["similarity", "classifier", "ensemble"]
    assert shown.top1.tolist() == pytest.approx(expected.top1.tolist(), abs=0.01)
    for column in ("split", "views", "frames", "prompt", "list_sha256", "seeds"):
        assert column in written


def test_tables_are_made_from_the_saved_files_alone(scoring):
    open_run, _, results = scoring
    run, manifest = open_run()
    shutil.copytree(results / "predictions", run.predictions, dirs_exist_ok=True)
    write_tables(run, manifest)
    for name in ("accuracy", "per_class", "confusion", "backwards"):
        assert (run.tables / f"{name}.csv").read_text() == (results / "tables" / f"{name}.csv").read_text()


def test_confusion_table_counts_every_video_once(scoring):
    _, _, results = scoring
    counts = pd.read_csv(results / "tables" / "confusion.csv").drop(columns="true_class")
    assert counts.to_numpy().sum() == 12
    assert (counts.sum(axis=1) == 1).all()  # one test video a class


def test_a_video_that_broke_since_prepare_is_counted_in_the_table(scoring, tmp_path):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("data.cache_frames=false")
    table = manifest.table.copy()
    gone = str(tmp_path / "gone.mp4")
    table.loc[table.index[table.split == "test"][3], "path"] = gone
    score_checkpoint(run, Manifest(table, manifest.class_names, manifest.folder, manifest.sha256), checkpoint)
    assert [entry["path"] for entry in json.loads((run.predictions / "test.json").read_text())["failed"]] == [gone]
    accuracy = pd.read_csv(run.tables / "accuracy.csv")
    assert accuracy.videos.tolist() == [11, 11, 11]
    assert accuracy.failed.tolist() == [1, 1, 1]


def test_videos_are_played_backwards_only_where_the_experiment_asks(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.backwards=false", "eval.split=val")
    assert predict_checkpoint(run, manifest, checkpoint) == ["val"]
    table = write_tables(run, manifest)
    assert not (run.tables / "backwards.csv").exists()
    assert set(table.split) == {"val"}


def test_a_checkpoint_of_other_classes_is_refused(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run()
    other = Manifest(manifest.table, list(reversed(manifest.class_names)), manifest.folder, manifest.sha256)
    with pytest.raises(UserError, match=r"trained on 12 classes \('moving left', ...\), the manifest has 12 \('moving apart', ...\)"):
        predict_checkpoint(run, other, checkpoint)
