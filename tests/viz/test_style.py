"""Figures as bytes and as HTML: they are closed after use, have alternative text, and escape everything they are given."""

import base64
import re

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from m2clip_lib.evaluate.predict import Timeline
from m2clip_lib.viz.plots.attention import save_timeline
from m2clip_lib.viz.style import figure_html, image_html, new_figure, png_bytes


def test_a_figure_becomes_a_picture_and_is_closed():
    figure, (ax,) = new_figure(4, 2)
    ax.set_title("Two lines\nof finding")
    page = figure_html(figure, "A clip.")
    assert page.startswith('<img alt="A clip. Two lines of finding"')
    assert base64.b64decode(re.search(r"base64,([^\"]*)", page).group(1)).startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


def test_a_figure_takes_nothing_from_a_matplotlibrc(monkeypatch):
    plain = png_bytes(new_figure(4, 2)[0])
    for name, value in {"lines.linewidth": 9, "axes.facecolor": "red", "font.family": ["monospace"], "xtick.direction": "in"}.items():
        monkeypatch.setitem(plt.rcParams, name, value)
    assert png_bytes(new_figure(4, 2)[0]) == plain


def test_words_in_a_picture_are_never_markup():
    assert image_html(b"", 'a "<b>quoted</b>" name').startswith('<img alt="a &#34;&lt;b&gt;quoted&lt;/b&gt;&#34; name"')


def test_the_size_of_a_picture_follows_its_resolution():
    assert len(png_bytes(new_figure(4, 2)[0], dpi=30)) < len(png_bytes(new_figure(4, 2)[0], dpi=90))


def test_a_timeline_is_saved_as_a_picture(tmp_path):
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = Timeline("a.mp4", np.array([0.0, 1.0]), np.array([2.0, 3.0]), scores, ["walk", "run"], "ensemble", [])
    save_timeline(found, tmp_path / "deep" / "when.png")
    with Image.open(tmp_path / "deep" / "when.png") as picture:
        assert picture.width > 1000
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["when.png"]
