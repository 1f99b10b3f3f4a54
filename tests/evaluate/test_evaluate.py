"""From a checkpoint to tables: the same numbers as the workbook's, and videos that cannot be read are counted."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from m2clip_lib import experiment as build
from m2clip_lib import paths
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.evaluate import (
    is_own_label_set,
    predict_checkpoint,
    run_for_checkpoint,
    score_checkpoint,
    write_tables,
    zero_shot_note,
)
from m2clip_lib.evaluate.predictions import load_predictions
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.evaluate.scoring import predict
from m2clip_lib.files import file_sha256
from m2clip_lib.models import M2CLIP
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
    for name in ("accuracy", "per_class", "confusion", "honesty"):
        assert (run.tables / f"{name}.csv").read_text() == (results / "tables" / f"{name}.csv").read_text()


def test_confusion_table_counts_every_video_once(scoring):
    _, _, results = scoring
    counts = pd.read_csv(results / "tables" / "confusion.csv").drop(columns="true_class")
    assert counts.to_numpy().sum() == 12
    assert (counts.sum(axis=1) == 1).all()  # one test video per class


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


def test_videos_are_played_without_time_only_where_the_experiment_asks(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false", "eval.split=val")
    assert predict_checkpoint(run, manifest, checkpoint) == ["val"]
    table = write_tables(run, manifest)
    assert not (run.tables / "honesty.csv").exists()
    assert set(table.split) == {"val"}


def renamed(manifest: Manifest, names: list[str]) -> Manifest:
    return Manifest(manifest.table, names, manifest.folder, manifest.sha256)


def test_the_same_classes_in_another_order_are_refused(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run()
    for names in (list(reversed(manifest.class_names)), [name.title() for name in reversed(manifest.class_names)]):
        with pytest.raises(UserError, match=r"same 12 classes in another order \(label 0: 'moving left' there, '[Mm]oving [Aa]part'"):
            predict_checkpoint(run, renamed(manifest, names), checkpoint)


def test_another_spelling_is_the_same_label_set(scoring):
    open_run, checkpoint, results = scoring
    run, manifest = open_run("eval.honesty=false")
    score_checkpoint(run, renamed(manifest, [name.replace(" ", "_").title() for name in manifest.class_names]), checkpoint)
    written, expected = (pd.read_csv(folder / "tables" / "accuracy.csv") for folder in (run.folder, results))
    assert written.top1.tolist() == expected.top1.tolist()
    assert zero_shot_note(run) == ""


def test_other_classes_are_scored_zero_shot_with_their_own_names_and_prompts(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false", 'data.prompt=["see {}", "{} here"]')
    names = ["Moving Left", *(f"new class {i}" for i in range(11))]
    shown = score_checkpoint(run, renamed(manifest, names), checkpoint)
    assert shown.model.tolist() == ["M2-CLIP, zero-shot"]
    assert shown.readout.tolist() == ["similarity"]
    assert pd.read_csv(run.tables / "accuracy.csv").prompt.tolist() == ["see {} | {} here"]
    per_class = pd.read_csv(run.tables / "per_class.csv")
    assert per_class.class_name.tolist() == names
    assert (per_class.readout == "similarity").all()
    assert pd.read_csv(run.tables / "confusion.csv").drop(columns="true_class").to_numpy().sum() == 12
    assert zero_shot_note(run) == "zero-shot: 1 of the 12 classes were also training classes ('Moving Left')"

    about = json.loads((run.predictions / "test.json").read_text())
    assert (about["class_names"], about["shared_classes"]) == (names, ["Moving Left"])
    backbone = build.open_backbone(run.experiment)
    model = M2CLIP.from_checkpoint(checkpoint, backbone)
    dataset = evaluation_views(run.experiment, manifest, backbone, Protocol("test", 4, 0, prompts=("see {}", "{} here")))
    expected = predict(model, dataset, 4, 0, class_names=names)
    np.testing.assert_allclose(load_predictions(run.predictions, "test").similarity, expected.similarity, atol=1e-5)


def foreign(checkpoint, file, run):
    """The checkpoint in the authors' format."""
    M2CLIP.from_checkpoint(checkpoint, build.open_backbone(run.experiment)).export_official(file)
    return file


