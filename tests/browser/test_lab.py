"""The notebooks as a person uses them: JupyterLab runs all cells, a slider moves, labels are typed, videos are played and relabelled."""

import re

import pytest

from m2clip_lib.csvfiles import read_csv

MINUTE = 60_000  # milliseconds


@pytest.fixture
def page(browser, screenshots, request):
    opened = browser.new_page(viewport={"width": 1500, "height": 1100})
    opened.set_default_timeout(MINUTE)
    yield opened
    opened.screenshot(path=screenshots / f"{request.node.name}_end.png")  # shows what a failure looked like
    opened.close()


def run_all(page, address: str) -> None:
    page.goto(f"{address}&reset")  # close notebooks of earlier tests
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()  # reported by the kernel: a click before that is lost
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()


def last_cell_printed(page, text: str) -> None:
    page.locator(".jp-OutputArea-output", has_text=text).first.wait_for(timeout=3 * MINUTE)


def no_error(page) -> None:
    errors = page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type*=error]")
    assert errors.all_inner_texts() == []


def changed(page, locator, old: str, attribute: str = "") -> str:
    """Wait until the picture (its bytes) or the text differs from `old`, and return it."""
    for _ in range(200):
        new = locator.get_attribute(attribute) if attribute else locator.inner_text()
        if new != old:
            return new
        page.wait_for_timeout(100)
    pytest.fail("nothing changed within 20 s")


def test_the_explorer_answers_to_sliders_labels_and_edits(page, lab, screenshots):
    """Starts a kernel, opens a model and redraws six times: about half a minute."""
    run_all(page, lab("10_attention_explorer.ipynb"))
    picture = page.locator(".jupyter-widgets img[alt*='true class']")
    picture.wait_for(timeout=3 * MINUTE)
    ranking = page.locator(".m2clip-ranking")
    picture.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_opened.png")
    shown, ranked = picture.get_attribute("src"), ranking.inner_text()
    assert "moving left" in picture.get_attribute("alt")  # the picture's alternative text
    page.get_by_label("class", exact=True).select_option("growing")
    shown, ranked = changed(page, picture, shown, "src"), changed(page, ranking, ranked)
    block = page.locator(".widget-slider", has_text="block").locator(".noUi-handle")
    page.get_by_label("map", exact=True).select_option("attention")
    shown = changed(page, picture, shown, "src")
    block.focus()
    block.press("ArrowLeft")
    shown = changed(page, picture, shown, "src")
    assert "Block 3" in picture.get_attribute("alt")
    page.get_by_placeholder(re.compile("any words")).press_sequentially("a red circle, a growing thing, nothing")
    ranking.get_by_text("a growing thing").wait_for()
    assert ranking.locator("tr").count() == 4  # the header and three names
    labelled = ranking.inner_text()
    assert labelled != ranked
    page.get_by_label("play backwards").check()
    changed(page, picture, shown, "src")
    assert "change, points" in changed(page, ranking, labelled)
    page.screenshot(path=screenshots / "explorer_labels_backwards.png", full_page=True)
    page.get_by_role("button", name="timeline").click()
    page.locator("img[alt^='Timeline']").wait_for()
    page.locator("img[alt^='Timeline']").scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_timeline.png")
    no_error(page)


def test_training_draws_its_curves_while_it_trains(page, lab, screenshots):
    """Trains four epochs on 24 clips: about twenty seconds."""
    run_all(page, lab("03_training.ipynb"))
    curves = page.locator("img[alt^='Training after epoch']")
    curves.wait_for(timeout=3 * MINUTE)
    seen = {curves.get_attribute("alt").split(":")[0]}
    first = curves.get_attribute("src")
    last_cell_printed(page, "best epoch")
    seen.add(curves.get_attribute("alt").split(":")[0])
    assert "Training after epoch 4" in seen
    assert curves.get_attribute("src") != first or len(seen) == 1
    assert len(seen) == 2, "the curves first appeared after all epochs had ended"
    curves.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "training_live.png")
    no_error(page)


@pytest.fixture
def corrections(trained):
    """The file that decisions are written to; other tests need the run without it."""
    file = trained[0] / "data" / "tiny" / "corrections.csv"
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def model_calls(lab_root):
    """How often the model has scored windows in the notebook's kernel: the copy that the lab opens counts it in a file."""
    return lambda: len((lab_root / "model_calls").read_text())


def test_a_person_browses_corrects_searches_and_moves_a_threshold(page, lab, screenshots, corrections, model_calls):
    """Starts a kernel, makes 48 thumbnails, searches 48 videos: about a minute."""
    run_all(page, lab("11_browser.ipynb"))
    tiles = page.locator(".m2clip-thumbnail:visible")
    tiles.first.wait_for(timeout=3 * MINUTE)
    count = page.get_by_text("videos, page")
    assert "48 of 48 videos, page 1 of 2" in count.inner_text()
    assert tiles.count() == 24
    assert "data:image/jpeg" in tiles.first.evaluate("tile => getComputedStyle(tile).backgroundImage")

    before = count.inner_text()  # filter
    page.get_by_label("class", exact=True).select_option("growing")
    assert "4 of 48 videos" in (before := changed(page, count, before))
    page.get_by_label("split", exact=True).select_option("test")
    assert "1 of 48 videos" in changed(page, count, before)
    assert tiles.count() == 1

    tiles.first.click()  # a click plays
    film = page.locator(".m2clip-editor video")
    film.wait_for()
    film.evaluate("film => new Promise(done => { film.currentTime > 0 ? done() : film.addEventListener('timeupdate', done) })")
    assert film.evaluate("film => [film.videoWidth > 0, film.paused]") == [True, False]

    page.get_by_label("right class").select_option("shrinking")  # relabel writes the file
    page.get_by_placeholder("why, if you like").fill("seen, <b>twice</b>")
    page.get_by_role("button", name="relabel").click()
    page.locator(".m2clip-decision", has_text="now shrinking").wait_for()
    written = read_csv(corrections)
    assert written[["path", "action", "class_name", "note"]].to_numpy().tolist() == [
        ["test/growing/0000.mp4", "relabel", "shrinking", "seen, <b>twice</b>"]
    ]
    page.screenshot(path=screenshots / "browser_relabelled.png")
    page.get_by_role("button", name="undo").click()
    page.locator(".m2clip-decision").wait_for(state="detached")
    assert read_csv(corrections).empty
    page.get_by_role("button", name="ignore").click()
    page.locator(".m2clip-decision", has_text="ignored").wait_for()

    page.get_by_role("tab", name="Confusions").click()  # a cell opens its videos
    cell = page.locator(".m2clip-confusions button:visible").first
    words = cell.get_attribute("title")
    true, said = words.removesuffix(": 1 video").split(", ", 1)
    page.screenshot(path=screenshots / "browser_confusions.png")
    cell.click()
    tiles.first.wait_for()
    assert "1 of 48 videos" in count.inner_text()
    caption = page.locator(".m2clip-tile:visible").inner_text()
    assert caption.startswith(true)
    assert "✓" in caption if said == "right" else said.removeprefix("taken for ") in caption

    page.get_by_role("tab", name="Search").click()  # a sentence finds moments that play
    sentence = page.get_by_placeholder("such as: a red ring")
    sentence.fill("a red ring")
    sentence.press("Enter")
    moments = page.locator("button:visible", has_text="▶")
    moments.nth(11).wait_for(timeout=3 * MINUTE)
    moments.first.click()
    page.locator(".m2clip-moments video:visible").wait_for()
    page.screenshot(path=screenshots / "browser_search.png")

    page.get_by_role("tab", name="Videos").click()  # a threshold changes the segments, and no model runs
    tiles.first.click()
    film.wait_for()
    page.get_by_role("button", name="timeline").click()
    window = page.get_by_label("window, s")
    window.fill("0.5")
    window.press("Enter")
    assert model_calls() == 0
    page.get_by_role("button", name="score the video").click()
    found = page.get_by_text("windows, read-out ensemble")
    found.wait_for()
    assert model_calls() == 1
    words, handle = found.inner_text(), page.locator(".widget-slider:visible", has_text="threshold").locator(".noUi-handle")
    handle.focus()
    handle.press("End")  # of twelve classes, none has 100 %
    if not words.startswith("0 segments"):
        words = changed(page, found, words)
    assert words == "0 segments in 7 windows, read-out ensemble"
    handle.press("Home")  # and all have 0 % or more
    assert changed(page, found, words) == "12 segments in 7 windows, read-out ensemble"
    moments.first.click()
    page.locator(".m2clip-moments video:visible").wait_for()
    page.screenshot(path=screenshots / "browser_timeline.png")
    assert model_calls() == 1
    no_error(page)
