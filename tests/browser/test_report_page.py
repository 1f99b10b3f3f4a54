"""report.html as a browser shows it, on a desktop and on a phone."""

import pytest


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_report_is_self_contained_and_fits_the_screen(browser, trained, screenshots, width, height):
    file = trained[1] / "report.html"
    assert file.stat().st_size < 5_000_000
    page = browser.new_page(viewport={"width": width, "height": height})
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(file.as_uri(), wait_until="load")
    asked = [url for url in requests if not url.startswith(("data:", file.as_uri()))]
    assert asked == []
    assert messages == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0 && image.alt)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll in their own box
    assert page.locator("footer").inner_text().startswith("Where these numbers come from")
    page.screenshot(path=screenshots / f"report_{width}.png", full_page=True)
    page.close()
