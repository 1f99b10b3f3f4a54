"""The look of everything that is shown: colours and settings of figures, parts that several figures share, and figures as HTML.

Large type, quiet frames, and colours that colour-blind readers can tell apart (Okabe and Ito). HTML comes from templates/ alone.
"""

import base64
import io
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m2clip_lib.runs import finding

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip
READOUT_COLOURS = {"similarity": SKY, "classifier": ORANGE, "ensemble": BLUE}
SCREEN_DPI = 70

SETTINGS = {
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
    plt.style.use(["default", SETTINGS])
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    return figure, list(axes.flat)


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


def image_html(png: bytes, alt: str) -> str:
    """Return an <img> that holds its own data, as wide as the page but no wider than the picture. alt: what it shows, in words."""
    return CARDS.image(png, alt, "width:100%;max-width:max-content")


def figure_html(figure: Figure, context: str = "") -> str:
    """Return a figure as HTML, and close it. Its alternative text is context and the figure's titles."""
    alt = f"{context} {finding(figure)}".strip()
    return image_html(png_bytes(figure), alt)


def note(text: str, when: bool = True) -> None:
    """Show a paragraph of Markdown in a notebook: words that hold for some experiments, or that were made from a table."""
    from IPython.display import Markdown, display

    if when:
        display(Markdown(text))
