"""The controls that cannot see time, against open_clip's own towers."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn import functional as F

from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.evaluate.controls import clip_features, frozen_clip, unrelated_names, zero_shot
from m2clip_lib.evaluate.protocol import Protocol, evaluation_views

pytestmark = pytest.mark.xdist_group("trained")
CPU = torch.device("cpu")


@pytest.fixture
def tiny(trained, workspace):
    """The tiny experiment on the trained workbook's data: (experiment, manifest)."""
    experiment = load_experiment("tiny", [f"data.prepared={trained[0] / 'data' / 'tiny'}"])
    return experiment, load_manifest(experiment)


@torch.no_grad()
def test_zero_shot_is_clips_own_similarity_of_averaged_frames(tiny, backbone):
    experiment, manifest = tiny
    found = zero_shot(experiment, manifest, backbone, CPU)
    table = manifest.split("test")
    texts = F.normalize(backbone.clip.encode_text(backbone.tokenizer([f"A video of {name}" for name in manifest.class_names])), dim=-1)
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    for row in (0, 7):
        # 16 frames in 4 segments: edges 0 4 8 11 15, their middles 2 6 9 13.
        frames, _ = read_frames(table.path[row], [2, 6, 9, 13], (64, 64))
        pictures = ((torch.from_numpy(frames) / 255 - mean) / std).permute(0, 3, 1, 2)
        video = F.normalize(backbone.clip.encode_image(pictures).mean(dim=0), dim=-1)
        expected = (100 * texts @ video).softmax(dim=-1)
        np.testing.assert_allclose(found.similarity[row], expected.numpy(), atol=1e-4)
    assert found.readouts == ("similarity",)
    assert found.labels.tolist() == table.label.tolist()


@torch.no_grad()
def test_frozen_clip_cannot_tell_forwards_from_backwards(tiny, backbone):
    model = frozen_clip(tiny[0], backbone, tiny[1].class_names)
    video = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.encode_video(video).image_features, model.encode_video(video.flip(2)).image_features)
    assert not [name for name in model.state_dict() if name.startswith(("visual_adapters", "frame_adapter", "text_adapters"))]


def test_zero_shot_scores_unrelated_names_beside_the_classes(tiny, backbone):
    experiment, manifest = tiny
    found = zero_shot(experiment, manifest, backbone, CPU)
    assert found.logits.shape == (12, 12 + 300)
    np.testing.assert_allclose(softmax(found.logits[:, :12], axis=1), found.similarity, atol=1e-5)  # one view
    names = unrelated_names(manifest.class_names, backbone.tokenizer)
    other = zero_shot(experiment, dataclasses.replace(manifest, class_names=names[:12]), backbone, CPU)
    np.testing.assert_allclose(other.logits[:, :12], found.logits[:, 12:24], atol=1e-3)


def test_unrelated_names_are_as_long_as_the_class_names_and_always_the_same(backbone):
    names = unrelated_names(["ski", "moving to the left"], backbone.tokenizer)
    assert len(names) == len(set(names)) == 300
    assert [len(name.split()) for name in names[:4]] == [1, 4, 1, 4]
    assert [len(backbone.tokenizer.encode(name)) for name in names] == [1, 4] * 150
    assert names == unrelated_names(["run", "moving to the right"], backbone.tokenizer)
    assert len(unrelated_names([str(i) for i in range(400)], backbone.tokenizer)) == 800
    assert len(unrelated_names(["a b c d e f g h i j k l"], backbone.tokenizer)[0].split()) == 8  # fits the shortest context


def test_features_of_a_video_are_the_mean_over_its_views(tiny, backbone):
    experiment = load_experiment("tiny", [f"data.prepared={tiny[0].prepared}", "data.stride=1", "eval.temporal_views=2"])
    model = frozen_clip(experiment, backbone, tiny[1].class_names)
    views = evaluation_views(experiment, tiny[1], backbone, Protocol.of_experiment(experiment))
    features, labels = clip_features(model, views, experiment, CPU)
    with torch.no_grad():
        both = F.normalize(model.encode_video(backbone.video(views[3].clip, CPU)).image_features, dim=-1)
    np.testing.assert_allclose(features[3], (both[0] + both[1]) / 2, atol=1e-5)  # it was both[0]
    assert labels.tolist() == tiny[1].split("test").label.tolist()
