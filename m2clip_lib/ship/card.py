"""The model card: Markdown that the Hugging Face Hub reads, made from a checkpoint's header and the files of its evaluations alone."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from m2clip_lib import paths
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.tables import WORDS, measure_of
from m2clip_lib.files import file_sha256, read_json
from m2clip_lib.models.checkpoint import existing, read_checkpoint

TEMPLATES = Environment(
    loader=PackageLoader("m2clip_lib.ship"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
# Names come from files: their signs are neither Markdown nor HTML. In the front matter, JSON's strings are YAML's.
TEMPLATES.filters["literal"] = lambda text: Markup(re.sub(r"[^\w .,;%()+-]|_", lambda found: f"&#{ord(found[0])};", str(text)))
TEMPLATES.filters["yaml"] = lambda text: Markup(json.dumps(str(text), ensure_ascii=False))


@dataclass(frozen=True)
class Evaluation:
    """What one run says of a checkpoint, in percent; in a row, None is what was not measured.

    finding: the sentence of notebook 04, or "". rows: of the accuracy table, the best read-out last. controls: of other models.
    honesty: the best read-out's rows, one per order of the frames.
    """

    experiment: str
    protocol: Protocol
    list_sha256: str
    finding: str
    rows: list[dict]
    controls: list[dict]
    honesty: list[dict]

    @property
    def best(self) -> dict:
        """The row of the ensemble, or of similarity where there is no classifier."""
        return self.rows[-1]

    @property
    def measure(self) -> str:
        """What the rows are headed by, in words."""
        return WORDS[measure_of(self.best)]


def evaluations(digest: str) -> list[Evaluation]:
    """The evaluations in results/ of the checkpoint with this digest, by the name of their run."""
    found = []
    for file in sorted(paths.RESULTS.glob("*/run.json")):
        folder, run = file.parent, read_json(file)
        split = run.get("config", {}).get("eval", {}).get("split")
        side, accuracy = folder / "predictions" / f"{split}.json", folder / "tables" / "accuracy.csv"
        about = read_json(side) if side.is_file() and accuracy.is_file() else {}
        if about.get("checkpoint_sha256") != digest:
            continue
        notebook = read_json(record) if (record := folder / "04_evaluation.json").is_file() else {}
        is_same = notebook.get("checkpoint_sha256") == digest
        rows = _rows(accuracy)
        honesty = [row for row in _rows(folder / "tables" / "honesty.csv") if row["readout"] == rows[-1]["readout"]]
        controls = [row for row in _rows(folder / "tables" / "headline.csv") if is_same and row["model"] != rows[-1]["model"]]
        finding = notebook.get("finding", "") if is_same else ""
        facts = run["experiment"], Protocol(**about["protocol"]), about["list_sha256"], finding
        found.append(Evaluation(*facts, rows, controls, honesty))
    return found


def _rows(file: Path) -> list[dict]:
    """The rows of a table; none without the file."""
    table = read_csv(file) if file.is_file() else pd.DataFrame()
    return table.astype(object).where(table.notna(), None).to_dict("records")


def model_card(checkpoint: Path) -> str:
    """The card of a checkpoint of ours. What no file says is "not measured", or "not recorded".

    Raises: UserError when the file is missing, damaged, or not one of ours.
    """
    checkpoint = existing(checkpoint)
    (info, _), digest = read_checkpoint(checkpoint), file_sha256(checkpoint)
    extra = info.extra
    return TEMPLATES.get_template("card.md").render(
        info=info,
        config=info.config,
        protocol=Protocol.of_checkpoint(info),
        digest=digest,
        name=extra.get("run") or checkpoint.stem,
        training=_training(str(extra.get("run", ""))),
        evaluations=evaluations(digest),
        measure_of=measure_of,
    )


def _training(run: str) -> dict:
    """What run.json of the training says; empty without it. run: from the checkpoint's header, so it must stay within results/."""
    file = paths.RESULTS / run / "run.json"
    inside = file.resolve().is_relative_to(paths.RESULTS.resolve())
    return read_json(file) if run and inside and file.is_file() else {}
