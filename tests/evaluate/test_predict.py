"""Predictions for video files, by the function behind the command."""

import numpy as np
import pytest

from m2clip_lib.config import load_experiment
from m2clip_lib.data.demo.videos import CLASS_NAMES
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import parse_labels, predict_videos
from m2clip_lib.evaluate.predictions import load_predictions

pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def checkpoint(trained):
    return trained[0] / "checkpoints" / "tiny" / "best.safetensors"


@pytest.fixture
def videos(video_folder):
    return sorted(video_folder.rglob("*.*"))


def test_every_video_gets_its_best_classes_in_the_order_given(checkpoint, videos):
    found = predict_videos(videos[:4], checkpoint, top=3)  # mp4, webm, avi, mkv of four sizes
    assert [video.path for video in found] == [str(path) for path in videos[:4]]
    for video in found:
        assert video.error == ""
        assert video.readout == "ensemble"
        scores = [score for _, score in video.top]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert {name for name, _ in video.top} <= set(CLASS_NAMES)


def test_scores_of_all_classes_sum_to_one(checkpoint, videos):
    (video,) = predict_videos(videos[:1], checkpoint, top=100)
    assert len(video.top) == len(CLASS_NAMES)
    assert sum(score for _, score in video.top) == pytest.approx(1, abs=1e-5)


def test_prediction_of_a_test_video_agrees_with_the_evaluation(trained, checkpoint):
    saved = load_predictions(trained[1] / "predictions", "test")
    table = load_manifest(load_experiment("tiny", [f"data.prepared={trained[0] / 'data' / 'tiny'}"])).split("test")
    for video, scores in zip(predict_videos(list(table.path[:3]), checkpoint, top=12), saved.readout("ensemble"), strict=False):
        found = dict(video.top)
        np.testing.assert_allclose([found[name] for name in saved.class_names], scores, atol=1e-5)


def test_an_unreadable_video_gives_the_reason_and_the_others_are_predicted(checkpoint, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is not a video")
    found = predict_videos([broken, videos[0], tmp_path / "gone.mp4", videos[1]], checkpoint)
    assert found[0].error.startswith("cannot be opened")
    assert found[2].error == "missing"
    assert found[0].top == found[2].top == []
    alone = predict_videos([videos[1]], checkpoint)
    assert found[3].top == alone[0].top
    assert found[3].path == str(videos[1])


def test_unreadable_videos_alone_give_their_reasons(checkpoint, tmp_path):
    assert [video.error for video in predict_videos([tmp_path / "a.mp4", tmp_path / "b.mp4"], checkpoint)] == ["missing", "missing"]


def test_other_labels_are_scored_by_similarity(checkpoint, videos):
    (video,) = predict_videos(videos[:1], checkpoint, labels=["a red square", "nothing at all"], top=5)
    assert video.readout == "similarity"
    assert {name for name, _ in video.top} == {"a red square", "nothing at all"}
    assert sum(score for _, score in video.top) == pytest.approx(1, abs=1e-5)


def test_a_prediction_as_json_has_names_and_rounded_scores(checkpoint, videos):
    (video,) = predict_videos(videos[:1], checkpoint, top=1)
    assert video.as_dict() == {
        "path": str(videos[0]),
        "readout": "ensemble",
        "top": [{"label": video.top[0][0], "score": round(video.top[0][1], 6)}],
        "error": "",
    }


def test_labels_are_a_list_or_a_file(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("brush hair\n\ncut in kitchen, slowly\n")
    assert parse_labels("") == []
    assert parse_labels(" run, walk ,") == ["run", "walk"]
    many = [f"a person who does thing number {i}" for i in range(40)]  # longer than a file's name can be
    assert parse_labels(",".join(many)) == many
    assert parse_labels(str(names)) == ["brush hair", "cut in kitchen, slowly"]


@pytest.mark.parametrize("text", ["run", ",", "run,run"])
def test_fewer_than_two_different_labels_are_refused(text):
    with pytest.raises(UserError, match=r"labels .*: needs two or more different names"):
        parse_labels(text)


def test_labels_that_look_like_one_class_are_refused():
    with pytest.raises(UserError, match=r"labels 'run, Run': 'run' and 'Run' look like one class"):
        parse_labels("run, Run")
