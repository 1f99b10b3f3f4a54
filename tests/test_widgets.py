"""The explorer without a browser: data, picture, widget."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from m2clip_lib import paths
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.runs import Run
from m2clip_lib.viz.widgets import Explorer, explore

pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def run(trained, workspace, monkeypatch):
    """The run opened in this test's own results/, with the data and checkpoint of the trained workbook."""
    root = trained[0]
    monkeypatch.setattr(paths, "CHECKPOINTS", root / "checkpoints")
    return Run.open("tiny", "", [f"data.prepared={root / 'data' / 'tiny'}"], step="10_attention_explorer")


@pytest.fixture
def explorer(run, monkeypatch, trained):
    """Reads the trained run's predictions where they are."""
    monkeypatch.setattr(paths, "RESULTS", trained[0] / "results")
    yield Explorer.open(run, load_manifest(run.experiment))
    plt.close("all")


def test_a_clip_is_the_one_that_was_evaluated(explorer):
    assert explorer.blocks == 4
    clip = explorer.clip(5)
    assert (tuple(clip.shape), str(clip.dtype)) == ((4, 3, 64, 64), "torch.uint8")


def test_a_figure_has_frames_and_attention(explorer):
    figure = explorer.figure(0, block=3)
    top, bottom, *_ = figure.axes
    assert top.get_title(loc="left").startswith("Block 4: the strongest patch holds")
    assert np.asarray(top.images[0].get_array()).shape == (64, 4 * 64, 3)
    assert len(bottom.images) == 2


def test_ranking_shows_every_readout_best_first(explorer):
    table = explorer.ranking(3, top=5)
    assert list(table) == ["similarity", "classifier", "ensemble"]
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    scores = explorer.predictions.readout("ensemble")[3]
    best = int(scores.argmax())
    assert table.ensemble[1] == f"{explorer.predictions.class_names[best]}  {100 * scores[best]:.1f} %"


def test_surest_mistake_and_hit_are_what_they_say(explorer):
    scores, labels = explorer.predictions.readout("ensemble"), explorer.predictions.labels
    sure, wrong = scores.max(axis=1), scores.argmax(axis=1) != labels
    assert wrong.any()  # one epoch on random weights
    mistake = explorer.surest_mistake()
    assert wrong[mistake]
    assert sure[mistake] == sure[wrong].max()
    if not wrong.all():
        hit = explorer.surest_hit()
        assert not wrong[hit]
        assert sure[hit] == sure[~wrong].max()


def test_rows_are_counted_in_the_table_where_videos_failed(explorer):
    whole = explorer.predictions
    keep = [0, 2, 5]
    some = type(whole)(whole.similarity[keep], whole.classifier[keep], whole.labels[keep], keep, whole.class_names)
    explorer.predictions = some
    assert explorer.surest_mistake() in keep
    assert explorer.ranking(5).ensemble.tolist() == type(explorer)(explorer.model, whole, None, None, None).ranking(5).ensemble.tolist()


def test_explore_shows_a_video_and_follows_its_sliders(explorer):
    controls, picture, text = explore(explorer).children
    class_choice, video_choice, block_choice = controls.children
    assert len(class_choice.options) == 12
    assert (video_choice.max, block_choice.value, block_choice.max) == (1, 4, 4)
    assert "true class “moving left”" in text.value
    first = bytes(picture.value)
    assert first.startswith(b"\x89PNG")
    class_choice.value = "growing"
    assert "true class “growing”" in text.value
    second = bytes(picture.value)
    block_choice.value = 2
    assert len({first, second, bytes(picture.value)}) == 3  # another video, then another block: another picture each time
    assert not plt.get_fignums()  # figures are closed: a long session does not fill the memory


def test_exploring_before_evaluating_says_what_is_missing(run, workspace, monkeypatch):
    manifest = load_manifest(run.experiment)
    with pytest.raises(UserError, match="evaluate first"):
        Explorer.open(run, manifest)
    monkeypatch.setattr(paths, "CHECKPOINTS", workspace / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoint: no such file: .*best.safetensors"):
        Explorer.open(run, manifest)
