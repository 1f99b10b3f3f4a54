"""The explorer's controls and what they show, and the training curves that are redrawn after every epoch."""

import base64
import re
from datetime import UTC, datetime

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.runs import Run
from m2clip_lib.train.loop import train
from m2clip_lib.viz import panel as cards
from m2clip_lib.viz.explorer import Explorer
from m2clip_lib.viz.panel import ExplorerPanel, explore, live_curves


def test_the_picture_follows_the_epochs_of_a_training(workspace):
    """Two epochs on 24 clips, and their videos: about 5 s."""
    experiment = load_experiment("tiny", ["train.epochs=2"])
    manifest = prepare_data(experiment, lambda _line: None)
    shown, tables, pictures = [], [], []
    update = live_curves(8.3, shown.append)
    assert shown[0].value == "waiting for the first epoch"

    def watch(metrics: pd.DataFrame) -> None:
        tables.append(metrics)
        update(metrics)
        pictures.append(shown[0].value)

    result = train(experiment, manifest, "live", lambda _line: None, on_epoch=watch)
    assert [list(table.epoch) for table in tables] == [[1], [1, 2]]
    saved = pd.read_csv(result.metrics)
    pd.testing.assert_frame_equal(tables[-1], saved, check_dtype=False, rtol=1e-6)
    assert len(set(pictures)) == 2
    for epoch, picture in enumerate(pictures, 1):
        assert picture.startswith(f'<img alt="Training after epoch {epoch}: Total loss')
        assert "Best epoch" in picture
    assert not plt.get_fignums()


pytestmark = pytest.mark.xdist_group("trained")


@pytest.fixture(scope="module")
def explorer(trained):
    """Reads the trained run where it is; nothing is written."""
    patch = pytest.MonkeyPatch()
    for name in ("RESULTS", "CHECKPOINTS", "DATA"):
        patch.setattr(paths, name, trained[0] / name.lower())
    patch.setattr(paths, "CONFIG", trained[0] / "config.py")
    run = Run.open("tiny", "", [], step="10_attention_explorer")
    yield Explorer.open(run, load_manifest(run.experiment))
    patch.undo()
    plt.close("all")


@pytest.fixture
def panel(explorer):
    return ExplorerPanel(explorer)


def picture(panel) -> bytes:
    return base64.b64decode(re.search(r'base64,([^"]*)', panel.picture.value).group(1))


def alt(panel) -> str:
    return re.search(r'alt="([^"]*)"', panel.picture.value).group(1)


def labels(panel) -> list[str]:
    return re.findall(r'<td style="text-align:left">([^<]*)', panel.ranking.value)


def test_it_opens_with_a_picture_a_ranking_and_words_for_both(panel):
    assert picture(panel).startswith(b"\x89PNG")
    assert "true class “moving left”" in alt(panel)
    assert "of the relevance" in alt(panel)  # the finding of the map
    assert len(labels(panel)) == 6
    for readout in ("similarity", "classifier", "ensemble"):
        assert f"<th>{readout}, %</th>" in panel.ranking.value
    assert panel.message.value == ""
    assert not plt.get_fignums()  # figures are closed: a long session does not fill the memory


