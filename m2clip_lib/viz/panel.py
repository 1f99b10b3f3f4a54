"""The widgets of the notebooks: the attention explorer (notebook 10) and the training curves that follow the epochs (notebook 03).

explorer.py computes what is shown, style.py and templates/cards.html turn it into HTML, and this file connects both to controls.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as w
import pandas as pd
from IPython.display import display
from markupsafe import Markup

from m2clip_lib.attention.maps import METHODS, MapChoice, blocks_with_branch
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import parse_labels
from m2clip_lib.models import M2CLIP
from m2clip_lib.viz.explorer import Edit, Explorer, Look, edit_clip
from m2clip_lib.viz.overlay import film_bytes
from m2clip_lib.viz.plots import plot_losses, plot_validation
from m2clip_lib.viz.plots.attention import timeline_figure
from m2clip_lib.viz.style import CARDS, figure_html, new_figure

ALL_HEADS = -1  # a dropdown's None means that nothing is chosen
WIDE = {"layout": w.Layout(width="98%"), "style": {"description_width": "9em"}}
SHORT = {"layout": w.Layout(width="20em"), "style": {"description_width": "6em"}}
SETTLED = {"continuous_update": False}  # react when a slider is released or Enter is pressed
RANKED = 6  # names of a ranking


@contextmanager
def errors_in(message: w.HTML) -> Iterator[None]:
    """Show what is wrong with an input in a line of a panel, in place of a traceback."""
    message.value = ""
    try:
        yield
    except (UserError, ValueError, OSError) as error:  # OSError: a name that no file can have
        message.value = CARDS.problem(error)


class ExplorerPanel:
    """All controls and what they show. `box` is the widget to display; every control redraws at once."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.rows = explorer.table.reset_index(drop=True).loc[explorer.predictions.rows]
        names = explorer.manifest.class_names
        frames, (rows, columns) = explorer.run.experiment.data.num_frames, explorer.model.visual.grid
        checkpoints, blocks = explorer.checkpoints, explorer.blocks
        num_heads = explorer.model.visual.blocks[0].attn.num_heads
        heads = [("mean of all", ALL_HEADS), *((str(i + 1), i) for i in range(num_heads))]
        self.class_choice = w.Dropdown(options=list(self.rows.class_name.unique()), description="class", **SHORT)
        self.video_choice = w.IntSlider(min=1, max=1, description="video", **SETTLED, **SHORT)
        self.path = w.Text(description="or a path", placeholder="path of a video file, then Enter", **SETTLED, **SHORT)
        self.upload = w.FileUpload(description="or upload", accept="video/*", multiple=False)
        self.other = w.Combobox(description="compare with", options=checkpoints, placeholder="another checkpoint", **SETTLED, **WIDE)
        self.method = w.Dropdown(options=list(METHODS), value="relevance", description="map", **SHORT)
        self.block = w.IntSlider(value=blocks, min=1, max=blocks, description="block", **SETTLED, **SHORT)
        self.head = w.Dropdown(options=heads, description="head", **SHORT)
        self.asked = w.Dropdown(options=[("the best", ""), *((name, name) for name in names)], description="speaks for", **SHORT)
        self.readout = w.Dropdown(options=explorer.predictions.readouts[::-1], description="read-out", **SHORT)
        self.labels = w.Text(description="your labels", placeholder="a, b, c: any words, ranked at once", **WIDE)
        self.backwards = w.Checkbox(description="play backwards", indent=False, layout=w.Layout(width="10em"))
        self.hidden_frames = w.SelectMultiple(options=[(str(i + 1), i) for i in range(frames)], description="hide frames", rows=4, **SHORT)
        self.hide_patches = w.Checkbox(description="hide patches:", indent=False, layout=w.Layout(width="10em"))
        self.hidden_rows, self.hidden_columns = (
            w.IntRangeSlider(value=(1, (count + 1) // 2), min=1, max=count, description=name, **SETTLED, **SHORT)
            for name, count in (("rows", rows), ("columns", columns))
        )
        self.play = w.Checkbox(description="film", indent=False, layout=w.Layout(width="6em"))
        self.when = w.Button(description="timeline", tooltip="score the whole video window by window")
        self.message, self.picture, self.ranking, self.player, self.timeline = (w.HTML() for _ in range(5))
        choices = w.HBox([self.class_choice, self.video_choice, self.path, self.upload])
        maps = w.HBox([self.method, self.block, self.head, self.asked, self.readout])
        edits = w.HBox([self.backwards, self.hidden_frames, self.hide_patches, self.hidden_rows, self.hidden_columns])
        films = w.HBox([self.play, self.when])
        shown = [self.message, self.picture, self.ranking, films, self.player, self.timeline]
        self.box = w.VBox([choices, self.labels, maps, edits, self.other, *shown])
        self._folder = tempfile.TemporaryDirectory(prefix="m2clip-upload-")
        for control in (self.class_choice, self.video_choice):
            control.observe(self._choose_row, names="value")
        self.path.observe(lambda change: self._open(change["new"]) if change["new"] else self._choose_row(), names="value")
        self.upload.observe(self._choose_upload, names="value")
        for control in (*maps.children, self.labels, *edits.children, self.other, self.play):
            control.observe(self.redraw, names="value")
        self.when.on_click(self._draw_timeline)
        self._choose_row()

    def _choose_row(self, *_: object) -> None:
        of_class = self.rows.index[self.rows.class_name == self.class_choice.value]
        self.video_choice.max = len(of_class)
        row = int(of_class[min(self.video_choice.value, len(of_class)) - 1])
        self._open(self.rows.path[row], self.rows.class_name[row])

    def _choose_upload(self, *_: object) -> None:
        if self.upload.value:
            sent = self.upload.value[0]
            file = Path(self._folder.name) / Path(sent["name"]).name
            file.write_bytes(sent["content"])
            self._open(str(file))

    def _open(self, path: str, truth: str = "") -> None:
        with errors_in(self.message):
            self.look: Look = self.explorer.look_at(path, truth)
            self.timeline.value = ""
            self.redraw()

    def redraw(self, *_: object) -> None:
        """Compute and show everything again; an error goes into the message line, and the last picture stays."""
        with errors_in(self.message):
            self._draw(parse_labels(self.labels.value), self.edit())

    def _draw(self, names: list[str], edit: Edit) -> None:
        explorer = self.explorer
        models = {"this run": explorer.model}
        if self.other.value:
            models[self.other.value] = explorer.other(self.other.value)
        shown = edit_clip(self.look, edit, explorer.model.backbone.mean, explorer.model.visual.grid)
        maps, tables = [], []
        for name, model in models.items():
            title = name if len(models) > 1 else ""
            table = explorer.scores(shown, names, model)
            before = explorer.scores(self.look, names, model) if edit != Edit() else None
            found = explorer.map(shown, self._map_choice(table, names, model), names, model)
            maps.append(dataclasses.replace(found, title=f"{title}\n{found.title}".lstrip()))
            tables.append(ranking(table, before, title))
        context = describe_look(shown, edit)
        self.picture.value = figure_html(explorer.figure(shown, maps), context)
        self.ranking.value = CARDS.rankings(context, tables)
        label = "Film: the clip, and beside it " + " ".join(maps[0].title.split())
        self.player.value = CARDS.film(film_bytes(shown.frames, maps[0]), label) if self.play.value else ""

    def edit(self) -> Edit:
        """Return the edit that the controls describe."""
        patches = (self.hidden_rows, self.hidden_columns) if self.hide_patches.value else ()
        ranges = [(control.value[0] - 1, control.value[1]) for control in patches]
        return Edit(self.backwards.value, tuple(self.hidden_frames.value), *ranges)

    def _map_choice(self, table: pd.DataFrame, names: list[str], model: M2CLIP) -> MapChoice:
        known = names or self.explorer.manifest.class_names
        asked = self.asked.value if self.asked.value in known else table.index[0]
        readout = self.readout.value if self.readout.value in table else table.columns[-1]
        block = self.block.value - 1
        if self.method.value in ("enhancement", "difference"):  # the last block has no such branch over patches: take the nearest
            block = min(blocks_with_branch(model, self.method.value), key=lambda i: abs(i - block), default=block)
        head = None if self.head.value == ALL_HEADS else self.head.value
        return MapChoice(self.method.value, block, head, known.index(asked), readout)

    def _draw_timeline(self, *_: object) -> None:
        with errors_in(self.message):
            found = self.explorer.timeline(self.look.path, parse_labels(self.labels.value))
            picture = figure_html(timeline_figure(found), "Timeline of the whole video, forwards and unmasked.")
            table = found.table(3).round(1).rename(columns=lambda name: name.replace("_", " "))
            self.timeline.value = picture + Markup(table.to_html(index=False, na_rep="", border=0))


def explore(explorer: Explorer) -> w.Widget:
    """Choose a video, a map and labels; see frames, map, rankings of all read-outs, film and timeline."""
    return ExplorerPanel(explorer).box


def describe_look(look: Look, edit: Edit) -> str:
    """Describe a clip and its edit in one sentence."""
    path = Path(look.path)
    parts = [f"{path.parent.name}/{path.name}: " + (f"true class “{look.truth}”" if look.truth else "no true class known")]
    if edit.backwards:
        parts.append("played backwards")
    if edit.frames:
        parts.append(f"frames {', '.join(str(i + 1) for i in edit.frames)} hidden")
    (top, bottom), (left, right) = edit.rows, edit.columns
    if bottom and right:
        parts.append(f"patches of rows {top + 1} to {bottom} and columns {left + 1} to {right} hidden")
    return ", ".join(parts) + "."


def ranking(table: pd.DataFrame, before: pd.DataFrame | None = None, title: str = "") -> str:
    """The best names of a score_table as HTML, one column per read-out, percent.

    before: scores of the clip without its edit; the page then says how far the edit moved each score.
    """
    change, first = None, None
    if before is not None:
        first = before.index[0]  # what led before is listed, however far it has fallen
        change = table.iloc[:, -1] - before.iloc[:, -1].loc[table.index]
    places = [place for place, name in enumerate(table.index) if place < RANKED or name == first]
    return CARDS.ranking(table, places, change, title)


def live_curves(chance: float, show: Callable[[w.Widget], object] = display) -> Callable[[pd.DataFrame], None]:
    """Display an empty picture; returns what train() calls after each epoch with its table so far, to redraw it.

    chance: accuracy of guessing, percent.
    """
    picture = w.HTML("waiting for the first epoch")
    show(picture)

    def update(metrics: pd.DataFrame) -> None:
        figure, (left, right) = new_figure(12, 4.8, columns=2)
        plot_losses(left, metrics)
        plot_validation(right, metrics, chance)
        picture.value = figure_html(figure, f"Training after epoch {int(metrics.epoch.iloc[-1])}:")

    return update
