"""The attention explorer as widgets. What they show is computed in explorer.py and looking.py, and worded in cards.py."""

import tempfile
from pathlib import Path

import ipywidgets as w

from m2clip_lib.errors import UserError
from m2clip_lib.viz import cards
from m2clip_lib.viz.branches import blocks_with_branch
from m2clip_lib.viz.explorer import Explorer, parse_names
from m2clip_lib.viz.looking import Edit, Look, edit_clip
from m2clip_lib.viz.maps import METHODS, MapChoice
from m2clip_lib.viz.picture import figure_html, timeline_figure

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
        self.message.value = "" if error is None else cards.problem(str(error))

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
            maps.append(cards.titled(found, name) if len(models) > 1 else found)
            tables.append(cards.ranking(table, before, name if len(models) > 1 else ""))
        context = cards.describe_look(shown, edit)
        self.picture.value = figure_html(explorer.figure(shown, maps), context)
        self.ranking.value = f"<p>{cards.escaped(context)}</p>" + cards.side_by_side(tables)
        self.player.value = cards.film(shown.frames, maps[0]) if self.play.value else ""

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
