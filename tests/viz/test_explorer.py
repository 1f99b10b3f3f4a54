"""Clips, edits, scores and maps of a trained run, and the messages when a part of the run is missing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from m2clip_lib import paths
from m2clip_lib.attention.maps import MapChoice
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import predict_split
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.text import text_features
from m2clip_lib.runs import Run
from m2clip_lib.viz.explorer import Edit, Explorer, Look, _cached_texts, edit_clip, model_video, read_clip, score_table
from m2clip_lib.viz.panel import ExplorerPanel

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
    assert explorer.blocks == 4
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


def test_surest_mistake_and_hit_have_the_highest_scores(explorer):
    scores, labels = explorer.predictions.readout("ensemble"), explorer.predictions.labels
    sure, wrong = scores.max(axis=1), scores.argmax(axis=1) != labels
    assert wrong.any()  # one epoch on random weights
    mistake = explorer.surest(right=False)
    assert wrong[mistake]
    assert sure[mistake] == sure[wrong].max()
    if not wrong.all():
        hit = explorer.surest(right=True)
        assert not wrong[hit]
        assert sure[hit] == sure[~wrong].max()


def test_rows_are_counted_in_the_table_where_videos_failed(explorer):
    whole = explorer.predictions
    before = explorer.ranking(5)
    keep = [0, 2, 5]
    explorer.predictions = type(whole)(whole.similarity[keep], whole.classifier[keep], whole.labels[keep], keep, whole.class_names)
    assert explorer.surest(right=False) in keep
    assert explorer.ranking(5).equals(before)


@pytest.fixture
def zero_shot(explorer):
    """The same run after an evaluation on three other classes, in prompts of their own."""
    known, names = explorer.manifest, ["a ring that moves", "a disc that grows", "a square"]
    other = Manifest(known.table.assign(label=known.table.label % 3), names, known.folder, known.sha256)
    other.table["class_name"] = [names[label] for label in other.table.label]
    protocol = Protocol.of_experiment(explorer.run.experiment, prompts=("look: {}",))
    explorer.predictions = predict_split(explorer.run.experiment, other, explorer.model, protocol, class_names=names)
    explorer.manifest, explorer.table = other, other.split("test")
    return explorer


def test_the_surest_hit_and_mistake_of_a_zero_shot_evaluation(zero_shot):
    """They asked for an ensemble, which there is none of: TypeError."""
    found = zero_shot.predictions
    sure, wrong = found.similarity.max(axis=1), found.similarity.argmax(axis=1) != found.labels
    assert wrong.any()
    assert sure[zero_shot.surest(right=False)] == sure[wrong].max()
    assert wrong.all() or sure[zero_shot.surest(right=True)] == sure[~wrong].max()


def test_live_scores_and_maps_of_a_zero_shot_evaluation_are_those_of_its_prompts(zero_shot):
    names, look = zero_shot.manifest.class_names, zero_shot.look(5)
    table = zero_shot.scores(look)
    assert list(table) == ["similarity"]
    np.testing.assert_allclose(table.similarity[names], 100 * zero_shot.predictions.similarity[5], atol=0.01)
    assert zero_shot.map(look, MapChoice("relevance", 1, label=2)).title.startswith("“a square” by similarity: ")
    assert zero_shot.map(look, MapChoice("relevance", 1)).title.startswith("“a ring that moves” by similarity: ")
    assert zero_shot.timeline(look.path).names == names
    assert ExplorerPanel(zero_shot).readout.options == ("similarity",)


def test_text_features_are_computed_once_for_the_same_names(explorer):
    assert _cached_texts(explorer.model, ("a", "b")) is _cached_texts(explorer.model, ("a", "b"))
    assert _cached_texts(explorer.model, ("a", "b")) is not _cached_texts(explorer.model, ("b", "a"))


def test_another_checkpoint_is_opened_once(explorer):
    best, last, *variants = explorer.checkpoints
    assert all("/ablations/" in name for name in variants)
    assert explorer.other(best) is explorer.model
    assert explorer.other(last) is explorer.other(last) is not explorer.model


def test_a_published_file_with_as_many_classes_is_compared_by_every_readout(explorer, tmp_path):
    """Before, its classes were "class 0", ..., so that only similarity was shown beside the run's own model."""
    file = tmp_path / "official.pth"
    explorer.model.export_official(file)
    own, other = (explorer.scores(explorer.look(0), model=model) for model in (explorer.model, explorer.other(str(file))))
    assert list(other) == ["similarity", "classifier", "ensemble"]
    np.testing.assert_allclose(other.loc[own.index].to_numpy(), own.to_numpy(), atol=1e-3)


