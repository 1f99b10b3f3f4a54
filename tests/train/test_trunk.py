"""Training that starts behind the frozen blocks: the same clips, the same numbers up to float16, nothing computed twice."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from workspaces import prepared_workspace

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.video.cache import CachedReader
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import build_model, open_backbone
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.train import step
from m2clip_lib.train.loop import train
from m2clip_lib.train.step import TrainingSteps
from m2clip_lib.train.trunk import TrunkTokens

pytestmark = pytest.mark.xdist_group("trunk")
LAST = ("train.epochs=2", "train.precision=fp32", "model.vision_adapter_layers=1")  # of 4 blocks


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip_file, video_folder):
    yield from prepared_workspace(tmp_path_factory.mktemp("trunk"), clip_file, video_folder)


def train_tiny(run: str, *overrides: str, lines: list | None = None):
    experiment = load_experiment("tiny", overrides)
    result = train(experiment, load_manifest(experiment), run, report=(lines if lines is not None else []).append)
    return result, load_file(result.last)


def make_steps(*overrides: str, lines: list | None = None) -> TrainingSteps:
    experiment = load_experiment("tiny", overrides)
    manifest, backbone = load_manifest(experiment), open_backbone(experiment)
    model = build_model(experiment, backbone, manifest.class_names)
    return TrainingSteps(experiment, manifest, backbone, model, Processes(), (lines if lines is not None else []).append)


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({"vision_adapter_layers": 1}, 3),
        ({"vision_adapter_layers": 3}, 1),
        ({"vision_adapter_layers": 4}, 0),
        ({"vision_adapter_layers": 2, "vision_adapter_blocks": "first"}, 0),
        ({"visual_adapter": "none"}, 4),
        ({"visual_adapter": "none", "unfreeze": 1}, 3),
        ({"visual_adapter": "none", "unfreeze": "biases_and_norms"}, 0),
        ({"visual_adapter": "aim"}, 0),  # adds its embedding of time in front of all blocks
    ],
)
def test_what_follows_the_trunk_gives_the_same_to_the_bit(backbone, changes, blocks):
    config = dataclasses.replace(
        M2CLIPConfig(("a", "b"), ("a",), 1, 8, text_adapter_layers=1, text_adapter_width=8, num_frames=3), **changes
    )
    model = M2CLIP(backbone, config).train()
    model.dropout.p = 0.0
    assert model.trunk_blocks == blocks
    if not blocks:
        return
    video = torch.randn(2, 3, 3, 64, 64)
    kept, gradients = model.trunk(video), []
    assert not kept.requires_grad
    assert kept.shape[2] == (1 if blocks == 4 else 17)  # behind the last block CLS alone is read
    for given in (video, kept):
        seen = model.encode_video(given)
        (seen.frame_features.square().sum() + seen.fc_logits.sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
        gradients[-1]["features"] = seen.frame_features.detach()
    assert gradients[0].keys() == gradients[1].keys()
    assert all(gradients[0][name].equal(gradients[1][name]) for name in gradients[0])


def test_as_many_saved_views_as_epochs_train_the_same_up_to_float16(prepared):
    _, plain = train_tiny("plain", *LAST)
    lines = []
    _, kept = train_tiny("kept", *LAST, "train.saved_views=2", lines=lines)
    size = 2 * 24 * 4 * 17 * 96 * 2  # views, videos, frames, tokens, channels, bytes
    assert lines[0].startswith(f"trunk: 3 of 4 blocks of 2 clips per video are computed once: {size / 1024:.1f} KB in ")
    assert plain.keys() == kept.keys()
    apart = sum(float((kept[name] - value).norm() ** 2) for name, value in plain.items()) ** 0.5
    assert apart < 0.01 * sum(float(value.norm() ** 2) for value in plain.values()) ** 0.5
    losses = [read_csv(paths.RESULTS / run / "metrics.csv").total for run in ("plain", "kept")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_the_second_training_computes_no_token_again_and_gives_the_same_bits(prepared, monkeypatch):
    _, first = train_tiny("first", *LAST, "train.saved_views=1", "train.seed=5")
    monkeypatch.setattr(M2CLIP, "_embed", refuse_training_clips(M2CLIP._embed))
    _, second = train_tiny("second", *LAST, "train.saved_views=1", "train.seed=5")
    assert all(first[name].equal(second[name]) for name in first)


def refuse_training_clips(embed):
    """Let models in evaluation mode (validation) and the single clip that asks for a shape embed; no other."""

    def guarded(self, video):
        assert not self.training or len(video) == 1
        return embed(self, video)

    return guarded


def test_views_are_taken_in_turns_and_are_those_of_the_first_epochs(prepared):
    steps = make_steps(*LAST, "train.saved_views=2", "train.seed=6")
    first, second, third = (steps.dataset[epoch, 3].clip for epoch in (1, 2, 3))
    assert first.dtype == torch.float16
    assert first.equal(third)
    assert not first.equal(second)
    clip = steps.dataset.clips[2, 3].clip
    with torch.inference_mode():
        own = steps.model.trunk(steps.backbone.video(clip[None], torch.device("cpu")))[0]
    torch.testing.assert_close(second, own.half(), rtol=1e-2, atol=1e-2)


def test_a_filling_that_was_stopped_goes_on_with_what_is_missing(prepared, monkeypatch):
    kept, written = TrunkTokens.keep, []

    def stop_after_one(self, view, rows, found):
        if written:
            raise KeyboardInterrupt
        written.extend(rows)
        kept(self, view, rows, found)

    monkeypatch.setattr(TrunkTokens, "keep", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        make_steps(*LAST, "train.saved_views=1", "train.seed=7")
    again = []
    monkeypatch.setattr(TrunkTokens, "keep", lambda self, view, rows, found: (again.extend(rows), kept(self, view, rows, found)))
    make_steps(*LAST, "train.saved_views=1", "train.seed=7")
    assert len(written) == 8
    assert sorted(written + again) == list(range(24))


def test_a_video_that_cannot_be_read_is_skipped_with_its_reason_and_asked_again(prepared, monkeypatch):
    read = CachedReader.__call__

    def refuse(self, row, indices, short_side):
        if row == 5:
            raise VideoError("truncated")
        return read(self, row, indices, short_side)

    monkeypatch.setattr(CachedReader, "__call__", refuse)
    steps = make_steps(*LAST, "train.saved_views=1", "train.seed=8")
    item = steps.dataset[1, 5]
    assert (item.clip, item.error) == (None, "truncated")
    assert steps.dataset.tokens.missing(range(24)) == [(0, 5)]
    monkeypatch.undo()
    assert make_steps(*LAST, "train.saved_views=1", "train.seed=8").dataset[1, 5].clip is not None


@pytest.mark.parametrize("change", ["videos", "code", "weights", "activation", "seed"])
def test_kept_tokens_are_those_of_the_same_videos_code_and_backbone(prepared, monkeypatch, change):
    """Each of these decides the tokens; the manifest's digest does not know the content of the videos."""
    before = make_steps(*LAST, "train.saved_views=1").dataset.tokens.folder
    overrides = []
    if change == "videos":
        monkeypatch.setattr(step, "made_from", lambda folder: "rewritten in place")
    elif change == "code":
        monkeypatch.setattr(step, "code_digest", lambda core: "another")
    elif change == "weights":
        opened = open_backbone(load_experiment("tiny"))
        monkeypatch.setitem(globals(), "open_backbone", lambda experiment: dataclasses.replace(opened, sha256="another"))
    elif change == "activation":
        overrides = ["backbone.model_name=ViT-B-16"]
    else:
        overrides = ["train.seed=1"]
    assert make_steps(*LAST, "train.saved_views=1", *overrides).dataset.tokens.folder != before


def test_values_beyond_float16_are_refused(prepared, monkeypatch):
    monkeypatch.setattr(M2CLIP, "trunk", lambda self, video: torch.full((len(video), 4, 17, 96), 1e6))
    with pytest.raises(UserError, match=r"train.saved_views: the tokens of row 0 of the training split do not fit float16; set it to 0"):
        make_steps(*LAST, "train.saved_views=1", "train.seed=9")


def test_where_the_first_block_is_adapted_views_are_saved_but_no_tokens(prepared):
    lines = []
    steps = make_steps("model.vision_adapter_layers=4", "train.saved_views=2", lines=lines)
    assert lines == [
        "train.saved_views: 2 clips of each video, in turns; no block stays as it is below what is trained, so no tokens are kept"
    ]
    first, third = (steps.dataset[epoch, 0].clip for epoch in (1, 3))
    assert first.dtype == torch.uint8
    assert first.equal(third)
