"""The attention explorer as widgets. What they show is computed in explorer.py and looking.py, and worded in py."""

import base64
import dataclasses
import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import display

from m2clip_lib.attention.maps import METHODS, MapChoice, PatchMap, blocks_with_branch
from m2clip_lib.errors import UserError
from m2clip_lib.viz.explorer import Edit, Explorer, Look, edit_clip, parse_names
from m2clip_lib.viz.overlay import write_film
from m2clip_lib.viz.plots import plot_losses, plot_validation
from m2clip_lib.viz.plots.attention import timeline_figure
from m2clip_lib.viz.style import figure_html, new_figure

ALL_HEADS = -1  # a dropdown's None means that nothing is chosen
WIDE = {"layout": w.Layout(width="98%"), "style": {"description_width": "9em"}}
SHORT = {"layout": w.Layout(width="20em"), "style": {"description_width": "6em"}}


class ExplorerPanel:
    """All controls and what they show. `box` is the widget to display; every control redraws at once."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.rows = explorer.table.reset_index(drop=True).loc[explorer.predictions.rows]
        frames, (rows, columns) = explorer.run.experiment.data.num_frames, explorer.model.clip.visual.grid_size
        names = list(dict.fromkeys(self.rows.class_name))
        self.class_choice = w.Dropdown(options=names, description="class", **SHORT)
        self.video_choice = w.IntSlider(min=1, max=1, description="video", continuous_update=False, **SHORT)
        self.path = w.Text(description="or a path", placeholder="path of a video file, then Enter", continuous_update=False, **SHORT)
        self.upload = w.FileUpload(description="or upload", accept="video/*", multiple=False)
        self.other = w.Combobox(
            description="compare with", options=explorer.checkpoints, placeholder="another checkpoint", continuous_update=False, **WIDE
        )
        self.method = w.Dropdown(options=list(METHODS), value="relevance", description="map", **SHORT)
        self.block = w.IntSlider(value=explorer.blocks, min=1, max=explorer.blocks, description="block", continuous_update=False, **SHORT)
        heads = [("mean of all", ALL_HEADS), *((str(i + 1), i) for i in range(explorer.heads))]
        self.head = w.Dropdown(options=heads, description="head", **SHORT)
        self.asked = w.Dropdown(options=["the best", *explorer.manifest.class_names], description="speaks for", **SHORT)
        self.readout = w.Dropdown(options=["ensemble", "similarity", "classifier"], description="read-out", **SHORT)
        self.labels = w.Text(description="your labels", placeholder="a, b, c: any words, ranked at once", continuous_update=True, **WIDE)
        self.backwards = w.Checkbox(description="play backwards", indent=False, layout=w.Layout(width="10em"))
        self.hidden_frames = w.SelectMultiple(options=[(str(i + 1), i) for i in range(frames)], description="hide frames", rows=4, **SHORT)
        self.hide_patches = w.Checkbox(description="hide patches:", indent=False, layout=w.Layout(width="10em"))
        self.hidden_rows = w.IntRangeSlider(
            value=(1, (rows + 1) // 2), min=1, max=rows, description="rows", continuous_update=False, **SHORT
        )
        self.hidden_columns = w.IntRangeSlider(
            value=(1, (columns + 1) // 2), min=1, max=columns, description="columns", continuous_update=False, **SHORT
        )
        self.play = w.Checkbox(description="film", indent=False, layout=w.Layout(width="6em"))
        self.when = w.Button(description="timeline", tooltip="score the whole video window by window")
        self.message, self.picture, self.ranking, self.player, self.timeline = (w.HTML() for _ in range(5))
        self.box = w.VBox(
            [
                w.HBox([self.class_choice, self.video_choice, self.path, self.upload]),
                self.labels,
                w.HBox([self.method, self.block, self.head, self.asked, self.readout]),
                w.HBox([self.backwards, self.hidden_frames, self.hide_patches, self.hidden_rows, self.hidden_columns]),
                self.other,
                self.message,
                self.picture,
                self.ranking,
                w.HBox([self.play, self.when]),
                self.player,
                self.timeline,
            ]
        )
        self._source: tuple | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="m2clip-upload-")
        for choice in (self.class_choice, self.video_choice):
            choice.observe(self._choose_row, names="value")
        self.path.observe(lambda change: self._open(change["new"]) if change["new"] else self._choose_row(), names="value")
        self.upload.observe(self._choose_upload, names="value")
        for control in (self.method, self.block, self.head, self.asked, self.readout, self.labels, self.backwards, self.hidden_frames):
            control.observe(self.redraw, names="value")
        for control in (self.hide_patches, self.hidden_rows, self.hidden_columns, self.other, self.play):
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
        try:
            self.look: Look = self.explorer.look_at(path, truth)
        except (UserError, OSError) as error:  # a name that no file can have
            self._say(error)
            return
        self.timeline.value = ""
        self.redraw()

    def _say(self, error: Exception | None) -> None:
        self.message.value = "" if error is None else problem(str(error))

    def redraw(self, *_: object) -> None:
        """Compute and show everything anew; what is wrong is said in the message line, and the last picture stays."""
        try:
            self._redraw()
            self._say(None)
        except (UserError, ValueError, OSError) as error:
            self._say(error)

    def _redraw(self) -> None:
        explorer, names = self.explorer, parse_names(self.labels.value)
        models = {"this run": explorer.model}
        if self.other.value:
            models[self.other.value] = explorer.other(self.other.value)
        edit = self.edit()
        shown = edit_clip(self.look, edit, explorer.model.backbone.mean, explorer.model.clip.visual.grid_size)
        maps, tables = [], []
        for name, model in models.items():
            table = explorer.scores(shown, names, model)
            before = explorer.scores(self.look, names, model) if edit != Edit() else None
            found = explorer.map(shown, self._map_choice(table, names, model), names, model)
            maps.append(titled(found, name) if len(models) > 1 else found)
            tables.append(ranking(table, before, name if len(models) > 1 else ""))
        context = describe_look(shown, edit)
        self.picture.value = figure_html(explorer.figure(shown, maps), context)
        self.ranking.value = f"<p>{escaped(context)}</p>" + side_by_side(tables)
        self.player.value = film(shown.frames, maps[0]) if self.play.value else ""

    def edit(self) -> Edit:
        """What the controls ask to be done to the clip."""
        rows = columns = None
        if self.hide_patches.value:
            rows, columns = ((control.value[0] - 1, control.value[1]) for control in (self.hidden_rows, self.hidden_columns))
        return Edit(self.backwards.value, tuple(self.hidden_frames.value), rows, columns)

    def _map_choice(self, table, names: list[str], model) -> MapChoice:
        known = names or self.explorer.manifest.class_names
        asked = self.asked.value if self.asked.value in known else table.index[0]
        readout = self.readout.value if self.readout.value in table else table.columns[-1]
        block = self.block.value - 1
        if self.method.value in ("enhancement", "difference"):  # the last block's adapter has no say over patches: take the nearest
            there = blocks_with_branch(model, self.method.value)
            block = min(there, key=lambda i: abs(i - block), default=block)
        head = None if self.head.value == ALL_HEADS else self.head.value
        return MapChoice(self.method.value, block, head, known.index(asked), readout)

    def _draw_timeline(self, *_: object) -> None:
        try:
            found = self.explorer.timeline(self.look.path, parse_names(self.labels.value))
        except UserError as error:
            self._say(error)
            return
        table = found.table(3).round(1).rename(columns=lambda name: name.replace("_", " ")).to_html(index=False, na_rep="", border=0)
        self.timeline.value = figure_html(timeline_figure(found), "Timeline of the whole video, forwards and unmasked.") + table


def explore(explorer: Explorer) -> w.Widget:
    """Choose a video, a map and labels; see frames, map, rankings of all read-outs, film and timeline."""
    return ExplorerPanel(explorer).box


SHOWN = 6  # names of a ranking

escaped = html.escape


def problem(text: str) -> str:
    """A message that something is wrong."""
    return f'<p role="alert" style="color:#B3261E"><b>{escaped(text)}</b></p>'


def titled(found: PatchMap, name: str) -> PatchMap:
    """The same map with the model's name in its title."""
    return dataclasses.replace(found, title=f"{name}\n{found.title}")


