"""The widgets for moments in videos (notebook 11): lists of stretches that play, search by a sentence, the timeline of one video."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import ipywidgets as w
import numpy as np

from m2clip_lib.errors import UserError
from m2clip_lib.viz.browser import Browser, film
from m2clip_lib.viz.panel import SETTLED, SHORT, errors_in
from m2clip_lib.viz.style import CARDS

LISTED = 12  # moments in a list
LINE = {"layout": w.Layout(width="98%"), "style": SHORT["style"]}
ROW = {"layout": w.Layout(flex_flow="row wrap")}


class Moments:
    """A list of stretches of videos; a click on one plays it. `box` is the widget to display."""

    def __init__(self) -> None:
        self.message, self.player = w.HTML(), w.HTML()
        self.buttons = [w.Button(layout=w.Layout(width="34em", justify_content="flex-start")) for _ in range(LISTED)]
        self.rows: list[tuple[str, float, float]] = []
        for place, button in enumerate(self.buttons):
            button.on_click(partial(self._play, place))
        self.box = w.VBox([self.message, w.HBox([w.VBox(self.buttons), self.player], **ROW)]).add_class("m2clip-moments")
        self.show([])

    def show(self, rows: Sequence[tuple[str, float, float, str]]) -> None:
        """List stretches: path, start and end in seconds, and words about them."""
        self.rows, self.player.value = [row[:3] for row in rows[:LISTED]], ""
        for button, row in zip(self.buttons, [*rows[:LISTED], *[None] * (LISTED - len(rows))], strict=True):
            button.layout.display = "none" if row is None else "flex"
            if row is not None:
                path, start, end, words = row
                button.description = f"▶ {start:.1f} to {end:.1f} s  {words}"
                button.tooltip = path

    def _play(self, place: int, _: w.Button) -> None:
        with errors_in(self.message):
            self.player.value = film_html(*self.rows[place])


def film_html(path: str, start_s: float = 0.0, end_s: float = np.inf) -> str:
    """HTML that plays a stretch of a video, with its name below; see film()."""
    mp4, speed = film(path, start_s, end_s)
    label = f"{Path(path).parent.name}/{Path(path).name}" + (f", {speed:.3g} times as fast" if speed > 1.05 else "")
    return CARDS.films([(mp4, label)])


def search_box(browser: Browser) -> w.Widget:
    """A line for a sentence, and the moments that resemble it most."""
    text = w.Text(description="sentence", placeholder="such as: a red ring; then Enter", **SETTLED, **LINE)
    message, found = w.HTML(), Moments()

    def search(_: object) -> None:
        with errors_in(message):
            found.show([])
            if text.value.strip():
                _say(message, "searching …")
                table, failed = browser.search(text.value.strip(), LISTED, partial(_say, message))
                found.show([(*row[:3], f"{row.score:.3f}  {'/'.join(Path(row.path).parts[-2:])}") for row in table.itertuples(index=False)])
                unread = [f"{len(failed)} videos could not be read, such as {path}: {why}" for path, why in [*failed.items()][:1]]
                _say(message, "".join(unread))

    text.observe(search, names="value")
    return w.VBox([text, message, found.box])


def _say(message: w.HTML, line: str) -> None:
    message.value = CARDS.words(line)


class TimelinePanel:
    """Window scores of one video, computed once; what the controls make of them runs no model."""

    def __init__(self, browser: Browser):
        self.browser, self.scores = browser, None
        self.path = w.Text(description="video", placeholder="path of a video file, or choose one under Videos", **SETTLED, **LINE)
        self.window = w.BoundedFloatText(max=3600, description="window, s", tooltip="0: as long as a training clip", **SHORT)
        self.run = w.Button(description="score the video", tooltip="runs the model once per video and window; scores are stored")
        self.threshold = w.FloatSlider(value=0.5, max=1, step=0.01, description="threshold", **SHORT)
        self.least = w.BoundedFloatText(max=3600, step=0.1, description="at least, s", **SHORT)
        self.gap = w.BoundedFloatText(max=3600, step=0.1, description="join, s", tooltip="joins segments with no larger gap", **SHORT)
        self.message, self.words, self.picture, self.found = w.HTML(), w.HTML(), w.HTML(), Moments()
        choices = w.HBox([self.threshold, self.least, self.gap], **ROW)
        first = w.HBox([self.window, self.run], **ROW)
        self.box = w.VBox([self.path, first, choices, self.message, self.words, self.picture, self.found.box])
        self.run.on_click(self._score)
        for control in (self.path, self.window):
            control.observe(self._forget, names="value")
        for control in choices.children:
            control.observe(self.redraw, names="value")

    def _forget(self, *_: object) -> None:
        self.scores, self.words.value, self.picture.value = None, "", ""
        self.found.show([])

    def _score(self, _: w.Button) -> None:
        with errors_in(self.message):
            if not self.path.value:
                raise UserError("timeline: no video; give a path, or choose one under Videos")
            _say(self.message, "scoring window by window …")
            self.scores = self.browser.timeline(self.path.value, self.window.value)
            self.message.value = ""
            self.redraw()

    def redraw(self, *_: object) -> None:
        """Show the segments that the controls ask for."""
        if self.scores is None:
            return
        scores = self.scores
        found = scores.segments(self.threshold.value, self.least.value, self.gap.value)
        by_class = {name: list(own) for name, own in groupby(sorted(found, key=lambda one: one.name), key=lambda one: one.name)}
        counted = f"{len(found)} segment{'' if len(found) == 1 else 's'} in {len(scores.starts)} windows, read-out {scores.readout}"
        self.words.value = CARDS.words(counted + (f"; the first {LISTED} can be played" if len(found) > LISTED else ""))
        self.picture.value = CARDS.bars(list(by_class.items()), float(scores.ends[-1]))
        self.found.show([(scores.path, one.start_s, one.end_s, f"{one.name}, {100 * one.score:.0f} %") for one in found])
