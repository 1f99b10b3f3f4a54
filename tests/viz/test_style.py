"""Figures as bytes and as HTML: they are closed after use, have alternative text, and escape everything they are given."""

import base64
import logging
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from m2clip_lib.moments.windows import Timeline
from m2clip_lib.viz import style
from m2clip_lib.viz.plots.attention import save_timeline
from m2clip_lib.viz.style import CARDS, figure_html, literal, name_rows, new_figure, png_bytes, shown


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
    assert CARDS.image(b"", 'a "<b>quoted</b>" name').startswith('<img alt="a &#34;&lt;b&gt;quoted&lt;/b&gt;&#34; name"')


def test_the_size_of_a_picture_follows_its_resolution():
    assert len(png_bytes(new_figure(4, 2)[0], dpi=30)) < len(png_bytes(new_figure(4, 2)[0], dpi=90))


def test_a_timeline_is_saved_as_a_picture(tmp_path):
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = Timeline("a.mp4", np.array([0.0, 1.0]), np.array([2.0, 3.0]), scores, ["walk", "run"], "ensemble", [])
    save_timeline(found, tmp_path / "deep" / "when.png")
    with Image.open(tmp_path / "deep" / "when.png") as picture:
        assert picture.width > 1000
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["when.png"]


def test_names_with_signs_of_mathematics_are_drawn_as_they_are():
    figure, (ax,) = new_figure(4, 2)
    name_rows(ax, ["win $1_ or lose $2^", "$$", "a_b^c", r"\frac"])
    ax.set_title("pay $5 or $10")
    assert len(png_bytes(figure)) > 1000  # mathtext refuses the first
    ticks = [label.get_text() for label in ax.get_yticklabels()]
    assert ticks == ["win $1_ or lose $2^", "$$", "a_b^c", r"\frac"]
    assert not any(text.get_parse_math() for text in [ax.title, *ax.get_yticklabels()])


def test_characters_without_a_font_are_said_once(monkeypatch, caplog):
    monkeypatch.setattr(style, "_SAID", [])
    monkeypatch.setattr(style, "_fonts", lambda: (["DejaVu Sans"], set(range(127))))
    with warnings.catch_warnings(record=True) as raised, caplog.at_level(logging.WARNING):
        for title in ("滑雪 and 🎿", "한국어"):
            figure, (ax,) = new_figure(4, 2)
            ax.set_title(title)
            png_bytes(figure)
    assert not raised
    assert [record.getMessage() for record in caplog.records] == [
        "figures show boxes for 3 characters (滑雪🎿): install a font that has them, such as Noto Sans CJK"
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain name 1", "plain name 1"),
        ("滑雪 é", "滑雪 é"),
        ("<b>*a_b*</b>", "&#60;b&#62;&#42;a&#95;b&#42;&#60;&#47;b&#62;"),
        ("$5 | $10", "<span>&#36;</span>5 &#124; <span>&#36;</span>10"),
    ],
)
def test_a_name_in_markdown_is_no_markup(name, text):
    assert literal(name) == text


def test_a_table_for_a_notebook_shows_words_whole_on_the_left_and_numbers_with_sensible_digits():
    table = pd.DataFrame({"name": ["a very long name " * 8, "b"], "top1": [61.25, float("nan")], "videos": [1234567, 2]})
    page = shown(table).data
    assert "a very long name " * 8 in page
    assert all(text in page for text in ("61.2", "–", "1,234,567"))
    assert page.count("text-align:left") == 3  # in the cells themselves: head and two rows
    assert ">2 x 3<" in shown(pd.DataFrame({"shape": [(2, 3)]})).data
    assert "<b>" not in shown(pd.DataFrame({"name": ["<b>"]})).data
    assert "61.250" in shown(table, 3).data
