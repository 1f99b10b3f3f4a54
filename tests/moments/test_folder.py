"""A folder of videos: the scores of predict_videos, nothing scored twice, and what cannot be read named."""

import shutil

import numpy as np
import pytest
from numbered_videos import encode, pictures
from odd_videos import joined

from m2clip_lib import paths
from m2clip_lib.data.demo.videos import draw_video, write_video
from m2clip_lib.data.video.probe import probe
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import predict_videos
from m2clip_lib.moments import folder as module
from m2clip_lib.moments.folder import predict_folder, predictions_table
from m2clip_lib.viz.overlay import burn_label

pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture
def checkpoint(trained):
    return trained[0] / "checkpoints" / "tiny" / "best.safetensors"


@pytest.fixture
def opened(monkeypatch):
    """Which rows the loader was asked for."""
    asked, views = [], module.TestViews

    def counted(table, reader, protocol, side, colours, rows):
        asked.append(list(rows))
        return views(table, reader, protocol, side, colours, rows)

    monkeypatch.setattr(module, "TestViews", counted)
    return asked


def test_a_folder_gives_the_predictions_of_its_videos_and_continues(workspace, checkpoint, video_folder, opened, tmp_path):
    folder, lines = tmp_path / "mine", []
    shutil.copytree(video_folder, folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    found = predict_folder(folder, checkpoint, top=2, workers=0, report=lines.append)
    good = sorted(folder.rglob("*/*"))
    assert [one.path for one in found] == [str(path) for path in sorted([*good, folder / "broken.mp4"])]
    assert [one.error[:16] for one in found if one.error] == ["cannot be opened"]
    for one, alone in zip([one for one in found if not one.error], predict_videos(good, checkpoint, top=2), strict=True):
        assert [name for name, _ in one.top] == [name for name, _ in alone.top]
        np.testing.assert_allclose([score for _, score in one.top], [score for _, score in alone.top], atol=1e-5)
    assert predict_folder(folder, checkpoint, top=2, workers=0, report=lines.append) == found
    assert len(opened) == 1  # all was known
    write_video(folder / "new.mp4", draw_video(1, np.random.default_rng(1), 8, 64))
    again = predict_folder(folder, checkpoint, top=2, workers=0, report=lines.append)
    assert [len(rows) for rows in opened] == [12, 1]
    assert "predict: 12 videos are known from before, 1 are to be scored" in lines
    assert [one for one in again if not one.path.endswith("new.mp4")] == found
    predict_folder(folder, checkpoint, ["run", "walk"], top=2, workers=0, report=lines.append)
    assert len(opened[-1]) == 13  # other names are other scores


def test_a_stopped_run_keeps_what_it_has_scored(workspace, checkpoint, video_folder, opened, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 5)
    score = module.Scorer.__call__

    def stopped(self, batch):
        if 10 in batch.indices:
            raise KeyboardInterrupt
        return score(self, batch)

    monkeypatch.setattr(module.Scorer, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(video_folder, checkpoint, workers=0, report=lambda line: None)
    monkeypatch.setattr(module.Scorer, "__call__", score)
    found = predict_folder(video_folder, checkpoint, workers=2, report=lambda line: None)
    assert [len(rows) for rows in opened] == [12, 2]
    assert not any(one.error for one in found)


def test_the_table_names_labels_scores_and_reasons(workspace, checkpoint, video_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    shutil.copy(next(video_folder.rglob("*.mp4")), tmp_path / "mine" / "b.mp4")
    (tmp_path / "mine" / "a.mp4").touch()
    table = predictions_table(predict_folder(tmp_path / "mine", checkpoint, top=2, workers=0, report=lambda line: None))
    assert list(table) == ["path", "label_1", "score_1", "label_2", "score_2", "reason"]
    assert table.reason.tolist() == ["empty file", ""]
    assert table.label_1.isna().tolist() == [True, False]
    assert 0 < table.score_2[1] <= table.score_1[1] <= 100


def test_a_folder_without_videos_is_an_error(workspace, checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, what in ((tmp_path / "gone", "no such folder"), (tmp_path / "empty", "holds no video")):
        with pytest.raises(UserError, match=f"--folder .*: {what}"):
            predict_folder(folder, checkpoint)
    assert not (paths.DATA / "moments").exists()


@pytest.mark.parametrize("name", ["a.mp4", "joined.ts"])
def test_a_burnt_copy_keeps_uneven_times_and_those_of_joined_recordings(tmp_path, name):
    frames = pictures()[:12]
    if name == "a.mp4":
        encode(tmp_path / name, frames, times=[0, 900, 940, 980, *range(2000, 2320, 40)])
    else:
        joined(tmp_path / name, frames, frames)
    burn_label(tmp_path / name, tmp_path / "copy.mp4", "walk")
    expected, found = (frame_times(probe(tmp_path / file).times)[:-1] for file in (name, "copy.mp4"))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_burnt_copy_has_the_same_times_and_the_text_in_its_corner(tmp_path):
    frames = np.full((10, 97, 130, 3), 128, np.uint8)[:, :96]
    write_video(tmp_path / "a.mp4", frames, fps=5)
    burn_label(tmp_path / "a.mp4", tmp_path / "out" / "a.mp4.mp4", "walk 97 %")
    one, copy = probe(tmp_path / "a.mp4"), probe(tmp_path / "out" / "a.mp4.mp4")
    assert (copy.num_frames, copy.duration_s, copy.width, copy.height, copy.codec) == (10, 2.0, 130, 96, "h264")
    assert copy.times == one.times
    from m2clip_lib.data.video.decode import read_frames

    shown = read_frames(tmp_path / "out" / "a.mp4.mp4", [9])[0][0].astype(int)
    assert np.abs(shown[:14] - 128).max() > 80
    assert np.abs(shown[48:] - 128).max() < 12
