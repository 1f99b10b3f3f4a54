"""Relevance against the object's box: arithmetic by hand, and an untrained model has no more than the box's share.

That a trained model has more is a claim about the demonstration: notebook 04 measures and records it (relevance_in_box).
"""

import numpy as np
import pytest

from m2clip_lib.attention.focus import focus_models, focus_table, mass_inside
from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.evaluate.controls import untrained
from m2clip_lib.experiment import build_model, open_backbone

pytestmark = pytest.mark.xdist_group("trained")


def test_mass_inside_by_hand():
    inside = np.array([[[0.5, 0.0], [0.25, 0.0]]])
    assert mass_inside(np.array([[[2.0, 1.0], [4.0, 1.0]]]), inside) == (1 + 1) / 8
    assert mass_inside(np.ones((1, 2, 2)), inside) == inside.mean()  # an even map has the boxes' share of the area
    assert np.isnan(mass_inside(np.zeros((1, 2, 2)), inside))


@pytest.fixture
def experiment(trained, workspace):
    return load_experiment("tiny", [f"data.prepared={trained[0] / 'data' / 'tiny'}", "eval.spatial_views=3"])


def test_an_untrained_model_has_the_boxes_share_of_the_area(experiment):
    manifest = load_manifest(experiment)
    backbone = open_backbone(experiment)  # with random weights: nothing here was ever trained
    model = build_model(experiment, backbone, manifest.class_names).eval()
    table = focus_table(focus_models(model, experiment), experiment, manifest, 1, "ensemble")
    assert list(dict.fromkeys(table.model)) == ["this run", "adapters untrained", "nothing trained"]
    assert len(table) == 3 * 12
    assert (table.videos == 1).all()
    assert (table.views == "1x1").all()  # whatever the experiment's views are
    assert table.area.between(2, 35).all()
    means = table.groupby("model")[["inside", "area"]].mean()
    ratio = means.inside / means.area
    assert ratio.between(0.7, 1.4).all(), ratio
    np.testing.assert_allclose(table.ratio, table.inside / table.area)


def test_an_untrained_model_keeps_no_weights_of_the_backbone(experiment, backbone):
    names = load_manifest(experiment).class_names
    fresh, again = (untrained(experiment, backbone, names) for _ in range(2))
    old, new = backbone.clip.state_dict(), fresh.clip.state_dict()
    kept = [name for name in old if old[name].dim() > 1 and np.allclose(old[name], new[name]) and "mask" not in name]
    assert kept == []
    assert fresh.backbone.sha256 == again.backbone.sha256 != backbone.sha256  # and the same every time


def test_other_classes_than_the_models_own_are_asked_by_similarity(experiment, backbone):
    """The ensemble's classifier knows two classes, the videos have twelve: this failed."""
    manifest = load_manifest(experiment)
    model = build_model(experiment, backbone, ["running", "walking"]).eval()
    table = focus_table({"this run": model}, experiment, manifest, 1, "ensemble")
    assert table.class_name.nunique() == 12
    assert table.inside.between(1, 100).all()
