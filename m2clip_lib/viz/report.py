"""results/<run>/report.html: one self-contained page, made from the run's files alone."""

import base64
import html
import json
from pathlib import Path

import pandas as pd
from PIL import Image

from m2clip_lib.runs import PNG_TEXT

FIGURES = (  # (file, caption); those that are there are shown, in this order
    ("headline", "What each model gets right on held-out videos. Only the last one has seen what changes between frames."),
    ("backwards", "The same test videos played forwards and backwards: a model that reads motion must change its mind."),
    ("ablation_top1", "Each variant of the adapter, every seed a ring, the mean a red bar."),
    ("ablation_direction", "The same variants on direction alone: is the true class scored above its time-reversed partner?"),
    ("curves", "Training: the four losses, and accuracy on the validation split."),
    ("confusion", "Where the ensemble goes wrong on the evaluation split."),
    ("per_class", "Top-1 of the ensemble, class by class."),
    ("gain", "What the model gains over a probe that sees the same frames as one averaged picture, class by class."),
    ("focus", "How much of the relevance for the true class falls into the moving object's box, beside the box's share of the picture."),
    ("frames", "The same checkpoint on clips of other lengths, with the operations a video costs; published numbers in their own colour."),
    ("embedding", "The held-out clips, placed by the two main directions of their features."),
    ("clips", "The videos: one clip a row."),
    ("walk", "What a clip becomes on its way through the model."),
    ("files", "How long the videos are, and which of them cannot be used."),
    ("class_balance", "Usable videos per class and split."),
    ("stills", "What the backbone knows before training: zero-shot accuracy on still pictures."),
    ("zero_shot", "What frozen CLIP takes the videos of each class for, by their names alone."),
    ("relabelling", "The label check: frozen CLIP against random relabellings."),
)
TABLES = (
    ("headline", "Accuracy on the evaluation split, percent"),
    ("ablation_summary", "Ablation: mean over seeds, and range, percent"),
    ("backwards", "Played forwards and backwards, percent of videos"),
)
STYLE = """
body{font:17px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem 1.2rem 3rem;color:#1b1b1b;background:#fff}
h1{font-size:1.7rem;margin:.6rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .6rem}
.finding{font-size:1.15rem;background:#eef5fb;border-left:5px solid #0072B2;padding:.7rem 1rem}
.warning{font-weight:600;color:#a00;background:#fdeeee;border-left:5px solid #c00;padding:.7rem 1rem}
figure{margin:1.4rem 0;position:relative}img{max-width:100%;height:auto;display:block}figcaption{color:#444;font-size:.95rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}th{background:#f4f4f4}
td:first-child,th:first-child,td.text,th.text{text-align:left}tr.strong td{font-weight:600}
footer{margin-top:3rem;border-top:1px solid #ccc;color:#444;font-size:.88rem}footer td{white-space:normal;
text-align:left;overflow-wrap:anywhere}footer td:first-child{white-space:nowrap;vertical-align:top}footer table{width:100%}
figure label{display:block;overflow-x:auto;cursor:zoom-in}figure input{position:absolute;opacity:0}
figure input:checked+img{max-width:none;width:60rem}figure input:focus-visible+img{outline:3px solid #0072B2}
@media(max-width:40rem){figcaption:after{content:" (Tap the picture to enlarge it.)"}}
"""


