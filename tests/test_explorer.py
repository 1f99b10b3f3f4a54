"""A run ready to be explored: what is surest, what is live, what is missing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from m2clip_lib import paths
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.runs import Run
from m2clip_lib.viz.explorer import Explorer, parse_names
from m2clip_lib.viz.maps import MapChoice

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
    run.predictions = trained[1] / "predictions"
    yield Explorer.open(run, load_manifest(run.experiment))
    plt.close("all")


def test_a_clip_is_the_one_that_was_evaluated(explorer):
    assert (explorer.blocks, explorer.heads) == (4, 3)
    look = explorer.look(5)
    assert tuple(look.clip.shape) == (4, 3, 64, 64)
    assert look.truth == explorer.table.class_name[5]
    live = explorer.scores(look)
    saved = 100 * explorer.predictions.readout("ensemble")[5]
    np.testing.assert_allclose(live.ensemble[explorer.manifest.class_names], saved, atol=0.01)  # the frame cache holds the same pixels


def test_a_figure_has_frames_and_a_map_for_each_map(explorer):
    look = explorer.look(0)
    maps = [explorer.map(look, MapChoice(method, 1)) for method in ("attention", "relevance")]
    figure = explorer.figure(look, maps)
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == [found.title for found in maps]
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (64, 4 * 64, 3)


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
    before = explorer.ranking(5)
    keep = [0, 2, 5]
    explorer.predictions = type(whole)(whole.similarity[keep], whole.classifier[keep], whole.labels[keep], keep, whole.class_names)
    assert explorer.surest_mistake() in keep
    assert explorer.ranking(5).equals(before)


def test_text_features_are_computed_once_for_the_same_names(explorer):
    assert explorer.texts(explorer.model, ["a", "b"]) is explorer.texts(explorer.model, ["a", "b"])
    assert explorer.texts(explorer.model, ["a", "b"]) is not explorer.texts(explorer.model, ["b", "a"])


def test_another_checkpoint_is_opened_once(explorer):
    best, last, *variants = explorer.checkpoints
    assert all("/ablations/" in name for name in variants)
    assert explorer.other(best) is explorer.model
    assert explorer.other(last) is explorer.other(last) is not explorer.model


def test_exploring_before_evaluating_says_what_is_missing(run, workspace, monkeypatch):
    manifest = load_manifest(run.experiment)
    with pytest.raises(UserError, match="evaluate first"):
        Explorer.open(run, manifest)
    monkeypatch.setattr(paths, "CHECKPOINTS", workspace / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoint: no such file: .*best.safetensors"):
        Explorer.open(run, manifest)


def test_typed_names_are_cleaned_and_one_alone_is_refused():
    assert parse_names("") == parse_names(" , ,") == []
    assert parse_names(" run ,walk,run, ") == ["run", "walk"]
    with pytest.raises(UserError, match="“run” alone has nothing to be compared with"):
        parse_names("run, run")
