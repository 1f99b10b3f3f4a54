"""Transfer: what is drawn, what the restricted scores are, and that each study runs and is not repeated."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from workspaces import prepared_workspace

from m2clip_lib import paths
from m2clip_lib.data.demo.videos import class_names
from m2clip_lib.data.opposites import opposite_labels
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate import evaluate
from m2clip_lib.evaluate.controls import zero_shot
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.experiment import open_backbone, pick_device
from m2clip_lib.runs import Run
from m2clip_lib.studies import transfer
from m2clip_lib.studies.transfer import base_to_novel, draw_classes, draw_videos, few_shot, hits_among, spread, zero_shot_transfer
from m2clip_lib.train.loop import Training

COMBINATIONS = class_names(("red", "green", "blue", "yellow"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, clip_file, video_folder) -> Iterator[Run]:
    """A run on 24 training, 12 validation and 12 test videos of twelve classes, prepared; the tests below share its trainings."""
    for _ in prepared_workspace(tmp_path_factory.mktemp("transfer"), clip_file, video_folder):
        yield Run.open("tiny", "", [], step="13_transfer")


def test_scores_are_restricted_to_the_drawn_classes_and_their_videos():
    scores = np.float32([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.2, 0.7, 0.1]])
    found = Predictions(scores, None, np.array([1, 2, 2, 0]), [0, 1, 2, 3], ["a", "b", "c"])
    assert hits_among(found, [0, 1, 2]).tolist() == [False, False, False, False]
    assert hits_among(found, [1, 2]).tolist() == [True, True, False]  # without class 0, and without its video
    assert hits_among(found, [0, 2]).tolist() == [False, True, True]
    assert hits_among(found, [0, 1, 2], labels=[1, 2]).tolist() == [False, False, False]


def test_the_spread_is_that_of_the_values():
    assert spread([10.0, 20.0, 60.0]) == {"top1": 30.0, "top1_std": pytest.approx(700**0.5), "top1_min": 10, "top1_max": 60, "repeats": 3}
    assert np.isnan(spread([5.0])["top1_std"])


def test_half_of_the_classes_is_drawn_by_the_seed_and_opposites_stay_together():
    drawn = [draw_classes(COMBINATIONS, seed) for seed in range(10)]
    assert drawn == [draw_classes(COMBINATIONS, seed) for seed in range(10)]
    assert len({tuple(labels) for labels in drawn}) == 10
    partners = opposite_labels(COMBINATIONS)
    for labels in drawn:
        assert len(labels) == 24
        assert {int(partners[label]) for label in labels} == set(labels)
    assert len(draw_classes(["juggling", "diving", "surfing", "running", "rowing"], 0)) == 2
    with pytest.raises(UserError, match=r"of 2 classes no share of 0\.5 can be drawn"):
        draw_classes(["opening", "closing"], 0)


@pytest.mark.parametrize("seed", range(5))
def test_composed_classes_are_new_combinations_of_known_words(seed):
    drawn = draw_classes(COMBINATIONS, seed, 0.25, composed=True)
    known = {word for label, name in enumerate(COMBINATIONS) if label not in drawn for word in name.split()}
    assert len(drawn) == 12
    assert all(set(COMBINATIONS[label].split()) <= known for label in drawn)
    with pytest.raises(UserError, match="no share"):
        draw_classes(["moving left", "moving right", "growing", "shrinking"], seed, composed=True)


def test_a_draw_has_k_videos_of_each_class_and_contains_the_smaller_one():
    table = pd.DataFrame({"label": [0, 1] * 8, "class_name": ["a", "b"] * 8, "path": map(str, range(16))})
    two, four = draw_videos(table, 2, seed=3), draw_videos(table, 4, seed=3)
    assert four.label.value_counts().to_dict() == {0: 4, 1: 4}
    assert set(two.path) < set(four.path)
    assert draw_videos(table, 4, seed=3).equals(four)
    assert not draw_videos(table, 4, seed=4).equals(four)
    with pytest.raises(UserError, match="'a' has 8 training videos; ask for fewer than 9"):
        draw_videos(table, 9, seed=3)


@pytest.mark.slow
def test_few_shots_are_drawn_saved_and_trained_once(run, monkeypatch):
    table = few_shot(run, [1], [0, 1], updates=2)
    assert table.readout.tolist() == ["similarity", "classifier", "ensemble"]
    assert set(table.trained_on) == {12}
    assert set(table.epochs) == {1}  # 12 videos in batches of 8: two updates
    assert set(table.seeds) == set(table.repeats) == {2}
    assert set(table.epoch_chosen_on) == {"last epoch"}
    lists = [pd.read_csv(run.folder / "transfer" / f"few_shot-1-seed{seed}.csv") for seed in (0, 1)]
    assert all(sorted(each.label) == list(range(12)) for each in lists)
    assert not lists[0].equals(lists[1])
    monkeypatch.setattr(Training, "run_epoch", None)
    monkeypatch.setattr(evaluate, "predict_orders", None)
    assert few_shot(run, [1], [0, 1], updates=2).equals(table)
    assert (run.tables / "transfer_few_shot.csv").is_file()
    monkeypatch.undo()
    official = paths.RESULTS / "official.csv"
    lists[1].to_csv(official, index=False)
    drawn = few_shot(run, [1], [0], updates=2, official={1: official})
    assert set(drawn.draw) == {"official"}
    assert pd.read_csv(run.folder / "transfer" / "few_shot-1-seed0.csv").equals(lists[1])
    lists[1].assign(path="elsewhere.mp4").to_csv(official, index=False)
    with pytest.raises(UserError, match=r"elsewhere\.mp4 is no training video of this data set"):
        few_shot(run, [1], [0], official={1: official})


@pytest.mark.slow
def test_base_to_novel_the_dial_and_zero_shot_share_their_trainings(run, monkeypatch):
    table = base_to_novel(run, [0]).set_index("measure").top1
    assert table.harmonic_mean == pytest.approx(2 * table.base * table.novel / max(table.base + table.novel, 1e-9))
    assert table.novel_among_all <= table.novel
    monkeypatch.setattr(Training, "run_epoch", None)
    dial = base_to_novel(run, [0], mixes=(0, 1))
    assert dial[dial.mix == 1].set_index("measure").top1.equals(table)
    assert dial.groupby("mix").validation.nunique().tolist() == [1, 1]
    best = dial[dial.validation == dial.validation.max()].mix.max()
    assert set(dial.mix[dial.chosen]) == {best}
    (checkpoint,) = paths.CHECKPOINTS.rglob("base-*/best.safetensors")
    prompts = {"raw name": ["data.prompt={}"], "template": []}
    found = zero_shot_transfer(run, checkpoint, "tiny", [[]], prompts, draws=3)
    assert found.prompt_set.tolist() == ["raw name", "raw name", "template", "template"]
    assert found.prompt.tolist() == ["{}", "{}", "A video of {}", "A video of {}"]
    assert found.classes.tolist() == [12, 6, 12, 6]
    assert found.repeats.tolist() == [1, 3, 1, 3]


def test_the_dials_lower_end_is_frozen_clip(run):
    manifest = load_manifest(run.experiment)
    _, _, checkpoint = transfer.base_training(run, manifest, 0, 0.5, False)
    mixed = transfer.score(run, run.experiment, manifest, checkpoint, mix=0.0, own=False)
    frozen = zero_shot(run.experiment, manifest, open_backbone(run.experiment), pick_device())
    np.testing.assert_allclose(mixed.similarity, frozen.similarity, atol=1e-5)


def test_videos_with_several_labels_are_refused(run, monkeypatch):
    several = load_manifest(run.experiment)
    several.table["labels"] = [[0, 1]] * len(several.table)
    monkeypatch.setattr(transfer, "load_manifest", lambda experiment: several)
    for study in (few_shot, base_to_novel):
        with pytest.raises(UserError, match=r"transfer: videos of experiment 'tiny' have several labels"):
            study(run)