def describe_look(look: Look, edit: Edit) -> str:
    """What is being looked at, in one sentence."""
    parts = [
        f"{Path(look.path).parent.name}/{Path(look.path).name}: " + (f"true class “{look.truth}”" if look.truth else "no true class known")
    ]
    if edit.backwards:
        parts.append("played backwards")
    if edit.frames:
        parts.append(f"frames {', '.join(str(i + 1) for i in edit.frames)} hidden")
    if edit.rows is not None and edit.columns is not None:
        (top, bottom), (left, right) = edit.rows, edit.columns
        parts.append(f"patches of rows {top + 1} to {bottom} and columns {left + 1} to {right} hidden")
    return ", ".join(parts) + "."


def ranking(table: pd.DataFrame, before: pd.DataFrame | None = None, title: str = "") -> str:
    """The best names of a score_table, a column a read-out, percent; with `before`, how far hiding or reversing moved each score."""
    columns = list(table.columns)
    head = "".join(f"<th>{escaped(name)}, %</th>" for name in columns) + ("<th>change, points</th>" if before is not None else "")
    body = []
    places = list(range(min(SHOWN, len(table))))
    if before is not None and len(before):  # what led before, however far it has fallen
        places += [place for place in [table.index.get_loc(before.index[0])] if place not in places]
    for place, (name, row) in zip([place + 1 for place in places], table.iloc[places].iterrows(), strict=True):
        cells = "".join(f"<td>{row[column]:.1f}</td>" for column in columns)
        if before is not None:
            cells += f"<td><b>{row[columns[-1]] - before.loc[name, columns[-1]]:+.1f}</b></td>"
        body.append(f'<tr><td>{place}</td><td style="text-align:left">{escaped(str(name))}</td>{cells}</tr>')
    caption = f'<caption style="text-align:left">{escaped(title)}</caption>' if title else ""
    return (
        f'<table class="m2clip-ranking" style="font-size:1.05em;line-height:1.3" cellpadding="4">{caption}'
        f"<tr><th>rank</th><th>label</th>{head}</tr>{''.join(body)}</table>"
    )


def side_by_side(parts: Sequence[str]) -> str:
    """Blocks beside one another; below one another where the page is narrow."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:3em">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def film(frames: np.ndarray, found: PatchMap) -> str:
    """A film of the clip beside its map, inside the page; see write_film."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        write_film(file, frames, found)
        data = base64.b64encode(file.read_bytes()).decode()
    text = escaped("Film: the clip, and beside it " + " ".join(found.title.split()))
    return f'<video aria-label="{text}" controls autoplay loop muted src="data:video/mp4;base64,{data}"></video>'


def live_curves(chance: float, show: Callable[[ipywidgets.Widget], object] = display) -> Callable[[pd.DataFrame], None]:
    """Display an empty picture; returns what train() calls after each epoch with its table so far, to redraw it.

    chance: accuracy of guessing, percent.
    """
    picture = ipywidgets.HTML("waiting for the first epoch")
    show(picture)

    def update(metrics: pd.DataFrame) -> None:
        figure, (left, right) = new_figure(12, 4.8, columns=2)
        plot_losses(left, metrics)
        plot_validation(right, metrics, chance)
        picture.value = figure_html(figure, f"Training after epoch {int(metrics.epoch.iloc[-1])}:")

    return update