def test_a_foreign_file_with_as_many_classes_is_scored_with_every_readout(scoring, tmp_path, caplog):
    """Before, the official .pth of a run was called zero-shot, lost its classifier and "0 of the 12 classes were training classes"."""
    open_run, checkpoint, results = scoring
    run, manifest = open_run()
    shown = score_checkpoint(run, manifest, foreign(checkpoint, tmp_path / "official.pth", run))
    written, expected = (pd.read_csv(folder / "tables" / "accuracy.csv") for folder in (run.folder, results))
    unknown = ["epoch_chosen_on", "balance"]  # the file does not record them
    pd.testing.assert_frame_equal(written.drop(columns=unknown), expected.drop(columns=unknown))
    assert shown.readout.tolist() == ["similarity", "classifier", "ensemble"]
    assert written.epoch_chosen_on.isna().all()  # the file does not say
    assert "does not record its clip length" not in caplog.text  # the experiment says it
    assert "names no classes: its 12 are taken to be the dataset's, in the same order" in zero_shot_note(run)
    saved, own = load_predictions(run.predictions, "test"), load_predictions(results / "predictions", "test")
    assert np.abs(saved.readout("ensemble") - own.readout("ensemble")).max() < 1e-6


def test_a_foreign_file_with_another_number_of_classes_is_zero_shot_and_says_why(scoring, tmp_path):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false")
    file = foreign(checkpoint, tmp_path / "official.pth", run)
    score_checkpoint(run, renamed(manifest, [*manifest.class_names, "one more"]), file)
    assert zero_shot_note(run) == f"zero-shot: {file} names no classes and has another number of them than the dataset"


def test_tables_say_what_the_epoch_was_chosen_on(scoring):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false")
    score_checkpoint(run, manifest, checkpoint)
    table = pd.read_csv(run.tables / "accuracy.csv")
    assert set(table.epoch_chosen_on) == {"val"}
    score_checkpoint(run, manifest, checkpoint.with_name("last.safetensors"))
    assert set(pd.read_csv(run.tables / "accuracy.csv").epoch_chosen_on) == {"last epoch"}


