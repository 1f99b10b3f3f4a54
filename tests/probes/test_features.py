"""Frozen features: computed once, continued, and those of CLIP itself; probes on them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from workspaces import prepared_workspace

from m2clip_lib.config import load_experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.evaluate import controls
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.models.text import unit
from m2clip_lib.probes import features as module
from m2clip_lib.probes import table as table_module
from m2clip_lib.probes.features import feature_folder, split_features
from m2clip_lib.probes.table import GRID, MIDDLE, ON_PATCHES, Probes, probe_table

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    yield from prepared_workspace(tmp_path_factory.mktemp("features"), clip_file, video_folder)


@pytest.fixture
def opened(prepared, backbone, monkeypatch):
    """Experiment, manifest, and how many videos have been encoded."""
    encode, rows = module._encode, []

    def counted(*arguments):
        rows.extend(arguments[4])
        return encode(*arguments)

    monkeypatch.setattr(module, "_encode", counted)
    monkeypatch.setattr(module, "PART", 5)
    experiment = load_experiment("tiny")
    return experiment, load_manifest(experiment), rows


def test_features_are_clips_own_and_computed_once(opened, backbone):
    experiment, manifest, encoded = opened
    protocol, lines = Protocol.of_experiment(experiment, spatial_views=3), []
    found = split_features(experiment, manifest, backbone, protocol, report=lines.append)
    assert found.scores["encoded"].shape == (12, 3, 4, 96)
    assert lines[0].startswith("features: 12 videos of split test, 3x1 views: 0.0 MB in ")
    views = evaluation_views(experiment, manifest, backbone, protocol)
    model = frozen_clip(experiment, backbone, manifest.class_names)
    direct = controls.encoded(model, views, experiment, CPU, lambda video: unit(model.encode_video(video).image_features))
    means = torch.nn.functional.normalize(torch.from_numpy(found.scores["encoded"]).float().mean(2), dim=-1)
    torch.testing.assert_close(means, torch.from_numpy(direct.scores["encoded"]), atol=2e-3, rtol=2e-3)  # float16
    assert (found.labels.tolist(), found.rows.tolist()) == (direct.labels.tolist(), direct.rows.tolist())
    assert len(encoded) == 12
    again = split_features(experiment, manifest, backbone, protocol)
    assert len(encoded) == 12
    assert np.array_equal(again.scores["encoded"], found.scores["encoded"])


def test_an_interrupted_run_encodes_only_what_is_missing(opened, backbone):
    experiment, manifest, encoded = opened
    protocol = Protocol.of_experiment(experiment, split="val")
    whole = split_features(experiment, manifest, backbone, protocol)
    part = feature_folder(experiment, manifest, backbone, protocol) / "00000005.npz"
    part.unlink()
    encoded.clear()
    assert np.array_equal(split_features(experiment, manifest, backbone, protocol).scores["encoded"], whole.scores["encoded"])
    assert encoded == [5, 6, 7, 8, 9]


def test_the_key_is_what_is_encoded_and_not_how_it_is_scored(opened, backbone):
    experiment, manifest, _ = opened
    protocol = Protocol.of_experiment(experiment)
    folder = feature_folder(experiment, manifest, backbone, protocol)
    same = dataclasses.replace(protocol, prompts=("a {}",), count_unreadable_as_wrong=True)
    assert feature_folder(experiment, manifest, backbone, same) == folder
    others = [{"split": "val"}, {"frames": 2}, {"spatial_views": 3}, {"order": "backwards"}, {"resize": "exact"}]
    keys = {feature_folder(experiment, manifest, backbone, dataclasses.replace(protocol, **other)) for other in others}
    keys.add(feature_folder(experiment, manifest, dataclasses.replace(backbone, sha256="another"), protocol))
    assert len(keys | {folder}) == 7


@pytest.mark.slow
def test_all_probes_and_seeds_share_one_pass_over_the_videos(opened, backbone):
    experiment, manifest, encoded = opened
    encoded.clear()
    table = probe_table(Probes(experiment, manifest, backbone), seeds=2)
    first = len(encoded)
    assert first <= 24 + 12 + 12
    assert table.kind.tolist() == [kind for kind in ("linear", "attentive", "temporal convolution") for _ in range(2)]
    assert (table.videos == 12).all()
    blind = table[~table.sees_order]
    assert (blind.backwards_true - blind.top1).abs().max() < 1e-6  # a mean over frames does not know their order
    assert set(zip(table.lr, table.weight_decay, strict=True)) <= set(GRID)
    again = probe_table(Probes(experiment, manifest, backbone), seeds=2, kinds=("linear",))
    assert again.equals(table[table.kind == "linear"])
    assert len(encoded) == first


def test_a_probe_covers_the_evaluation_split_and_learns_what_a_linear_classifier_can(opened, backbone):
    """Evaluated on its own training videos: 24 points in 96 dimensions, which a line can always separate."""
    experiment, manifest, _ = opened
    seen = manifest.split("train")
    same = Manifest(
        pd.concat([seen.assign(split=split) for split in ("train", "val", "test")], ignore_index=True),
        manifest.class_names,
        manifest.folder,
        "of training videos alone",
    )
    found, *_ = Probes(experiment, same, backbone)("linear")
    assert found.labels.tolist() == seen.label.tolist()
    np.testing.assert_allclose(found.similarity.sum(axis=1), 1, atol=1e-5)
    assert (found.similarity.argmax(axis=1) == found.labels).mean() > 0.95


def test_a_probe_is_scored_on_all_views_and_its_row_says_so(prepared, backbone, monkeypatch):
    """Three clips along time: the mean of their softmax scores. It was the first view alone, and the row said 1x1."""
    experiment = load_experiment("tiny", ["data.stride=1", "eval.temporal_views=3"])
    manifest = load_manifest(experiment)
    fixed = torch.nn.Linear(96, 12)
    heads = {"weight": fixed.weight.detach().repeat(len(GRID), 1, 1), "bias": fixed.bias.detach().repeat(len(GRID), 1)}
    monkeypatch.setattr(table_module, "fit", lambda *_: heads)
    found, *_ = Probes(experiment, manifest, backbone)("linear")
    assert found.protocol.columns("")["views"] == "1x3"
    protocol = Protocol.of_experiment(experiment)
    train = split_features(experiment, manifest, backbone, dataclasses.replace(protocol.one_view(), split="train"))
    seen = unit(torch.from_numpy(train.scores["encoded"][:, 0]).float().mean(1))  # one view of each training video
    test = split_features(experiment, manifest, backbone, protocol)
    with torch.no_grad():
        views = torch.nn.functional.normalize(torch.from_numpy(test.scores["encoded"]).float().mean(2), dim=-1)
        by_view = fixed((views - seen.mean(0)) / (seen.std(0) + 1e-6)).softmax(-1)
    assert (by_view[:, 0] - by_view[:, 2]).abs().max() > 1e-3  # the views differ
    np.testing.assert_allclose(found.similarity, by_view.mean(1), atol=1e-4)


@pytest.mark.parametrize(("split", "chosen"), [("val", MIDDLE), ("test", 0)])
def test_the_reported_split_chooses_nothing_for_a_probe(opened, backbone, monkeypatch, split, chosen):
    """All heads are equal, and of equals the first is chosen, where a choice is made."""
    experiment, manifest, _ = opened
    heads = {"weight": torch.zeros(len(GRID), 12, 96), "bias": torch.zeros(len(GRID), 12)}
    monkeypatch.setattr(table_module, "fit", lambda *_: heads)
    asked = experiment.model_copy(update={"eval": experiment.eval.model_copy(update={"split": split})})
    assert Probes(asked, manifest, backbone)("linear")[-1] == GRID[chosen]


def test_patches_are_those_of_the_last_block_and_a_probe_attends_to_them(opened, backbone):
    """Every clip of the kept patches equals the tower's own tokens; frames that are reversed keep their patches in order."""
    experiment, manifest, _ = opened
    protocol = Protocol.of_experiment(experiment)
    lines = []
    found = split_features(experiment, manifest, backbone, protocol, report=lines.append, patches=True)
    assert found.scores["encoded"].shape == (12, 1, 4 * 16, 96)
    assert "0.1 MB" in lines[0]  # 12 clips x 4 frames x 16 patches x 96 channels x 2 bytes
    views = evaluation_views(experiment, manifest, backbone, protocol)
    video = backbone.video(views[0].clip, CPU)
    with torch.no_grad():
        tokens = frozen_clip(experiment, backbone, manifest.class_names).visual_tokens(video)[:, :, 1:].flatten(1, 2)
    np.testing.assert_allclose(found.scores["encoded"][0], tokens, atol=2e-2, rtol=2e-3)  # float16
    probes = Probes(experiment, manifest, backbone, patches=True)
    table = probe_table(probes, 1, [ON_PATCHES])
    assert (table.kind.tolist(), table.videos.tolist()) == ([ON_PATCHES], [12])
    rows = probes.clips["test"].unflatten(2, (4, 16))
    assert not torch.equal(rows, rows.flip(2))
