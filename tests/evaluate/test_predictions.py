"""Predictions: how views become one score, what is saved, what happens to a video that cannot be read."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from m2clip_lib.config import DataSection, Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.video.decode import VideoError
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions, load_predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol, TestViews
from m2clip_lib.evaluate.scoring import predict, with_list
from m2clip_lib.evaluate.tables import accuracy_rows
from m2clip_lib.models import M2CLIP, M2CLIPConfig

NAMES = ("moving left", "moving right", "growing")
PROTOCOL = Protocol("test", 2, 1, 2, 3)
TABLE = pd.DataFrame({"num_frames": [6, 6, 6], "label": [2, 0, 1], "path": ["a.mp4", "b.mp4", "c.mp4"]})
TABLE["class_name"] = [NAMES[label] for label in TABLE.label]
TABLE["split"], TABLE["status"] = "test", "ok"


def manifest(folder) -> Manifest:
    return Manifest(TABLE, list(NAMES), folder, "0" * 64)


def noise(row: int, indices, short_side: int) -> tuple[np.ndarray, str]:
    """Frames of an imagined video, 64 x 96 px: noise that depends on row and frame number."""
    return np.stack([np.random.default_rng([row, index]).integers(0, 256, (64, 96, 3), np.uint8) for index in indices]), "noise"


def noise_but_row_1(row: int, indices, short_side: int) -> tuple[np.ndarray, str]:
    if row == 1:
        raise VideoError("broken on purpose")
    return noise(row, indices, short_side)


def views(reader=noise) -> TestViews:
    return TestViews(TABLE, reader, PROTOCOL, side=64)


@pytest.fixture(scope="module")
def model(backbone):
    torch.manual_seed(0)
    config = M2CLIPConfig(NAMES, ("left",), vision_adapter_layers=1, vision_adapter_width=4, text_adapter_layers=3, text_adapter_width=4)
    return M2CLIP(backbone, config).eval()


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax of one row."""
    e = np.exp(x - x.max())
    return e / e.sum()


