"""The look of everything that is shown: colours and settings of figures, parts that several figures share, and figures as HTML.

Large type, quiet frames, and colours that colour-blind readers can tell apart (Okabe and Ito). HTML comes from templates/ alone.
"""

import base64
import io
import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backend_bases import Event
from matplotlib.figure import Figure
from matplotlib.text import Text

from m2clip_lib.runs import finding

log = logging.getLogger(__name__)
pd.set_option("display.html.use_mathjax", False)  # tables of a notebook hold names
_SAID: list[list[str]] = []

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip
READOUT_COLOURS = {"similarity": SKY, "classifier": ORANGE, "ensemble": BLUE}
SCREEN_DPI = 70

FONTS = (  # those that are installed stand in for one another, in this order
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS", "Noto Sans", "Noto Sans Symbols 2", "Noto Emoji"),
    *("Segoe UI Symbol", "Symbola"),
)
SETTINGS = {
    "text.parse_math": False,  # "$5 or $10" is a class name
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}

TEMPLATES = Environment(
    loader=PackageLoader("m2clip_lib.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["base64"] = lambda data: base64.b64encode(data).decode()
CARDS = TEMPLATES.get_template("cards.html").module  # its macros, as functions that return HTML


def new_figure(width: float = 9.0, height: float = 5.0, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure (inches) and its axes, row by row. Sets the workbook's style, and nothing of a matplotlibrc, for this process."""
    plt.style.use(["default", SETTINGS | {"font.family": _fonts()[0]}])
    warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")  # one for every character: _say_what_is_missing says it once
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    figure.canvas.mpl_connect("draw_event", _say_what_is_missing)
    return figure, list(axes.flat)


@cache
def _fonts() -> tuple[list[str], set[int]]:
    """The fonts of FONTS that are installed, which stand in for one another, and the characters that one of them has."""
    installed = [name for name in FONTS if name in font_manager.get_font_names()]
    files = [font_manager.findfont(name) for name in installed]
    return installed, {code for file in files for code in font_manager.get_font(file).get_charmap()}


def _say_what_is_missing(event: Event) -> None:
    """Say once per process, in place of a warning per character, that no installed font has a character of a figure."""
    texts = {character for text in event.canvas.figure.findobj(Text) for character in text.get_text()}
    missing = sorted(character for character in texts if ord(character) not in _fonts()[1] and character.isprintable())
    if missing and not _SAID:
        _SAID.append(missing)
        shown = "".join(missing[:5])
        log.warning("figures show boxes for %d characters (%s): install a font that has them, such as Noto Sans CJK", len(missing), shown)


def chance_line(ax: Axes, value: float, *, vertical: bool = True) -> None:
    """Draw a dashed line at the accuracy of guessing, percent."""
    draw = ax.axvline if vertical else ax.axhline
    draw(value, color=GREY, linestyle="--", linewidth=1.5, zorder=1, label=f"chance ({value:.0f} %)")


def name_rows(ax: Axes, names: Sequence[str], labels: Iterable[tuple[float, str]] = (), *, downwards: bool = True, size: int = 14) -> None:
    """Name the rows of a chart of horizontal bars or dots, and write one text (its x, its words) on each; the first row is on top.

    downwards: False puts the first row at the bottom. size: of the texts, points.
    """
    for y, (x, text) in enumerate(labels):
        ax.text(x, y, text, va="center", fontsize=size)
    ax.set_yticks(range(len(names)), names)
    if downwards:
        ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def class_matrix(ax: Axes, values: np.ndarray, class_names: Sequence[str], unit: str, low: float = 0, high: float | None = None) -> None:
    """Draw a class-by-class picture (k, k) with its colour bar (low to high); class names on both axes where they do not overlap."""
    image = ax.imshow(values, cmap="cividis", vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax, label=unit, shrink=0.8)
    ax.grid(False)
    if len(class_names) <= 40:
        ticks = range(len(class_names))
        ax.set_xticks(ticks, class_names, rotation=45, ha="right", fontsize=11)
        ax.set_yticks(ticks, class_names, fontsize=11)


def png_bytes(figure: Figure, dpi: int = SCREEN_DPI) -> bytes:
    """Render a figure as PNG, and close it so that a long session does not fill the memory."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()


def figure_html(figure: Figure, context: str = "") -> str:
    """Return a figure as an <img> that holds its own data, and close it. Its alternative text is context and the figure's titles."""
    alt = f"{context} {finding(figure)}".strip()
    return CARDS.image(png_bytes(figure), alt, "width:100%;max-width:max-content")  # no wider than the picture


def literal(name: str) -> str:
    """Return a name for use in Markdown, where its signs are neither markup nor mathematics."""
    return re.sub(r"[^\w\s]|_", lambda found: f"<span>&#{ord(found[0])};</span>" if found[0] == "$" else f"&#{ord(found[0])};", name)


def shown(table: pd.DataFrame, precision: int = 1) -> HTML:
    """A table for a notebook: words whole and left-aligned, numbers as cell_text writes them, no index.

    The alignment stands in every cell: JupyterLab drops style sheets from a notebook that somebody else has run.
    """
    cells = table.map(lambda value: cell_text(value, precision)).to_dict("records")
    return HTML(CARDS.table(list(table), cells, text_columns(table), ""))


def text_columns(table: pd.DataFrame) -> list[str]:
    """The columns that hold no numbers."""
    return [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]


def cell_text(value: object, precision: int = 1) -> str:
    """A number with as many decimals as asked for, none if it is whole and above 100; "–" for a missing value; a shape as 2 x 3."""
    if isinstance(value, tuple | list):
        return " x ".join(map(str, value))
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == round(value) and abs(value) > 100 else f"{value:,.{precision}f}"
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)


def note(text: str, when: bool = True) -> None:
    """Show a paragraph of Markdown in a notebook: words that hold for some experiments, or that were made from a table (see literal)."""
    if when:
        display(Markdown(text))