def test_exploring_before_evaluating_says_what_is_missing(run, workspace, monkeypatch):
    manifest = load_manifest(run.experiment)
    with pytest.raises(UserError, match="evaluate first"):
        Explorer.open(run, manifest)
    monkeypatch.setattr(paths, "CHECKPOINTS", workspace / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoint: no such file: .*best.safetensors"):
        Explorer.open(run, manifest)


MEAN = (0.5, 0.2, 1.0)
GREY = torch.tensor([128, 51, 255], dtype=torch.uint8)


@pytest.fixture(scope="module")
def model(backbone):
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 2, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    return M2CLIP(backbone, M2CLIPConfig(("growing", "shrinking", "moving left"), ("a",), **sizes)).eval()


@pytest.fixture
def look() -> Look:
    clip = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Look(clip, [0.0, 0.5, 1.0], "/videos/growing/1.mp4", "growing")


def test_a_clip_is_read_as_evaluation_reads_it(video_folder):
    file = sorted(video_folder.rglob("*.mp4"))[0]  # 12 frames at 8 a second, 80 px
    found = read_clip(file, Protocol("test", 4, 0), 64, "moving left")
    assert (found.clip.shape, found.clip.dtype) == ((4, 3, 64, 64), torch.uint8)
    assert found.seconds == [index / 8 for index in (1, 4, 7, 9)]  # the middles of four segments of 11 / 4 frames
    assert found.frames.shape == (4, 64, 64, 3)
    assert found.truth == "moving left"


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    (tmp_path / "note.mp4").write_text("hello")
    with pytest.raises(UserError, match=r"note.mp4: cannot be opened"):
        read_clip(tmp_path / "note.mp4", Protocol("test", 4, 0), 64)


def test_no_edit_changes_nothing_and_the_original_stays(look):
    kept = look.clip.clone()
    assert torch.equal(edit_clip(look, Edit(), MEAN, (4, 4)).clip, kept)
    edit_clip(look, Edit(backwards=True, frames=(0, 1), rows=(0, 2), columns=(0, 2)), MEAN, (4, 4))
    assert torch.equal(look.clip, kept)


def test_backwards_turns_frames_and_times(look):
    found = edit_clip(look, Edit(backwards=True), MEAN, (4, 4))
    assert torch.equal(found.clip, look.clip[[2, 1, 0]])
    assert found.seconds == [1.0, 0.5, 0.0]


def test_a_hidden_frame_is_counted_in_playing_order(look):
    found = edit_clip(look, Edit(backwards=True, frames=(0,)), MEAN, (4, 4))
    assert (found.clip[0] == GREY[:, None, None]).all()
    assert torch.equal(found.clip[1:], look.clip[[1, 0]])


def test_hidden_patches_are_hidden_in_every_frame_and_nowhere_else(look):
    found = edit_clip(look, Edit(rows=(1, 3), columns=(0, 1)), MEAN, (4, 4))
    different = (found.clip != look.clip).any(dim=1)
    assert different[:, 16:48, :16].float().mean() > 0.99
    different[:, 16:48, :16] = False
    assert not different.any()
    assert (found.clip[:, :, 16:48, :16] == GREY[:, None, None]).all()


def test_what_is_hidden_reads_as_zeros(model, look):
    hidden = edit_clip(look, Edit(frames=(0, 1, 2)), model.backbone.mean, (4, 4))
    assert model_video(model, hidden).abs().max() < 0.01  # the mean colour, to the nearest of 256 steps


def test_a_clip_of_another_size_is_resized_for_the_model(model, look):
    large = Look(look.clip.repeat_interleave(2, 2).repeat_interleave(2, 3), look.seconds, look.path)
    assert model_video(model, large).shape == (1, 3, 3, 64, 64)


def test_own_classes_have_three_readouts_best_first(model, look):
    names = list(model.config.class_names)
    table = score_table(model, look, names, text_features(model, names))
    assert list(table) == ["similarity", "classifier", "ensemble"]
    assert table.ensemble.is_monotonic_decreasing
    np.testing.assert_allclose(table.sum(), 100, rtol=1e-5)
    with torch.no_grad():
        expected = 100 * model.encode_video(model_video(model, look)).fc_logits.softmax(-1)[0]
    np.testing.assert_allclose(table.classifier[names], expected, rtol=1e-4)
    chosen = score_table(model, look, names, text_features(model, names), weight=0.25)
    np.testing.assert_allclose(chosen.ensemble, 0.25 * chosen.similarity + 0.75 * chosen.classifier, rtol=1e-6)


def test_other_labels_have_similarity_alone(model, look):
    names = ["a cat", "a growing ring"]
    table = score_table(model, look, names, text_features(model, names))
    assert list(table) == ["similarity"]
    assert set(table.index) == set(names)
