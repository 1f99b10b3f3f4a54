"""m2clip check: what is wrong with a data set, before anything is trained on it."""

import json
import sys
from functools import partial
from typing import Annotated

import typer

from m2clip_lib.cli.options import ExperimentName, Overrides, say


def check(
    experiment: ExperimentName = "",
    top: Annotated[int, typer.Option("--top", min=0, help="Rows to print.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole table as JSON.")] = False,
    override: Overrides = None,
) -> None:
    """Find leaks between splits, duplicates and wrong labels among prepared videos; changes nothing. Writes data/<prepared>/check.csv."""
    from m2clip_lib.config import load_experiment

    loaded = load_experiment(experiment, override or [])  # before torch is imported, which takes seconds
    from m2clip_lib.curate.check import FILE, SUGGESTED, check_data
    from m2clip_lib.curate.findings import summary_lines

    table = check_data(loaded, partial(say, file=sys.stderr) if as_json else say)
    if as_json:
        print(json.dumps(table.to_dict(orient="records"), indent=2, ensure_ascii=False))
        return
    say("\n".join(summary_lines(table)))
    if top and len(table):
        say(table.drop(columns="with").head(top).to_string(index=False, float_format="%.2f"))
    say(f"table: {loaded.prepared / FILE}; your decisions go into corrections.csv beside it, as in {SUGGESTED}")
