"""One look for every figure: large type, quiet frames, colours that colour-blind readers can tell apart (Okabe and Ito)."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m2clip_lib.runs import finding

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip
READOUT_COLOURS = {"similarity": SKY, "classifier": ORANGE, "ensemble": BLUE}

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


def new_figure(width: float = 9.0, height: float = 5.0, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure (inches) and its axes, row by row. Sets the workbook's style for this and all later figures of the process."""
    plt.rcParams.update(SETTINGS)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    return figure, list(axes.flat)


def chance_line(ax: Axes, value: float, *, vertical: bool = True) -> None:
    """A dashed line where guessing would land, percent."""
    draw = ax.axvline if vertical else ax.axhline
    draw(value, color=GREY, linestyle="--", linewidth=1.5, zorder=1, label=f"chance ({value:.0f} %)")


def class_ticks(ax: Axes, class_names: Sequence[str], rotate: bool) -> None:
    """Names on both axes of a class-by-class picture; none where they would overlap."""
    if len(class_names) > 40:  # names would overlap: count instead
        return
    ticks = range(len(class_names))
    ax.set_xticks(ticks, class_names, rotation=45 if rotate else 0, ha="right", fontsize=11)
    ax.set_yticks(ticks, class_names, fontsize=11)


SCREEN_DPI = 70


def png_bytes(figure: Figure, dpi: int = SCREEN_DPI) -> bytes:
    """Render and close a figure: a long session does not fill the memory."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()


def image_html(png: bytes, alt: str, width: str = "100%") -> str:
    """An <img> that holds its own data. alt: what it shows, in words. width: of the page, at most the picture's own."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" style="width:{width};max-width:max-content" src="data:image/png;base64,{data}">'


def figure_html(figure: Figure, context: str = "") -> str:
    """A figure as HTML; its text is context and the figure's titles. Closes the figure."""
    alt = f"{context} {finding(figure)}".strip()
    return image_html(png_bytes(figure), alt)