def write_report(folder: Path) -> Path:
    """Write folder/report.html from run.json, tables/, figures/ and executed/. Returns: its path."""
    run = json.loads((folder / "run.json").read_text())
    parts = [f"<h1>M2CLIP workbook: run “{html.escape(run['run'])}”</h1>", *_warnings(folder), _finding(folder)]
    for name, title in TABLES[:1]:
        parts += _table_section(folder, name, title)
    parts += ["<h2>Figures</h2>", *(_figure(folder, name, caption) for name, caption in FIGURES)]
    for name, title in TABLES[1:]:
        parts += _table_section(folder, name, title)
    parts += [_notebook_links(folder), _provenance(run)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>M2CLIP: {html.escape(run["run"])}</title><style>{STYLE}</style></head><body>'
        f"{''.join(parts)}</body></html>"
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _warnings(folder: Path) -> list[str]:
    """What a step was told to accept, in red."""
    texts = [json.loads(record.read_text()).get("warning", "") for record in sorted(folder.glob("[0-9][0-9]_*.json"))]
    return [f'<p class="warning">{html.escape(text)}</p>' for text in texts if text]


def _finding(folder: Path) -> str:
    """One sentence from the evaluation step's record."""
    record = folder / "04_evaluation.json"
    text = json.loads(record.read_text()).get("finding", "") if record.is_file() else ""
    return f'<p class="finding">{html.escape(text)}</p>' if text else ""


def _table_section(folder: Path, name: str, title: str) -> list[str]:
    file = folder / "tables" / f"{name}.csv"
    return [f"<h2>{html.escape(title)}</h2>", table_html(pd.read_csv(file))] if file.is_file() else []


def table_html(table: pd.DataFrame) -> str:
    """A table that scrolls sideways on a phone; floats to one decimal; columns equal in all rows go below it as a line."""
    constant = [c for c in table if len(table) > 1 and table[c].nunique(dropna=False) == 1 and c not in ("videos", "seeds")]
    note = ", ".join(f"{c} {table[c].iloc[0]}" for c in constant)
    shown = table.drop(columns=constant)
    texts = {c for c in shown if not pd.api.types.is_numeric_dtype(shown[c])}
    head = "".join(f'<th class="{"text" if c in texts else ""}">{html.escape(str(c).replace("_", " "))}</th>' for c in shown)
    rows = []
    for _, row in shown.iterrows():
        cells = "".join(f'<td class="{"text" if c in texts else ""}">{html.escape(_cell(row[c]))}</td>' for c in shown)
        rows.append(f"<tr{' class=strong' if row.get('readout') == 'ensemble' else ''}>{cells}</tr>")
    note = f"<p>In all rows: {html.escape(note)}.</p>" if note else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{note}'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if pd.isna(value) else f"{value:,.0f}" if value == round(value) and abs(value) > 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(folder: Path, name: str, caption: str) -> str:
    """A picture with its finding and caption as text. A tap enlarges it: on a phone the whole fits the screen, but is small."""
    file = folder / "figures" / f"{name}.png"
    if not file.is_file():
        return ""
    with Image.open(file) as picture:
        finding = html.escape(picture.info.get(PNG_TEXT, ""))
    data, text = base64.b64encode(file.read_bytes()).decode(), html.escape(caption)
    words = f"<b>{finding}</b><br>{text}" if finding else text
    alt = f"{finding}. {text}" if finding else text
    return (
        f'<figure><label><input type="checkbox" aria-label="enlarge the picture"><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"</label><figcaption>{words}</figcaption></figure>"
    )


def _notebook_links(folder: Path) -> str:
    pages = sorted((folder / "executed").glob("*.html"))
    items = "".join(f'<li><a href="executed/{page.name}">{html.escape(page.stem)}</a></li>' for page in pages)
    return f"<h2>Executed notebooks</h2><ul>{items}</ul>" if items else ""


def _provenance(run: dict) -> str:
    timing = run.get("timing", {})
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in timing.get("steps_s", {}).items())
    rows = {
        "experiment": run["experiment"],
        "made": f"{run['start']} to {run.get('end', '?')}",
        "time": f"{timing.get('all_steps_s', 0):.0f} s for all steps ({steps})",
        "commit": run["git_commit"] or "not in a repository",
        "seed": run["seed"],
        "hardware": ", ".join(f"{key}: {value}" for key, value in run["hardware"].items() if value),
        "versions": ", ".join(f"{key} {value}" for key, value in run["versions"].items()),
        "sha256": ", ".join(f"{key} {value[:16]}" for key, value in run.get("sha256", {}).items()),
    }
    cells = "".join(f"<tr><td><b>{key}</b></td><td>{html.escape(str(value))}</td></tr>" for key, value in rows.items())
    config = []
    for section, fields in run["config"].items():
        text = ", ".join(f"{key}: {value}" for key, value in fields.items())
        config.append(f"<tr><td><b>{html.escape(section)}</b></td><td>{html.escape(text)}</td></tr>")
    details = f"<details><summary>Configuration</summary><table>{''.join(config)}</table></details>"
    return f"<footer><h2>Where these numbers come from</h2><table>{cells}</table>{details}</footer>"
