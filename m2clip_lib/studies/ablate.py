"""Tables and sentences of a study, made from the saved predictions of its trainings."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from m2clip_lib.evaluate.honesty import REVERSED, honesty_table
from m2clip_lib.evaluate.metrics import direction_hits, is_hit
from m2clip_lib.evaluate.multilabel import ranking_precision
from m2clip_lib.evaluate.paired import comparison_table
from m2clip_lib.evaluate.predictions import load_predictions
from m2clip_lib.evaluate.tables import accuracy_rows
from m2clip_lib.files import read_json
from m2clip_lib.runs import Run
from m2clip_lib.studies.jobs import BACKWARDS, FORWARDS, Job
from m2clip_lib.studies.studies import Study

COMPARED = {"top1": "top-1", "mean_ap": "the precision with which a video's labels are ranked"}  # by headline measure, in words
COSTS = ("trainable", "gflops", "clips_per_s", "peak_mb", "epochs", "seconds")


def study_protocol(jobs: Sequence[Job]) -> dict[str, object]:
    """The protocol's columns; where variants change the protocol, those of the first."""
    return load_predictions(jobs[0].folder, FORWARDS).columns()


def job_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per job and read-out, from the saved predictions."""
    tables = []
    for job in jobs:
        result, forwards = read_json(job.folder / "result.json"), load_predictions(job.folder, FORWARDS)
        about = {"variant": job.variant, "seed": job.seed} | {name: result[name] for name in COSTS}
        table = pd.DataFrame([about | row for row in accuracy_rows(forwards, job.variant)]).drop(columns="model")
        if (job.folder / f"{BACKWARDS}.json").is_file():
            played = honesty_table(job.folder, FORWARDS, ["backwards"]).query("played == 'backwards'")
            table = table.merge(played.rename(columns=REVERSED).filter(["readout", *REVERSED.values()]), on="readout")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant and read-out: mean, minimum and maximum over seeds of each measure that the table has; mean of each cost."""
    measures = [name for name in ("top1", "top5", "mean_ap", "direction", *REVERSED.values()) if name in table]
    groups = table.groupby(["variant", "readout"], sort=False)
    summary = groups[measures].agg(["mean", "min", "max"])
    summary.columns = [name if statistic == "mean" else f"{name}_{statistic}" for name, statistic in summary.columns]
    costs = {name: (name, "first" if name in ("trainable", "epochs") else "mean") for name in COSTS if name in table}
    return groups.agg(seeds=("seed", "nunique"), **costs, videos=("videos", "first")).join(summary).reset_index()


def study_tables(run: Run, study: Study, jobs: Sequence[Job]) -> dict[str, pd.DataFrame]:
    """Write a study's tables from its finished trainings: every training, the summary of each variant, the paired tests.

    Returns: them, as "" (tables/ablation.csv for the quick study, ablation_<study>.csv for others), "_summary" and "_tests".
    """
    table = job_table(jobs)
    made = {"": table, "_summary": summary_table(table).assign(**study_protocol(jobs)), "_tests": study_comparisons(jobs)}
    for ending, content in made.items():
        run.save(content, study.stem + ending)
    return made


def study_comparisons(jobs: Sequence[Job], measure: str = "top1") -> pd.DataFrame:
    """The comparison_table of the variants by the best read-out.

    measure: "top1", or "direction" where the classes are pairs. Where videos have several labels, it is their ranking_precision.
    """
    hits = defaultdict(dict)
    for job in jobs:
        found = load_predictions(job.folder, FORWARDS)
        rows, own = np.array(found.rows), is_hit(found.best, found.labels, 1)
        if found.targets is not None:
            own = ranking_precision(found.best, found.targets)
        elif measure == "direction":
            rows = rows[found.opposites[found.labels] >= 0]
            own = direction_hits(found.best, found.labels, found.opposites)
        hits[job.variant][job.seed] = dict(zip(rows.tolist(), own, strict=True))
    common = sorted(set.intersection(*(set(rows) for seeds in hits.values() for rows in seeds.values())))
    place = {row: i for i, row in enumerate(found.rows)}  # of the last job; all of them read the same list
    recordings = found.recordings[[place[row] for row in common]]
    matrices = {name: np.array([[seeds[seed][row] for row in common] for seed in sorted(seeds)]) for name, seeds in hits.items()}
    return comparison_table(matrices, recordings)


def study_findings(comparisons: pd.DataFrame, what: str = "top-1") -> list[str]:
    """One sentence per pair: the difference, and whether an order may be claimed. what: the measure, in words; see COMPARED."""
    sentences = []
    for row in comparisons.itertuples():
        numbers = f"{row.difference:.1f} points of {what} (95 % interval {row.low:.1f} to {row.high:.1f}, p = {row.p_value:.2g})"
        if row.ahead:
            sentences.append(f"“{row.better}” is ahead of “{row.other}” by {numbers}.")
        else:
            sentences.append(f"“{row.better}” and “{row.other}” cannot be told apart: {numbers}.")
    return sentences