@torch.no_grad()
def scores_by_hand(model, row: int, names) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the six views of one video: softmax of 100 x cosine, softmax of the linear head."""
    backbone = model.backbone
    texts = model.encode_text(backbone.tokenizer([f"A video of {name}" for name in names])).text_features.double().numpy()
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    similarity, classifier = [], []
    for frames in ((0, 1), (4, 5)):  # first and last start of a 2-frame clip among 6 frames
        pixels = noise(row, frames, 64)[0].astype(np.float64) / 255
        normal = (pixels - np.array(backbone.mean)) / np.array(backbone.std)  # (t, h, w, 3)
        for x in (0, 16, 32):  # start, middle, end of the long side
            clip = torch.from_numpy(normal[:, :, x : x + 64]).float().permute(3, 0, 1, 2)[None]
            seen = model.encode_video(clip)
            image = seen.image_features[0].double().numpy()
            similarity.append(softmax(100 * texts @ image / np.linalg.norm(image)))
            classifier.append(softmax(seen.fc_logits[0].double().numpy()))
    return np.mean(similarity, axis=0), np.mean(classifier, axis=0)


def test_scores_are_the_mean_over_views_of_softmaxes(model):
    found = predict(model, views(), batch_size=2, workers=0)
    for row in range(3):
        similarity, classifier = scores_by_hand(model, row, NAMES)
        np.testing.assert_allclose(found.similarity[row], similarity, atol=2e-5)
        np.testing.assert_allclose(found.classifier[row], classifier, atol=2e-6)
        np.testing.assert_allclose(found.readout("ensemble")[row], (similarity + classifier) / 2, atol=2e-5)
    assert found.labels.tolist() == [2, 0, 1]
    assert found.rows == [0, 1, 2]
    assert found.class_names == list(NAMES)
    assert found.readouts == ("similarity", "classifier", "ensemble")


def test_batch_size_does_not_change_the_scores(model):
    one, three = (predict(model, views(), batch_size, 0) for batch_size in (1, 3))
    np.testing.assert_allclose(one.similarity, three.similarity, atol=2e-5)
    np.testing.assert_allclose(one.classifier, three.classifier, atol=2e-6)


def test_prediction_switches_dropout_off(model):
    model.train()
    first, second = (predict(model, views(), 3, 0) for _ in range(2))
    assert np.array_equal(first.classifier, second.classifier)
    assert not model.training


def test_an_unreadable_video_is_listed_and_no_substitute_is_scored(model):
    whole, found = predict(model, views(), 2, 0), predict(model, views(noise_but_row_1), 2, 0)
    assert found.failed == [(1, "broken on purpose")]
    assert found.rows == [0, 2]
    assert (whole.decoders, found.decoders) == ({"noise": 3}, {"noise": 2})
    assert found.labels.tolist() == [2, 1]
    np.testing.assert_allclose(found.similarity, whole.similarity[[0, 2]], atol=2e-5)


def test_no_readable_video_at_all_is_an_error_with_the_first_reason(model):
    def broken(*_):
        raise VideoError("the disk is gone")

    with pytest.raises(UserError, match="none of 3 videos could be read; first reason: the disk is gone"):
        predict(model, views(broken), 2, 0)


def test_another_label_set_is_scored_by_similarity_alone(model):
    names = ["shrinking", "moving up", "circling", "fading"]
    found = predict(model, views(), 2, 0, class_names=names)
    assert found.classifier is None
    assert found.readouts == ("similarity",)
    assert found.class_names == names
    np.testing.assert_allclose(found.similarity[0], scores_by_hand(model, 0, names)[0], atol=2e-5)


def test_saved_predictions_are_loaded_unchanged(model, tmp_path):
    saved = predict(model, views(noise_but_row_1), 2, 0)
    save_predictions(saved, manifest(tmp_path), tmp_path, "test", checkpoint="best")
    loaded = load_predictions(tmp_path, "test")
    for readout in saved.readouts:
        assert np.array_equal(loaded.readout(readout), saved.readout(readout))
    assert (loaded.labels.tolist(), loaded.rows, loaded.class_names) == ([2, 1], [0, 2], list(NAMES))
    side = json.loads((tmp_path / "test.json").read_text())
    assert side["failed"] == [{"row": 1, "path": "b.mp4", "reason": "broken on purpose"}]
    assert (side["checkpoint"], side["list_sha256"]) == ("best", "0" * 64)
    assert loaded.protocol == saved.protocol == views().protocol.with_texts_of(model.config)


def test_saved_table_has_one_row_per_video_with_its_best_classes(tmp_path):
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], np.float32)
    predictions = Predictions(scores, scores[:, ::-1].copy(), np.array([2, 1]), [0, 2], list(NAMES), protocol=PROTOCOL)
    save_predictions(predictions, manifest(tmp_path), tmp_path, "test")
    rows = pd.read_parquet(tmp_path / "test.parquet")
    assert rows.path.tolist() == ["a.mp4", "c.mp4"]
    assert rows.class_name.tolist() == ["growing", "moving right"]
    assert rows.similarity_top5.map(list).tolist() == [[1, 2, 0], [0, 2, 1]]
    assert list(rows.similarity_top5_scores[0]) == pytest.approx([0.7, 0.2, 0.1])
    assert list(rows.classifier_top5[1]) == [2, 0, 1]
    assert list(rows.ensemble_top5_scores[1]) == pytest.approx([0.4, 0.4, 0.2])


def test_similarity_alone_is_loaded_without_a_classifier(tmp_path):
    scores = np.full((3, 3), 1 / 3, np.float32)
    save_predictions(
        Predictions(scores, None, np.array([2, 0, 1]), [0, 1, 2], list(NAMES), protocol=PROTOCOL), manifest(tmp_path), tmp_path, "zero_shot"
    )
    assert load_predictions(tmp_path, "zero_shot").readouts == ("similarity",)


def test_missing_predictions_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*test.json; evaluate first \(m2clip eval"):
        load_predictions(tmp_path, "test")


UNUSABLE = pd.DataFrame({"path": ["/v/rec_g02_c01.mp4", "/v/gone.mp4", "/v/text.mp4"], "label": [1, 2, 2]})
UNUSABLE["status"] = ["missing", "missing (dangling link)", "cannot be opened"]


def listed(folder, names=("v_run_g01_c01", "v_run_g01_c02", "v_run_g02_c01")) -> Manifest:
    """Three usable videos of two UCF101 recordings, two that are missing and one that is unreadable; and one of another split."""
    (folder / "manifest.json").write_text(json.dumps({"root": "/v"}))
    rows = [TABLE.assign(path=[f"/v/{name}.mp4" for name in names]), UNUSABLE.assign(split="test"), UNUSABLE.assign(split="val")]
    return Manifest(pd.concat(rows, ignore_index=True), list(NAMES), folder, "0" * 64)


def scored(rows: list[int], failed=()) -> Predictions:
    scores = np.full((len(rows), 3), 1 / 3, np.float32)
    labels = TABLE.label.to_numpy()[rows]
    return Predictions(scores, None, labels, rows, list(NAMES), list(failed), protocol=PROTOCOL)


def test_the_manifest_says_which_videos_are_missing_and_which_clips_share_a_recording(tmp_path):
    found = with_list(scored([0, 2], [(1, "broken")]), Experiment(), listed(tmp_path))
    assert found.lost.tolist() == [0, 1, 2, 2]  # row 1, which failed, then those that were never usable
    assert found.missing == 2
    assert found.recordings.tolist() == [0, 1, 0, 2, 3, 4]  # rows 0 and 2, row 1 of row 0's recording, and three more
    save_predictions(found, listed(tmp_path), tmp_path, "test")
    loaded = load_predictions(tmp_path, "test")
    assert (loaded.lost.tolist(), loaded.missing, loaded.recordings.tolist()) == ([0, 1, 2, 2], 2, [0, 1, 0, 2, 3, 4])
    (row,) = accuracy_rows(loaded, "mine")  # it said failed 1, and nothing of the others
    assert [row[name] for name in ("listed", "missing", "unreadable", "scored")] == [6, 2, 2, 2]


def test_of_chosen_rows_no_other_video_counts_as_listed(tmp_path):
    found = with_list(scored([0], [(1, "broken")]), Experiment(), listed(tmp_path), chosen=True)
    assert (found.lost.tolist(), found.missing, found.recordings.tolist()) == ([0], 0, [0, 0])


def test_shots_of_an_hmdb51_film_and_fast_copies_share_their_recording(tmp_path):
    shots = listed(tmp_path, ("film_1", "film_2", "other_1"))
    hmdb = Experiment(data=DataSection(layout="hmdb51"))
    assert with_list(scored([0, 1, 2]), hmdb, shots).recordings[:3].tolist() == [0, 0, 1]
    copies = listed(tmp_path, ("v_run_g01_c01.avi", "v_run_g01_c02.avi", "v_run_g02_c01.avi"))  # and .mp4
    assert with_list(scored([0, 1, 2]), Experiment(data=DataSection(transcode=True)), copies).recordings[:3].tolist() == [0, 0, 1]


def test_predictions_of_before_listed_videos_were_counted_are_refused(tmp_path):
    save_predictions(scored([0, 1, 2]), manifest(tmp_path), tmp_path, "test")
    side = json.loads((tmp_path / "test.json").read_text())
    del side["missing"]
    (tmp_path / "test.json").write_text(json.dumps(side))
    with pytest.raises(UserError, match="older version; evaluate again"):
        load_predictions(tmp_path, "test")


def test_scores_that_are_not_finite_name_checkpoint_and_video_and_give_no_table(backbone):
    torch.manual_seed(0)
    large = M2CLIP(backbone, M2CLIPConfig(NAMES, ("left",), vision_adapter_layers=0, text_adapter_layers=0, frame_adapter=False)).eval()
    torch.nn.init.constant_(large.classifier.weight, 3e38)  # finite, but a product is not
    large.source = "best.safetensors"
    with pytest.raises(UserError, match=r"best\.safetensors: the scores of 3 of 3 videos are not finite, .* \(first: a\.mp4\)"):
        predict(large, views(), 2, 0)
    assert predict(large, views(), 2, 0, class_names=["a", "b"]).similarity.shape == (3, 2)  # the classifier is not asked
