"""The commands that README, docs and notebooks tell a reader to type."""

import re
import shlex
from pathlib import Path

import nbformat

from m2clip_lib import paths

PAGES = sorted(
    [
        *paths.ROOT.glob("*.md"),
        *(paths.ROOT / "docs").rglob("*.md"),
        *(paths.ROOT / folder / "README.md" for folder in ("data", "results", "benchmarks")),
    ]
)
NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
PROGRAMS = ("m2clip ", "make ", "python ", "papermill ")


def text_of(page: Path) -> str:
    """The words of a page, or of a notebook's Markdown cells."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "markdown")


def commands(page: Path) -> list[str]:
    """Every command of a page: the lines of its code blocks, and code within sentences; without remarks behind them."""
    text = text_of(page)
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    found = [re.split(r"\s+#\s|\s{3,}", line)[0].strip() for line in [*lines, *spans]]
    return [command for command in found if command.startswith(PROGRAMS)]


def is_synopsis(command: str) -> bool:
    """Whether a line says what may be typed ("[--run NAME]", "DIR | FILE"), rather than what to type."""
    return bool(re.search(r"\[-|\[[A-Z]|\.\.\.|\s\|\s|\[\w+\|", command))


def words(command: str) -> list[str]:
    """The command's words as a shell would hand them over."""
    return shlex.split(command)
