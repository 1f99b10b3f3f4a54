"""The notebooks as a person uses them: JupyterLab runs all cells, a slider moves, labels are typed."""

import re

import pytest

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
