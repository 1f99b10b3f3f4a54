"""Films of what a model is surest of: right answers and mistakes, one video of each class."""

import html
import re
from types import SimpleNamespace

import numpy as np
import torch

from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.viz import overlay


class Views:
    """Three frames of noise for every row."""

    def __getitem__(self, row: int):
        return SimpleNamespace(clip=torch.full((1, 3, 3, 16, 16), row, dtype=torch.uint8))


def test_the_surest_answer_of_each_class_is_shown_and_the_surest_mistake(monkeypatch):
    monkeypatch.setattr(overlay, "film_bytes", lambda clip: bytes([clip[0, 0, 0, 0]]))
    best = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    names = ["open <door>", "close"]
    found = Predictions(best, None, np.array([0, 0, 1, 0, 1]), [10, 11, 12, 13, 14], names)
    page = overlay.example_films(Views(), found)
    right, wrong = page.split("Wrong, and sure of it")
    labels = [re.findall(r"<figcaption>(.*?)</figcaption>", part) for part in (right, wrong)]
    assert labels == [
        ["open &lt;door&gt;, 90\u00a0%", "close, 80\u00a0%"],
        ["open &lt;door&gt;, 95\u00a0%; in truth close", "close, 70\u00a0%; in truth open &lt;door&gt;"],
    ]
    films = re.findall(r"base64,([^\"]*)", html.unescape(page))
    assert films == ["Cg==", "DA==", "Dg==", "DQ=="]  # rows 10, 12, 14, 13


def test_a_model_without_mistakes_shows_none(monkeypatch):
    monkeypatch.setattr(overlay, "film_bytes", lambda clip: b"film")
    found = Predictions(np.array([[0.9, 0.1]]), None, np.array([0]), [0], ["a", "b"])
    page = overlay.example_films(Views(), found)
    assert "Right, and sure of it" in page
    assert "Wrong" not in page