def test_predictions_of_another_file_are_refused(scoring, tmp_path):
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false")
    score_checkpoint(run, manifest, checkpoint)
    found = load_predictions(run.predictions, "test")
    found.check_checkpoint(checkpoint)
    found.check_checkpoint(tmp_path / "not there yet")
    (other := tmp_path / "other.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match=rf"made with a checkpoint of sha256 {found.checkpoint_sha256[:12]}, but .*other.safetensors is"):
        found.check_checkpoint(other)


def test_each_checkpoint_is_evaluated_into_its_own_run(scoring, tmp_path):
    """Before, `eval demo --checkpoint other` overwrote the predictions and tables of run demo (85.9 became 31.2)."""
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false")
    experiment, lines = run.experiment, []
    other = tmp_path / "other.safetensors"
    shutil.copy(checkpoint.with_name("last.safetensors"), other)
    other.write_bytes(other.read_bytes() + b" ")
    own = paths.CHECKPOINTS / "tiny" / "best.safetensors"
    digest = file_sha256(other)[:12]
    assert run_for_checkpoint(experiment, "", checkpoint, lines.append) == "tiny"  # nothing stands in its way
    own.parent.mkdir(parents=True)
    shutil.copy(checkpoint, own)
    assert run_for_checkpoint(experiment, "", checkpoint, lines.append) == "tiny"  # the run's own weights
    assert lines == []
    assert run_for_checkpoint(experiment, "", other, lines.append) == f"tiny-{digest}"
    assert lines == [f"checkpoint {other} is not that of run 'tiny': evaluating into run 'tiny-{digest}'"]
    assert run_for_checkpoint(experiment, "mine", other, lines.append) == "mine"
    with pytest.raises(UserError, match=r"--run tiny: has a checkpoint of its own, .*best.safetensors, which is not .*other"):
        run_for_checkpoint(experiment, "tiny", other, lines.append)
    own.unlink()  # no training of this name, but an evaluation
    score_checkpoint(Run.open("tiny", "tiny", [f"data.prepared={manifest.folder}"], "eval"), manifest, checkpoint)
    assert run_for_checkpoint(experiment, "", checkpoint, lines.append) == "tiny"
    assert run_for_checkpoint(experiment, "", other, lines.append) == f"tiny-{digest}"


def with_status(manifest: Manifest, *statuses: str) -> Manifest:
    """The manifest with the first test videos marked as not usable."""
    table = manifest.table.copy()
    table.loc[table.index[table.split == "test"][: len(statuses)], "status"] = statuses
    return Manifest(table, manifest.class_names, manifest.folder, manifest.sha256)


@pytest.mark.parametrize("as_wrong", [False, True])
def test_missing_and_unreadable_test_videos_are_in_every_table(scoring, as_wrong):
    """They left the denominator, and `failed` said 0."""
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("data.cache_frames=false", f"eval.count_unreadable_as_wrong={str(as_wrong).lower()}")
    short = with_status(manifest, "missing", "missing (dangling link)", "cannot be opened")
    shown = score_checkpoint(run, short, checkpoint)
    accuracy = pd.read_csv(run.tables / "accuracy.csv")
    counts = accuracy[["listed", "missing", "unreadable", "scored", "videos", "failed"]]
    assert counts.drop_duplicates().to_numpy().tolist() == [[12, 2, 1, 9, 9, 0]]
    assert {"listed", "missing", "unreadable", "scored", "interval"} <= set(shown)
    assert (accuracy.count_unreadable_as_wrong == as_wrong).all()
    assert (accuracy.interval == "wilson").all()  # every video is its own recording
    found = load_predictions(run.predictions, "test")
    right = (found.similarity.argmax(axis=1) == found.labels).sum()
    assert accuracy.top1[0] == pytest.approx(100 * right / (12 if as_wrong else 9), rel=1e-3)
    honesty = pd.read_csv(run.tables / "honesty.csv").set_index(["played", "readout"])
    assert honesty.top1["forwards", "similarity"] == pytest.approx(accuracy.top1[0], rel=1e-3)  # the same number in every table
    per_class = pd.read_csv(run.tables / "per_class.csv")
    assert (per_class.readout == "ensemble").all()
    assert per_class.videos.tolist() == [0, 0, 0, *[1] * 9]
    assert per_class.top1[:3].tolist() == [0, 0, 0] if as_wrong else per_class.top1[:3].isna().all()


def test_a_table_says_what_was_done_not_what_was_asked_for(scoring):
    """Before, the table printed the experiment's prompt although the scores used those of the checkpoint."""
    open_run, checkpoint, _ = scoring
    run, manifest = open_run("eval.honesty=false", "data.prompt=see {}", "data.num_frames=2")
    score_checkpoint(run, manifest, checkpoint)
    table = pd.read_csv(run.tables / "accuracy.csv")
    assert set(table.prompt) == {"A video of {}"}
    assert set(table.frames) == {2}
    assert load_predictions(run.predictions, "test").protocol == Protocol("test", 2, 0)


@pytest.mark.parametrize("names", [["volume +", "volume -"], ["C++", "C#"], ["+1", "-1"], ["A", "A+"], ["👍", "👎"], ["<", ">"]])
def test_classes_that_differ_in_signs_in_another_order_are_refused(names):
    """Old code: label 0 meant two classes, and the same videos scored 41.7 % in place of 58.3 %."""
    assert is_own_label_set(names, names, "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors: trained on the same 2 classes in another order"):
        is_own_label_set(names, names[::-1], "a.safetensors")


def test_spellings_of_a_folder_are_the_same_classes_and_others_are_not():
    assert is_own_label_set(["brush hair", "plong\u00e9e"], ["Brush_Hair", "plonge\u0301e"], "a.safetensors")
    assert not is_own_label_set(["volume +", "volume -"], ["volume", "ski"], "a.safetensors")
    assert not is_own_label_set(["C++", "C#"], ["C++", "C"], "a.safetensors")
