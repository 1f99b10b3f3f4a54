"""Figures as bytes, and as HTML that says in words what it shows."""

import base64
import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from m2clip_lib.engine.timeline import Timeline
from m2clip_lib.files import write_atomically
from m2clip_lib.runs import finding
from m2clip_lib.viz.plots import plot_timeline
from m2clip_lib.viz.style import new_figure

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


def timeline_figure(timeline: Timeline) -> Figure:
    """The picture of a timeline."""
    figure, (ax,) = new_figure(11, 1.9 + 0.32 * min(8, len(timeline.names)))
    plot_timeline(ax, timeline.starts, timeline.ends, timeline.scores, timeline.names)
    return figure


def save_timeline(timeline: Timeline, path: Path) -> None:
    """Write the picture of a timeline as PNG."""
    png = png_bytes(timeline_figure(timeline), dpi=150)
    write_atomically(path, lambda file: file.write_bytes(png))
