"""What the explorer shows beside its pictures, as HTML: rankings, messages, films. Every word that came from outside is escaped."""

import base64
import dataclasses
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib.viz.looking import Edit, Look
from m2clip_lib.viz.maps import PatchMap
from m2clip_lib.viz.overlay import write_film

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
