"""The documents: short where they should be, and no link that leads nowhere."""

import re

import pytest

from m2clip_lib import paths

PAGES = sorted(
    [
        *paths.ROOT.glob("*.md"),
        *(paths.ROOT / "docs").rglob("*.md"),
        *(paths.ROOT / folder / "README.md" for folder in ("data", "results", "benchmarks")),
    ]
)


def anchor(heading: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(paths.ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        place, _, part = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if part:
            assert part in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)), target


def test_every_page_is_reached_from_the_readme():
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    for page in (paths.ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme
