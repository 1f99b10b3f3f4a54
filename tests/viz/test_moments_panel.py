"""Lists of moments that play, the search box, and the timeline, whose controls never run a model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numbered_videos import encode, pictures

from m2clip_lib.errors import UserError
from m2clip_lib.moments.windows import Timeline
from m2clip_lib.viz.moments_panel import LISTED, Moments, TimelinePanel, search_box


@pytest.fixture
def video(tmp_path) -> str:
    encode(tmp_path / "a.mp4", pictures())
    return str(tmp_path / "a.mp4")


def listed(moments: Moments) -> list[str]:
    return [button.description for button in moments.buttons if button.layout.display != "none"]


def test_a_moment_plays_when_it_is_clicked(video):
    moments = Moments()
    assert listed(moments) == []
    moments.show([(video, 0.2, 0.4, "a <b>"), ("/gone.mp4", 0.0, 1.0, "gone")])
    assert listed(moments) == ["▶ 0.2 to 0.4 s  a <b>", "▶ 0.0 to 1.0 s  gone"]
    moments.buttons[0].click()
    assert "data:video/mp4;base64," in moments.player.value
    moments.buttons[1].click()
    assert "/gone.mp4: missing" in moments.message.value
    moments.show([(video, 0.0, 1.0, "x")] * (LISTED + 5))
    assert len(listed(moments)) == LISTED
    assert moments.player.value == ""


def test_a_sentence_finds_moments(video):
    asked = []

    def search(text, top, report):
        asked.append((text, top))
        report("searching: 1 of 2 <videos>")
        assert "1 of 2 &lt;videos&gt;" in box.children[1].value
        if text == "bad":
            raise UserError("search: no")
        return pd.DataFrame([(video, 0.2, 0.4, 0.3)], columns=["path", "start_s", "end_s", "score"]), {"x.mp4": "missing"}

    box = search_box(SimpleNamespace(search=search))
    text, message, found = box.children
    text.value = " a red ring "
    assert asked == [("a red ring", LISTED)]
    first = found.children[1].children[0].children[0]
    assert first.description.startswith("▶ 0.2 to 0.4 s  0.300  ")
    assert message.value == "<div>1 videos could not be read, such as x.mp4: missing</div>"
    first.click()
    assert "data:video/mp4" in found.children[1].children[1].value
    text.value = "bad"
    assert "search: no" in message.value
    assert first.layout.display == "none"
    text.value = ""
    assert (len(asked), message.value) == (2, "")


@pytest.fixture
def panel(video):
    """Three windows of one second each, half a second apart: "up" in the first two, "down" in the last."""
    scores = np.float32([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    stored = Timeline(video, np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.5, 2.0]), scores, ["up", "down"], "ensemble", [])
    calls = []
    made = TimelinePanel(SimpleNamespace(timeline=lambda path, window: calls.append((path, window)) or stored))
    made.calls = calls
    return made


def test_the_controls_change_the_segments_without_the_model(panel, video):
    panel.path.value = video
    assert panel.calls == []
    panel.run.click()
    assert listed(panel.found) == ["▶ 0.0 to 1.2 s  up, 75 %", "▶ 1.2 to 2.0 s  down, 80 %"]  # cells meet in the middle of two centres
    assert panel.words.value == "<div>2 segments in 3 windows, read-out ensemble</div>"
    assert panel.picture.value.count("background:#0072B2") == 2
    panel.threshold.value = 0.85
    assert listed(panel.found) == ["▶ 0.0 to 0.8 s  up, 90 %"]
    panel.threshold.value = 0.3
    panel.least.value = 1.1
    assert listed(panel.found) == ["▶ 0.0 to 1.2 s  up, 75 %", "▶ 0.8 to 2.0 s  down, 60 %"]
    panel.least.value = 1.26
    assert listed(panel.found) == []
    assert panel.words.value.startswith("<div>0 segments")
    assert panel.calls == [(video, 0.0)]


def test_another_video_or_window_is_scored_when_asked_for(panel, video):
    panel.run.click()
    assert "timeline: no video" in panel.message.value
    panel.path.value = video
    panel.run.click()
    panel.window.value = 0.5
    assert listed(panel.found) == []
    panel.threshold.value = 0.1
    assert listed(panel.found) == []
    panel.run.click()
    assert panel.calls == [(video, 0.0), (video, 0.5)]
    assert len(listed(panel.found)) == 2