CHANGES = {
    "class": ("class_choice", "growing"),
    "method": ("method", "attention"),
    "asked": ("asked", "fading in"),
    "readout": ("readout", "classifier"),
    "backwards": ("backwards", True),
    "hidden frames": ("hidden_frames", (0, 1)),
    "hidden patches": ("hide_patches", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_control_redraws_the_picture(panel, change):
    name, value = CHANGES[change]
    before = picture(panel)
    getattr(panel, name).value = value
    assert panel.message.value == ""
    assert picture(panel) != before


def test_block_and_head_choose_the_attention_that_is_shown(panel):
    panel.method.value = "attention"
    seen = {picture(panel)}
    assert "Block 4: " in alt(panel)
    panel.block.value = 2
    seen.add(picture(panel))
    panel.head.value = 1
    assert "Block 2, head 2: " in alt(panel)
    assert len(seen | {picture(panel)}) == 3


def test_a_branch_is_shown_in_the_nearest_block_that_has_it(panel):
    panel.method.value = "difference"  # asked for in block 4, whose adapter passes CLS on alone
    assert panel.message.value == ""
    assert "Block 3: " in alt(panel)


def test_typed_labels_are_ranked_at_once_and_taken_back(panel):
    own = labels(panel)
    panel.labels.value = "a red ring, a <b>growing</b> thing, nothing"
    assert set(labels(panel)) == {"a red ring", "a &lt;b&gt;growing&lt;/b&gt; thing", "nothing"}  # what is typed is never markup
    assert "classifier" not in panel.ranking.value
    panel.labels.value = ""
    assert labels(panel) == own


def test_a_single_label_is_a_message_and_the_picture_stays(panel):
    before = picture(panel)
    panel.labels.value = "running"
    assert "needs two or more different names" in panel.message.value
    assert picture(panel) == before
    panel.labels.value = "running, walking"
    assert panel.message.value == ""


def test_an_edit_shows_how_far_the_scores_moved(panel, explorer):
    assert "change, points" not in panel.ranking.value
    panel.backwards.value = True
    before = explorer.scores(panel.look)
    first = labels(panel)[0]
    shown = float(re.search(r"<b>([+-][\d.]+)</b>", panel.ranking.value).group(1))
    after = float(re.search(r"<td>([\d.]+)</td><td><b>", panel.ranking.value).group(1))
    assert shown == pytest.approx(after - before.ensemble[first], abs=0.11)
    assert "played backwards" in alt(panel)


def test_hidden_patches_are_the_chosen_rows_and_columns(panel):
    panel.hidden_rows.value, panel.hidden_columns.value = (2, 3), (1, 4)
    panel.hide_patches.value = True
    assert panel.edit().rows == (1, 3)
    assert panel.edit().columns == (0, 4)
    assert "patches of rows 2 to 3 and columns 1 to 4 hidden" in alt(panel)


def test_two_checkpoints_are_shown_side_by_side(panel, explorer):
    own, last, *_ = explorer.checkpoints
    assert own.endswith("best.safetensors")
    assert last.endswith("last.safetensors")
    panel.other.value = last
    assert panel.message.value == ""
    assert panel.ranking.value.count("<table") == 2
    assert "this run" in panel.ranking.value
    assert "last.safetensors" in alt(panel)


def test_a_missing_checkpoint_is_a_message(panel):
    panel.other.value = "/nowhere/best.safetensors"
    assert "/nowhere/best.safetensors" in panel.message.value


def test_a_path_opens_any_video_and_a_bad_one_is_a_message(panel, video_folder, tmp_path):
    before = picture(panel)
    panel.path.value = str(sorted(video_folder.rglob("*.webm"))[0])
    assert "no true class known" in alt(panel)
    assert picture(panel) != before
    panel.path.value = str(tmp_path / "gone.mp4")
    assert "missing" in panel.message.value
    panel.path.value = ""
    assert picture(panel) == before  # back to the chosen row


def test_an_uploaded_video_is_opened(panel, video_folder):
    file = sorted(video_folder.rglob("*.mp4"))[0]
    sent = {"name": "../mine.mp4", "content": file.read_bytes(), "type": "video/mp4", "size": 1, "last_modified": datetime.now(UTC)}
    panel.upload.value = (sent,)
    assert panel.message.value == ""
    assert "mine.mp4: no true class known" in alt(panel)
    assert panel.look.path.startswith(panel._folder.name)  # whatever its name says


def test_the_film_is_a_video_with_words(panel):
    assert panel.player.value == ""
    panel.play.value = True
    assert panel.player.value.startswith('<video aria-label="Film: the clip')
    panel.play.value = False
    assert panel.player.value == ""


def test_the_timeline_appears_on_demand_and_goes_with_the_video(panel):
    panel.when.click()
    assert 'alt="Timeline of the whole video' in panel.timeline.value
    assert "label 1" in panel.timeline.value
    panel.class_choice.value = "growing"
    assert panel.timeline.value == ""


def test_explore_is_the_box_of_a_panel(explorer):
    assert explore(explorer).children


def test_the_label_that_led_before_an_edit_stays_in_the_ranking():
    names = [f"class {i}" for i in range(10)]
    before = pd.DataFrame({"ensemble": np.linspace(90, 1, 10)}, index=names)
    after = pd.DataFrame({"ensemble": np.linspace(80, 2, 10)}, index=[*names[1:], names[0]])
    page = cards.ranking(after, before)
    assert "<td>10</td>" in page
    assert "class 0" in page
    assert "<b>-88.0</b>" in page
