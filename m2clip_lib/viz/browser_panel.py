"""The widgets of the browser of videos (notebook 11): a page of thumbnails with filters and decisions, confusions, search, timeline."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

from m2clip_lib.data.listing.corrections import ACTIONS
from m2clip_lib.viz.browser import ALL, COLUMNS_OF_PAGE, EVERYTHING, ORDERS, PAGE, UNDECIDED, Browser, Filter, chosen, confusions
from m2clip_lib.viz.moments_panel import LISTED, ROW, TimelinePanel, film_html, search_box
from m2clip_lib.viz.panel import SETTLED, SHORT, errors_in
from m2clip_lib.viz.style import BLUE, CARDS, ORANGE

MOST_CELLS = 16  # classes: with more, the confusion matrix is a list of its largest cells


class BrowserPanel:
    """All controls and what they show. `box` is the widget to display."""

    def __init__(self, browser: Browser):
        self.browser = browser
        self.pages, self.timeline = _Pages(browser), TimelinePanel(browser)
        self.pages.when.on_click(self._open_timeline)
        tabs = {
            "Videos": self.pages.box,
            "Confusions": self._confusions(),
            "Search": search_box(browser),
            "Timeline": self.timeline.box,
        }
        self.box = w.Tab(list(tabs.values()), titles=list(tabs))

    def _open_timeline(self, _: w.Button) -> None:
        self.timeline.path.value = self.browser.table.path[self.pages.row]
        self.box.selected_index = 3

    def _confusions(self) -> w.Widget:
        split = self.browser.run.experiment.eval.split
        counts = confusions(self.browser.table, split, self.browser.class_names)
        if not counts.to_numpy().any():
            return w.HTML(CARDS.words(f"No predictions for split {split}: evaluate first (m2clip eval, or notebook 04)."))
        if (self.browser.table.classes.map(len) > 1).any():
            return w.HTML(CARDS.words("Videos have several classes: none is taken for another one."))
        heading = w.HTML(CARDS.words(f"Split {split}: rows are the listed classes, columns the predicted ones. A click lists the videos."))
        return w.VBox([heading, (_matrix if len(counts) <= MOST_CELLS else _largest)(counts, partial(self._open_cell, split))])

    def _open_cell(self, split: str, true: str, said: str, _: w.Button) -> None:
        self.pages.ask(Filter(class_name=true, predicted=said, split=split))
        self.box.selected_index = 0


def _matrix(counts: pd.DataFrame, opened: Callable[..., None]) -> w.Widget:
    """The matrix as a table; every cell that is not 0 is a button. opened: called with the true class, the predicted one and the button."""
    cells = []
    for place, name in enumerate(counts.index, start=2):
        side = CARDS.words(name, "text-align:right;padding-right:6px")
        above = CARDS.words(name, "writing-mode:vertical-rl;transform:rotate(180deg);line-height:1.4")
        cells += [w.HTML(side, layout=w.Layout(grid_area=f"{place} / 1")), w.HTML(above, layout=w.Layout(grid_area=f"1 / {place}"))]
    for (i, true), (j, said) in ((one, other) for one in enumerate(counts.index, 2) for other in enumerate(counts.columns, 2)):
        if count := int(counts.loc[true, said]):
            share = count / counts.loc[true].sum()
            layout = w.Layout(grid_area=f"{i} / {j}", width="auto", margin="1px")
            button = w.Button(description=str(count), tooltip=_in_words(true, said, count), layout=layout)
            depth = 0.2 + 0.8 * share  # from nearly white to the colour
            button.style.button_color = to_hex(1 - depth * (1 - np.array(to_rgb(BLUE if true == said else ORANGE))))
            button.style.text_color = "white" if true == said and share > 0.5 else "black"
            button.on_click(partial(opened, true, said))
            cells.append(button)
    side = f"max-content repeat({len(counts)}, 3.2em)"
    grid = w.GridBox(cells, layout=w.Layout(grid_template_columns=side, align_items="flex-end", overflow="auto"))
    return grid.add_class("m2clip-confusions")


def _largest(counts: pd.DataFrame, opened: Callable[..., None]) -> w.Widget:
    """The cells of a large matrix with the most mistakes, as a list of buttons. opened: see _matrix."""
    cells = [(int(count), true, said) for (true, said), count in counts.stack().items() if count and true != said]
    buttons = []
    for count, true, said in sorted(cells, key=lambda cell: -cell[0])[: 2 * LISTED]:
        buttons.append(button := w.Button(description=_in_words(true, said, count), layout=w.Layout(width="40em")))
        button.on_click(partial(opened, true, said))
    return w.VBox(buttons or [w.HTML(CARDS.words("Not one mistake."))])


def _in_words(true: str, said: str, count: int) -> str:
    return f"{true}, {'right' if true == said else f'taken for {said}'}: {count} video{'s' if count > 1 else ''}"


class _Pages:
    """The list of videos: filters, one page of thumbnails, and below the row of the chosen one its film and the decision about it."""

    def __init__(self, browser: Browser):
        self.browser, self._paused, table = browser, False, browser.table
        longest = float(np.ceil(10 * table.duration_s.max()) / 10) or 1.0
        self.class_name, self.split, self.predicted, self.answer, self.action = (
            w.Dropdown(options=[("all", ""), *((name, name) for name in names)], description=title, **SHORT)
            for title, names in (
                ("class", browser.class_names),
                ("split", dict.fromkeys(table.split)),
                ("predicted", browser.class_names),
                ("answer", ("right", "wrong")),
                ("decision", (UNDECIDED, *ACTIONS)),
            )
        )
        self.text = w.Text(description="path has", placeholder="part of a path", **SETTLED, **SHORT)
        self.confidence = w.FloatRangeSlider(
            value=(0, 100), max=100, step=1, readout_format=".0f", description="sure, %", **SETTLED, **SHORT
        )
        self.duration = w.FloatRangeSlider(value=(0, longest), max=longest, readout_format=".1f", description="seconds", **SETTLED, **SHORT)
        self.copies = w.Checkbox(description="copies only", indent=False, layout=w.Layout(width="9em"))
        self.suspected = w.Checkbox(description="suspected labels only", indent=False, layout=w.Layout(width="13em"))
        self.order = w.Dropdown(options=list(ORDERS), description="order", **SHORT)
        self.clear = w.Button(description="no filter", layout=w.Layout(width="7em"))
        self.count = w.HTML()
        self.before, self.after = (w.Button(description=text, layout=w.Layout(width="7em")) for text in ("◀ previous", "next ▶"))
        self.message, self.style = w.HTML(), w.HTML(layout=w.Layout(display="none"))
        self.film, self.facts = w.HTML(), w.HTML()
        self.label = w.Dropdown(options=browser.class_names, description="right class", **SHORT)
        self.note = w.Text(description="note", placeholder="why, if you like", **SHORT)
        self.accept, self.relabel, self.ignore, self.undo, self.when = (
            w.Button(description=text, tooltip=hint, layout=w.Layout(width="8em"))
            for text, hint in (
                ("accept", "its label is right"),
                ("relabel", "give it the class chosen on the left"),
                ("ignore", "leave the video out"),
                ("undo", "take the decision back"),
                ("timeline", "what happens in it, and when"),
            )
        )
        self._key = f"m2clip-{self.count.model_id[:8]}"
        self.tiles = [self._tile(place) for place in range(PAGE)]
        decide = w.VBox(
            [self.facts, w.HBox([self.accept, self.ignore, self.undo, self.when]), w.HBox([self.label, self.relabel]), self.note]
        )
        self.editor = w.HBox(
            [self.film, decide], layout=w.Layout(grid_area="auto / 1 / auto / -1", border="2px solid #0072B2", padding="8px")
        )
        columns = f"repeat({COLUMNS_OF_PAGE}, minmax(0, 1fr))"
        self.grid = w.GridBox([*self.tiles, self.editor], layout=w.Layout(grid_template_columns=columns, grid_gap="10px"))
        self.grid.add_class(self._key)
        self.editor.add_class("m2clip-editor")
        self._controls = [self.class_name, self.split, self.predicted, self.answer, self.action, self.text]
        self._controls += [self.confidence, self.duration, self.copies, self.suspected, self.order]
        pager = w.HBox([self.before, self.after, self.count])
        notes = [w.HTML(CARDS.words(note, "color:#A34700")) for note in browser.notes]
        self.box = w.VBox([*notes, w.HBox([*self._controls, self.clear], **ROW), pager, self.message, self.style, self.grid])
        for control in self._controls:
            control.observe(self.redraw, names="value")
        self.clear.on_click(lambda _: self.ask(Filter()))
        self.before.on_click(lambda _: self._turn(-1))
        self.after.on_click(lambda _: self._turn(1))
        for button, action in ((self.accept, "accept"), (self.relabel, "relabel"), (self.ignore, "ignore"), (self.undo, "")):
            button.on_click(partial(self._decide, action))
        self.redraw()

    def _tile(self, place: int) -> w.VBox:
        picture = w.Button()
        picture.add_class("m2clip-thumbnail")
        picture.add_class(f"m2clip-thumbnail-{place}")
        picture.on_click(partial(self._choose, place))
        tile = w.VBox([picture, w.HTML()], layout=w.Layout(order=str(2 * place), overflow="hidden", padding="4px"))
        return tile.add_class("m2clip-tile")

    def filter(self) -> Filter:
        """Return the filter that the controls describe."""
        low, high = self.confidence.value
        texts = (control.value for control in self._controls[:6])
        lasts = self.duration.value if self.duration.value != (0, self.duration.max) else EVERYTHING
        sure = (low / 100, high / 100) if (low, high) != (0, 100) else ALL
        return Filter(*texts, sure, lasts, self.copies.value, self.suspected.value)

    def ask(self, asked: Filter) -> None:
        """Set the controls to a filter of texts; the others are opened."""
        texts = (asked.class_name, asked.split, asked.predicted, asked.answer, asked.action, asked.text)
        self._paused = True  # one redraw for all of them
        for control, value in zip(self._controls[:-1], (*texts, (0, 100), (0, self.duration.max), False, False), strict=True):
            control.value = value
        self._paused = False
        self.redraw()

    def redraw(self, *_: object) -> None:
        """List what passes the filter, from its first page."""
        if self._paused:
            return
        with errors_in(self.message):
            self.rows, self.page = chosen(self.browser.table, self.filter(), self.order.value).index, 0
            self._draw()

    def _turn(self, pages: int) -> None:
        self.page += pages
        self._draw()

    def _draw(self) -> None:
        """Show one page; only its thumbnails are read."""
        self._close()
        first, count = self.page * PAGE, len(self.rows)
        self.shown = self.rows[first : first + PAGE].tolist()
        pages = max(1, -(-count // PAGE))
        self.count.value = CARDS.words(f"{count:,} of {len(self.browser.table):,} videos, page {self.page + 1:,} of {pages:,}")
        self.before.disabled, self.after.disabled = self.page == 0, self.page + 1 == pages
        found = [self.browser.thumbnail(row) for row in self.shown]
        self.style.value = CARDS.thumbnails(self._key, [picture for picture, _ in found])
        for place, tile in enumerate(self.tiles):
            tile.layout.display = None if place < len(self.shown) else "none"
            if place < len(self.shown):
                tile.children[0].description = found[place][1]
                tile.children[0].tooltip = f"play {self.browser.table.name[self.shown[place]]}"
                self._caption(place)

    def _caption(self, place: int) -> None:
        video = self.browser.table.loc[self.shown[place]]
        self.tiles[place].children[1].value = CARDS.caption(video, Path(video["name"]).name)
        (self.tiles[place].add_class if video.action == "ignore" else self.tiles[place].remove_class)("m2clip-left-out")

    def _close(self) -> None:
        self.place, self.editor.layout.display, self.film.value = None, "none", ""
        for tile in self.tiles:
            tile.remove_class("m2clip-chosen")

    @property
    def row(self) -> int:
        """The chosen video's row in the table."""
        return self.shown[self.place]

    def _choose(self, place: int, _: w.Button) -> None:
        if self.place == place:
            self._close()
            return
        self._close()
        self.place, video = place, self.browser.table.loc[self.shown[place]]
        self.tiles[place].add_class("m2clip-chosen")
        self.editor.layout.order = str(2 * COLUMNS_OF_PAGE * (place // COLUMNS_OF_PAGE + 1) - 1)  # below the row of its thumbnail
        self.editor.layout.display = None
        wanted = video.relabel or video.likelier
        self.label.value = wanted if wanted in self.browser.class_names else video.class_name
        self.note.value = video.note
        self._tell()
        with errors_in(self.message):
            self.film.value = film_html(video.path, video.start_s, video.end_s)

    def _tell(self) -> None:
        video = self.browser.table.loc[self.row]
        pairs = [
            ("file", video["name"]),
            ("class", ", ".join(video.classes)),
            ("split", video.split),
            ("duration", f"{video.duration_s:.2f} s"),
        ]
        if video.start_s or video.end_s < np.inf:
            pairs.append(("segment", f"{video.start_s:.2f} to {video.end_s:.2f} s"))
        if video.predicted:
            pairs.append(("predicted", f"{video.predicted}, {100 * video.confidence:.1f} % ({video.answer})"))
        if video.likelier:
            pairs.append(("check", f"rather {video.likelier}: more probable by {video.suspicion:.2f}"))
        if video.group == video.group:
            others = self.browser.table[self.browser.table.group == video.group].name
            pairs.append(("copies", ", ".join(name for name in others if name != video["name"])))
        if video.action:
            pairs.append(("decision", " ".join(filter(None, (video.action, video.relabel, video.note and f"({video.note})")))))
        if video.status != "ok":
            pairs.append(("status", video.status))
        self.facts.value = CARDS.facts(pairs)

    def _decide(self, action: str, _: w.Button) -> None:
        with errors_in(self.message):
            self.browser.correct(self.row, action, self.label.value, self.note.value)
            self._caption(self.place)
            self._tell()


def browse(browser: Browser) -> w.Widget:
    """Thumbnails that play, with filters and decisions; confusions that open their videos; search; the timeline of one video."""
    return BrowserPanel(browser).box
