"""Orders of frames in one pass, views in pieces, parts that an interrupted evaluation keeps, and the dial towards frozen CLIP."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.data.dataset import in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.video.probe import VideoError
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate import scoring
from m2clip_lib.evaluate.controls import frozen_clip
from m2clip_lib.evaluate.evaluate import forget_other_checkpoints
from m2clip_lib.evaluate.protocol import WITHOUT_TIME, Protocol, TestViews
from m2clip_lib.evaluate.scoring import Found, Scorer, predict, predict_orders, score_all
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.mix import mixed_with_frozen

NAMES = ("moving left", "moving right", "growing")
PROTOCOL = Protocol("test", 4, 1, 2, 3)


def noise(row: int, indices, short_side: int) -> tuple[np.ndarray, str]:
    return np.stack([np.random.default_rng([row, index]).integers(0, 256, (64, 96, 3), np.uint8) for index in indices]), "noise"


def table(videos: int) -> pd.DataFrame:
    labels = [i % 3 for i in range(videos)]
    paths = [f"{i}.mp4" for i in range(videos)]
    return pd.DataFrame({"num_frames": 8, "label": labels, "path": paths, "class_name": [NAMES[i] for i in labels], "status": "ok"}).assign(
        split="test"
    )


@pytest.fixture(scope="module")
def model(backbone):
    """With weights as after training: nothing is at its zero start."""
    torch.manual_seed(0)
    config = M2CLIPConfig(NAMES, ("left",), vision_adapter_layers=2, vision_adapter_width=4, text_adapter_layers=2, text_adapter_width=4)
    made = M2CLIP(backbone, config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and "mlm" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def scored(model, protocol, orders=("forwards",), batch_size=2, videos=5, views_at_once=0):
    views = TestViews(table(videos), noise, protocol, 64)
    scorer = Scorer(model, protocol, orders=orders, views_at_once=views_at_once)
    return scorer.predictions(score_all(scorer, make_loader(views, in_order(videos, batch_size), 0), batch_size), views)


def close(first, second, tolerance=1e-5) -> None:
    np.testing.assert_allclose(first.similarity, second.similarity, atol=tolerance)
    np.testing.assert_allclose(first.classifier, second.classifier, atol=tolerance)


def test_orders_scored_in_one_pass_are_those_scored_alone(model):
    """Alone, the dataset reads the frames in that order; together, the clips that were decoded once are rearranged."""
    together = scored(model, PROTOCOL, ("forwards", *WITHOUT_TIME))
    for order in WITHOUT_TIME:
        alone = predict(model, TestViews(table(5), noise, replace(PROTOCOL, order=order), 64), 2, 0)
        close(together[order], alone)
        assert together[order].protocol.order == order
        assert abs(together[order].similarity - together["forwards"].similarity).max() > 1e-4


@pytest.mark.parametrize(("batch_size", "at_once"), [(1, 0), (3, 1), (5, 4), (2, 5)])
def test_batches_and_pieces_of_views_change_nothing(model, batch_size, at_once):
    close(
        scored(model, PROTOCOL, batch_size=batch_size, views_at_once=at_once)["forwards"], scored(model, PROTOCOL, batch_size=5)["forwards"]
    )


def test_half_precision_is_counted_against_fp32(model):
    half = scored(model, replace(PROTOCOL, precision="bf16"), videos=4)["forwards"]
    exact = scored(model, PROTOCOL, videos=4)["forwards"]
    assert half.agreement[1] == 2  # the first batch
    assert exact.agreement == (0, 0)
    assert half.similarity.dtype == exact.similarity.dtype == np.float32
    assert 0 < abs(half.similarity - exact.similarity).max() < 0.2


# --- parts ---


@pytest.fixture
def many(workspace, monkeypatch, model):
    """Score 11 imagined videos in parts of 4; returns what does it, and the rows that were read."""
    read = []

    def reader(row, indices, short_side):
        read.append(row)
        if row == 6:
            raise VideoError("broken on purpose")
        return noise(row, indices, short_side)

    monkeypatch.setattr(scoring, "PART", 4)
    monkeypatch.setattr(scoring, "evaluation_views", lambda e, m, b, protocol, rows: TestViews(table(11), reader, protocol, 64, rows=rows))
    monkeypatch.setattr(scoring, "with_list", lambda found, *_, **__: found)

    def run(parts=None, rows=None):
        read.clear()
        experiment = load_experiment("tiny", ["eval.batch_size=3"])
        return predict_orders(experiment, Manifest(table(11), list(NAMES), workspace, ""), model, PROTOCOL, rows, parts)["forwards"], set(
            read
        )

    return run


def test_an_interrupted_evaluation_goes_on_where_it_was(many, tmp_path):
    whole, _ = many()
    first, read = many(tmp_path / "parts")
    assert read == set(range(11))
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == ["00000000.npz", "00000004.npz", "00000008.npz"]
    (tmp_path / "parts" / "00000004.npz").unlink()
    again, read = many(tmp_path / "parts")
    assert read == {4, 5, 6, 7}
    for found in (first, again):
        assert np.array_equal(found.similarity, whole.similarity)
        assert np.array_equal(found.classifier, whole.classifier)
        assert found.rows == whole.rows == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
        assert found.failed == [(6, "broken on purpose")]
        assert found.decoders == {"noise": 10}


def test_few_videos_need_no_parts(many, tmp_path):
    found, _ = many(tmp_path / "parts", rows=[2, 9])
    assert found.rows == [2, 9]
    assert not (tmp_path / "parts").exists()


@given(st.lists(st.integers(0, 60), unique=True, min_size=1), st.integers(1, 9), st.integers(0, 3))
def test_joined_parts_have_every_video_once_whatever_the_cuts(rows, size, processes):
    def part(some: list[int]) -> Found:
        good = [row for row in some if row % 7]
        scores = {"forwards/similarity": np.array(good, float)[:, None]} if good else {}
        return Found(
            np.array(good, np.int64),
            np.array(good, np.int64) % 3,
            scores,
            [(row, "bad") for row in some if row % 7 == 0],
            Counter(x=len(good)),
        )

    parts = [part(rows[i : i + size][rank :: processes + 1]) for i in range(0, len(rows), size) for rank in range(processes + 1)]
    found = Found.joined(parts)
    assert found.rows.tolist() == sorted(row for row in rows if row % 7)
    assert [row for row, _ in found.failed] == sorted(row for row in rows if row % 7 == 0)
    if len(found.rows):
        assert found.scores["forwards/similarity"][:, 0].tolist() == found.rows.tolist()


# --- the dial ---


@torch.no_grad()
def test_the_dial_ends_at_frozen_clip_and_at_the_trained_model(model, backbone):
    video = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens = backbone.tokenizer(["a video of moving left", "skiing"])
    trained = model.encode_video(video).image_features, model.encode_text(tokens).text_features
    frozen = frozen_clip(Experiment(name="mine"), backbone, list(NAMES))
    clip = frozen.encode_video(video).image_features, frozen.encode_text(tokens).text_features
    with mixed_with_frozen(model, 0.0):
        found = model.encode_video(video).image_features, model.encode_text(tokens).text_features
    for mine, its in zip(found, clip, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
    with mixed_with_frozen(model, 0.5):
        half = model.encode_video(video).image_features
    assert abs(half - trained[0]).max() > 1e-3 < abs(half - clip[0]).max()
    with mixed_with_frozen(model, 1.0):
        assert torch.equal(model.encode_video(video).image_features, trained[0])
    assert torch.equal(model.encode_video(video).image_features, trained[0])  # nothing stays behind
    with pytest.raises(RuntimeError, match="on purpose"), mixed_with_frozen(model, 0.0):
        raise RuntimeError("on purpose")
    assert torch.equal(model.encode_text(tokens).text_features, trained[1])


# --- views by name ---


@pytest.mark.parametrize(("name", "spatial", "temporal"), [("1x1", 1, 1), ("3x1", 3, 1), ("1x3", 1, 3), ("4x3", 4, 3), ("3x10", 3, 10)])
def test_views_have_names(workspace, name, spatial, temporal):
    asked = load_experiment("tiny", [f"eval.views={name}"]).eval
    assert (asked.spatial_views, asked.temporal_views, asked.views) == (spatial, temporal, name)
    protocol = Protocol.of_experiment(load_experiment("tiny", [f"eval.views={name}", "data.stride=2"]))
    assert (protocol.views, protocol.num_views) == (name, spatial * temporal)
    assert protocol.columns("0" * 64)["views"] == name


def test_of_name_and_numbers_the_last_counts(workspace):
    assert load_experiment("tiny", ["eval.views=4x3", "eval.temporal_views=2"]).eval.views == "4x2"
    assert load_experiment("tiny", ["eval.spatial_views=3", "eval.views=1x2"]).eval.spatial_views == 1
    assert load_experiment("tiny", ["eval.spatial_views=3"]).eval.views == "3x1"


@pytest.mark.parametrize("name", ["2x3", "4", "4x0", "4*3", "x", "4x3x1", "３x1"])
def test_other_names_of_views_are_refused(workspace, name):
    with pytest.raises(UserError, match="expected <spatial>x<temporal>"):
        load_experiment("tiny", [f"eval.views={name}"])


# --- one checkpoint per folder ---


def test_predictions_of_another_checkpoint_are_removed_and_controls_stay(tmp_path):
    """A mix that was scored with yesterday's checkpoint must not stand beside today's."""
    for name, about in (("test", '"today"'), ("test_mix0.25", '"yesterday"'), ("test_frozen_clip", None)):
        (tmp_path / f"{name}.json").write_text(f'{{"checkpoint_sha256": {about}}}' if about else "{}", encoding="utf-8")
        for ending in (".npz", ".parquet"):
            (tmp_path / f"{name}{ending}").touch()
    forget_other_checkpoints(tmp_path, "today")
    assert {file.name.rpartition(".")[0] for file in tmp_path.iterdir()} == {"test", "test_frozen_clip"}
    assert len(list(tmp_path.iterdir())) == 6
