"""Frozen features: computed once, continued, and those of CLIP itself; probes on them."""

import dataclasses

import numpy as np
import pytest
import torch
from workspaces import prepared_workspace

from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.evaluate.controls import frozen_clip, view_features
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views
from m2clip_lib.probes import features as module
from m2clip_lib.probes.features import feature_folder, split_features
from m2clip_lib.probes.table import GRID, Probes, probe_table

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
    assert found.frames.shape == (12, 3, 4, 96)
    assert lines[0].startswith("features: 12 videos of split test, 3x1 views: 0.0 MB in ")
    views = evaluation_views(experiment, manifest, backbone, protocol)
    direct, labels, rows, _ = view_features(frozen_clip(experiment, backbone, manifest.class_names), views, experiment, CPU)
    means = torch.nn.functional.normalize(torch.from_numpy(found.frames).float().mean(2), dim=-1)
    torch.testing.assert_close(means, direct, atol=2e-3, rtol=2e-3)  # float16
    assert (found.labels.tolist(), found.rows) == (labels.tolist(), rows)
    assert len(encoded) == 12
    again = split_features(experiment, manifest, backbone, protocol)
    assert len(encoded) == 12
    assert np.array_equal(again.frames, found.frames)


def test_an_interrupted_run_encodes_only_what_is_missing(opened, backbone):
    experiment, manifest, encoded = opened
    protocol = Protocol.of_experiment(experiment, split="val")
    whole = split_features(experiment, manifest, backbone, protocol)
    part = feature_folder(experiment, manifest, backbone, protocol) / "00000005.npz"
    part.unlink()
    encoded.clear()
    assert np.array_equal(split_features(experiment, manifest, backbone, protocol).frames, whole.frames)
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


def test_all_probes_and_seeds_share_one_pass_over_the_videos(opened, backbone):
    experiment, manifest, encoded = opened
    encoded.clear()
    table = probe_table(Probes(experiment, manifest, backbone, CPU), seeds=2)
    first = len(encoded)
    assert first <= 24 + 12 + 12
    assert table.kind.tolist() == [kind for kind in ("linear", "attentive", "temporal convolution") for _ in range(2)]
    assert (table.videos == 12).all()
    assert set(zip(table.lr, table.weight_decay, strict=True)) <= set(GRID)
    assert probe_table(Probes(experiment, manifest, backbone, CPU), seeds=2).equals(table)
    assert len(encoded) == first
