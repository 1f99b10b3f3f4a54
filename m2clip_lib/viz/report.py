"""results/<run>/report.html: one self-contained page, made from the run's files alone. What it says is in templates/report.html."""

from pathlib import Path

import pandas as pd
from markupsafe import Markup
from PIL import Image

from m2clip_lib.csvfiles import read_csv
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json
from m2clip_lib.runs import PNG_TEXT
from m2clip_lib.viz.style import CARDS, TEMPLATES, cell_text, text_columns

TABLES = ("headline", "honesty", "ablation_summary")


def write_report(folder: Path) -> Path:
    """Write folder/report.html from run.json, the steps' records, tables/, figures/ and executed/. Returns: its path."""
    steps = sorted([*folder.glob("[0-9][0-9]_*.json"), *folder.glob("train.json")])  # of notebooks, and of m2clip train
    records = {file.stem: read_json(file) for file in steps}
    check_one_checkpoint(folder, records.get("04_evaluation", {}))
    tables = {name: folder / "tables" / f"{name}.csv" for name in TABLES}
    figures = {}
    for file in (folder / "figures").glob("*.png"):
        with Image.open(file) as picture:
            figures[file.stem] = {"png": file.read_bytes(), "finding": picture.info.get(PNG_TEXT, "")}
    page = TEMPLATES.get_template("report.html").render(
        run=read_json(folder / "run.json"),
        warnings=list(dict.fromkeys(record["warning"] for record in records.values() if record.get("warning"))),
        finding=records.get("04_evaluation", {}).get("finding", ""),
        tables={name: table_html(read_csv(file)) for name, file in tables.items() if file.is_file()},
        figures=figures,
        films=Markup(films.read_text(encoding="utf-8")) if (films := folder / "films.html").is_file() else "",  # of notebook 04
        notebooks=sorted(file.stem for file in (folder / "executed").glob("*.html")),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def check_one_checkpoint(folder: Path, evaluation: dict) -> None:
    """Raises: UserError when the predictions on disk are of another checkpoint than the headline. evaluation: record of notebook 04."""
    for side in sorted((folder / "predictions").glob("*.json")):
        found, told = read_json(side).get("checkpoint_sha256"), evaluation.get("checkpoint_sha256")
        if found and told and found != told:
            differing = f"{side} is of a checkpoint of sha256 {found[:12]}, the headline of {told[:12]}"
            raise UserError(f"report: {differing}; evaluate again with: m2clip run --from 04")


def table_html(table: pd.DataFrame) -> str:
    """Return a table as HTML: floats have one decimal, and columns that are equal in all rows go into a line below it."""
    constant = [c for c in table if len(table) > 1 and table[c].nunique(dropna=False) == 1 and c not in ("videos", "seeds")]
    left = table.drop(columns=constant).rename(columns=lambda name: name.replace("_", " "))
    note = ", ".join(f"{c.replace('_', ' ')} {cell_text(table[c].iloc[0])}" for c in constant if table[c].notna().any())
    return CARDS.table(list(left), left.map(cell_text).to_dict("records"), text_columns(left), note)
