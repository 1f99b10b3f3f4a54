"""The browser's controls and what they show, on made tables: only one page of thumbnails is read, and decisions are written at once."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numbered_videos import FRAMES, HEIGHT, WIDTH, encode, pictures

from m2clip_lib.data.video.thumbnails import make_thumbnails
from m2clip_lib.viz.browser import ORDERS, PAGE, Browser, Filter
from m2clip_lib.viz.browser_panel import MOST_CELLS, BrowserPanel, browse

NAMES = ["up <b>", "down"]


def made(tmp_path, count: int, names: list[str] = NAMES, **columns: object) -> Browser:
    """A browser of one short video under many names, classes by turns; its thumbnails are counted in `asked`."""
    encode(tmp_path / "a.mp4", pictures())
    numbers = np.arange(count)
    table = pd.DataFrame(
        {
            "path": str(tmp_path / "a.mp4"),
            "name": [f"train/{number}.mp4" for number in numbers],
            "class_name": np.array(names, object)[numbers % len(names)],
            "classes": [(names[number % len(names)],) for number in numbers],
            "frames": [(0, FRAMES)] * count,
            "start_s": 0.0,
            "end_s": np.inf,
            "split": np.where(numbers < count // 2, "train", "test"),
            "duration_s": 1.0 + numbers / count,
            "status": "ok",
            "place": numbers,
            "answer": "",
            "predicted": "",
            "confidence": np.nan,
            "group": np.nan,
            "likelier": "",
            "suspicion": np.nan,
            "action": "",
            "relabel": "",
            "note": "",
        }
        | columns
    )
    experiment = SimpleNamespace(name="made", prepared=tmp_path, eval=SimpleNamespace(split="test"))
    browser = Browser(SimpleNamespace(experiment=experiment, checkpoint=tmp_path / "none.safetensors"), table, names, tmp_path)
    browser.asked = []
    browser.thumbnail = lambda row: browser.asked.append(row) or (b"picture", "")
    return browser


def shown(panel: BrowserPanel) -> list[str]:
    """The names of the videos on the page."""
    return [tile.children[0].tooltip.removeprefix("play ") for tile in panel.pages.tiles if tile.layout.display != "none"]


def test_of_ten_thousand_videos_only_the_thumbnails_of_the_page_are_read(tmp_path):
    browser = made(tmp_path, 10_000)
    panel = BrowserPanel(browser)
    assert browser.asked == list(range(PAGE))
    assert "10,000 of 10,000 videos, page 1 of 417" in panel.pages.count.value
    panel.pages.after.click()
    assert browser.asked == list(range(2 * PAGE))
    browser.asked.clear()
    panel.pages.split.value = "test"
    assert browser.asked == list(range(5000, 5000 + PAGE))
    browser.asked.clear()
    panel.pages.order.value = "longest first"
    assert browser.asked == list(range(9999, 9999 - PAGE, -1))
    panel.pages.text.value = "/9999.mp4"
    assert shown(panel) == ["train/9999.mp4"]
    assert panel.pages.before.disabled
    assert panel.pages.after.disabled


@pytest.mark.slow
def test_it_answers_within_a_second_on_ten_thousand_videos(tmp_path):
    """Prints what docs/data.md says; the thumbnails are read from files. The fastest of five: the machine does other things, too."""
    browser = made(tmp_path, 10_000, confidence=np.linspace(0, 1, 10_000), predicted="down", answer="right", suspicion=0.5)
    del browser.thumbnail  # the real one
    make_thumbnails(browser.table.assign(num_frames=FRAMES, width=WIDTH, height=HEIGHT), tmp_path / "thumbnails", 1)
    pages = BrowserPanel(browser).pages
    actions = {
        "filter": lambda step: setattr(pages.confidence, "value", (step, 90)),
        "path": lambda step: setattr(pages.text, "value", str(step)),
        "order": lambda step: setattr(pages.order, "value", list(ORDERS)[1 + step]),
        "next page": lambda step: pages.after.click(),
    }
    for name, act in actions.items():
        seconds = []
        for step in range(5):
            start = time.perf_counter()
            act(step)
            seconds.append(time.perf_counter() - start)
        print(f"{name}: {min(seconds):.3f} s")
        assert min(seconds) < 1


def test_every_control_narrows_the_list(tmp_path):
    columns = {"predicted": ["down", "", "", ""], "answer": ["wrong", "", "", ""], "confidence": [0.5, np.nan, np.nan, np.nan]}
    columns |= {"group": [np.nan, 1, 1, np.nan], "suspicion": [np.nan, np.nan, np.nan, 0.5], "action": ["", "", "ignore", ""]}
    pages = (panel := BrowserPanel(made(tmp_path, 4, **columns))).pages
    for control, value, left in (
        (pages.class_name, "down", [1, 3]),
        (pages.split, "train", [0, 1]),
        (pages.predicted, "down", [0]),
        (pages.answer, "wrong", [0]),
        (pages.action, "ignore", [2]),
        (pages.text, "/3", [3]),
        (pages.confidence, (40, 60), [0]),
        (pages.duration, (1.2, 1.6), [1, 2]),
        (pages.copies, True, [1, 2]),
        (pages.suspected, True, [3]),
    ):
        control.value = value
        assert shown(panel) == [f"train/{row}.mp4" for row in left]
        pages.clear.click()
        assert len(shown(panel)) == 4
        assert pages.filter() == Filter()


def test_names_are_never_markup(tmp_path):
    panel = BrowserPanel(made(tmp_path, 2))
    assert "<b>up &lt;b&gt;</b>" in panel.pages.tiles[0].children[1].value


def test_a_click_plays_the_video_below_its_row_and_another_click_closes_it(tmp_path):
    pages = BrowserPanel(made(tmp_path, 30)).pages
    assert pages.editor.layout.display == "none"
    pages.tiles[8].children[0].click()  # second row of six: its tiles have the orders 12 to 22
    assert '<video aria-label="' in pages.film.value
    assert "data:video/mp4;base64," in pages.film.value
    assert (pages.editor.layout.display, pages.editor.layout.order) == (None, "23")
    assert "m2clip-chosen" in pages.tiles[8]._dom_classes
    pages.tiles[8].children[0].click()
    assert (pages.editor.layout.display, pages.film.value) == ("none", "")
    assert "m2clip-chosen" not in pages.tiles[8]._dom_classes


def test_decisions_are_written_at_once_and_shown(tmp_path):
    browser = made(tmp_path, 3, likelier=["", "up <b>", ""])
    pages, file = BrowserPanel(browser).pages, tmp_path / "corrections.csv"
    pages.tiles[1].children[0].click()
    assert pages.label.value == "up <b>"  # what the check suggests
    pages.note.value = "seen"
    pages.relabel.click()
    assert file.read_text().splitlines() == ["path,action,class_name,note", "train/1.mp4,relabel,up <b>,seen"]
    assert "now up &lt;b&gt;" in pages.tiles[1].children[1].value
    assert "relabel up &lt;b&gt; (seen)" in pages.facts.value
    pages.ignore.click()
    assert file.read_text().splitlines()[1:] == ["train/1.mp4,ignore,,seen"]
    assert "m2clip-left-out" in pages.tiles[1]._dom_classes
    pages.tiles[0].children[0].click()
    assert pages.note.value == ""
    pages.accept.click()
    assert file.read_text().splitlines()[1:] == ["train/1.mp4,ignore,,seen", "train/0.mp4,accept,,"]
    pages.tiles[1].children[0].click()
    pages.undo.click()
    assert file.read_text().splitlines()[1:] == ["train/0.mp4,accept,,"]
    assert "rather up" in pages.tiles[1].children[1].value


def test_a_file_that_cannot_be_read_or_written_is_a_message(tmp_path):
    browser = made(tmp_path, 2)
    browser.thumbnail = lambda row: (b"", "missing <now>")
    pages = BrowserPanel(browser).pages
    assert pages.tiles[0].children[0].description == "missing <now>"
    (tmp_path / "a.mp4").unlink()
    pages.tiles[0].children[0].click()
    assert "a.mp4: missing" in pages.message.value
    (tmp_path / "corrections.csv").write_text("path,action,class_name,note\nx,fly,,\n")
    pages.accept.click()
    assert "unknown action" in pages.message.value


def buttons(widget) -> list:
    return [child for child in widget.children if hasattr(child, "description") and child.tooltip]


def test_a_cell_of_the_confusion_matrix_lists_its_videos(tmp_path):
    panel = BrowserPanel(made(tmp_path, 8, predicted=["", "", "", "", "down", "down", "down", "up <b>"]))
    cells = {button.tooltip: button for button in buttons(panel.box.children[1].children[1])}
    assert {words: button.description for words, button in cells.items()} == {
        "up <b>, taken for down: 2 videos": "2",
        "down, right: 1 video": "1",
        "down, taken for up <b>: 1 video": "1",
    }
    panel.pages.text.value = "nothing has this name"
    panel.box.selected_index = 1
    cells["up <b>, taken for down: 2 videos"].click()
    assert panel.box.selected_index == 0
    assert shown(panel) == ["train/4.mp4", "train/6.mp4"]
    assert panel.pages.text.value == ""


def test_a_large_confusion_matrix_is_a_list_of_its_largest_cells(tmp_path):
    names = [f"class {number}" for number in range(MOST_CELLS + 1)]
    said = ["class 1"] * 2 * len(names)
    panel = BrowserPanel(made(tmp_path, 2 * len(names), names, predicted=said, split="test"))
    found = panel.box.children[1].children[1].children
    assert found[0].description == "class 0, taken for class 1: 2 videos"
    assert len(found) == MOST_CELLS
    found[3].click()
    assert shown(panel) == ["train/4.mp4", "train/21.mp4"]


def test_without_predictions_it_says_what_to_run(tmp_path):
    browser = made(tmp_path, 2)
    browser.notes = ["Run <this>."]
    panel = BrowserPanel(browser)
    assert "No predictions for split test: evaluate first" in panel.box.children[1].value
    assert re.search("Run &lt;this&gt;", panel.pages.box.children[0].value)
    assert browse(browser).titles == ("Videos", "Confusions", "Search", "Timeline")
