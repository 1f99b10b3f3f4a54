"""Two evaluations of the same videos (notebook 12): their difference in words and by class, and the videos that tell them apart."""

import html
from collections.abc import Mapping

import ipywidgets as w
import pandas as pd

from m2clip_lib import paths
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import is_hit
from m2clip_lib.evaluate.paired import in_words, paired_bootstrap
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import TestViews
from m2clip_lib.evaluate.tables import accuracy_rows, class_table
from m2clip_lib.files import read_json
from m2clip_lib.viz.overlay import films_of
from m2clip_lib.viz.plots import plot_gain, plot_runs
from m2clip_lib.viz.style import figure_html, new_figure


def saved_evaluations(manifest: Manifest, split: str) -> dict[str, Predictions]:
    """The saved predictions for a split of this list of videos: of every run, and of the trainings of its studies, by name.

    Raises: UserError when there are fewer than two, or videos have several labels.
    """
    if manifest.several_labels:
        raise UserError("videos have several labels, of which this comparison has no measure; compare tables/honesty.csv, or run a study")
    found = {}
    for pattern in (f"*/predictions/{split}.json", "*/ablations/*/predictions.json"):
        for file in sorted(paths.RESULTS.glob(pattern)):
            about = read_json(file)
            if (about.get("list_sha256"), about.get("protocol", {}).get("split")) == (manifest.sha256, split):
                name = file.parent.relative_to(paths.RESULTS).as_posix().removesuffix("/predictions")
                found[name] = load_predictions(file.parent, file.stem)
    if len(found) < 2:
        place = paths.shown(paths.RESULTS)
        raise UserError(f"{place}: {len(found)} evaluated runs of these videos, two are needed; run notebook 05, or m2clip eval --run NAME")
    return found


def runs_table(evaluations: Mapping[str, Predictions]) -> pd.DataFrame:
    """One row per evaluation: accuracies of its best read-out, percent, and its protocol."""
    rows = [{"run": name} | accuracy_rows(found, name)[-1] | found.columns() for name, found in evaluations.items()]
    return pd.DataFrame(rows).drop(columns="model")


def hits_of_both(first: Predictions, second: Predictions) -> pd.DataFrame:
    """One row per video that both could read: row, whether the best read-outs named it correctly (first, second), recording."""
    tables = [pd.DataFrame({"row": each.rows, "hit": is_hit(each.best, each.labels, 1)}) for each in (first, second)]
    recordings = pd.DataFrame({"row": first.rows, "recording": first.recordings[: len(first.rows)]})
    both = tables[0].merge(tables[1], on="row", suffixes=("_first", "_second")).merge(recordings, on="row")
    return both.rename(columns={"hit_first": "first", "hit_second": "second"})


def comparison_html(evaluations: Mapping[str, Predictions], first: str, second: str, views: TestViews) -> str:
    """The comparison of two evaluations as HTML: a sentence, validation curves, what each class gains, and films."""
    one, other = evaluations[first], evaluations[second]
    hits = hits_of_both(one, other)
    sentence = in_words(first, second, paired_bootstrap(*hits[["first", "second"]].to_numpy().T, hits.recording.to_numpy()))
    files = {name: paths.RESULTS / name / "metrics.csv" for name in dict.fromkeys((first, second))}
    curves = {name: read_csv(file) for name, file in files.items() if file.is_file()}
    parts = [f"<p><b>{html.escape(sentence)}</b></p>"]
    if curves:
        figure, (ax,) = new_figure(9, 4.8)
        plot_runs(ax, curves)
        parts.append(figure_html(figure))
    by_class = [class_table(each, each.class_names) for each in (one, other)]
    figure, (ax,) = new_figure(9, 1.6 + 0.36 * min(30, len(by_class[0])))
    plot_gain(ax, *by_class, second, first)
    parts.append(figure_html(figure))
    for better, worse, which in ((first, second, hits["first"] & ~hits["second"]), (second, first, hits["second"] & ~hits["first"])):
        words = f"{better} is right where {worse} is wrong: {which.sum()} of {len(hits)} videos."
        parts += [f"<p>{html.escape(words)}</p>", films_of(views, hits.row[which].tolist())]
    return "".join(parts)


def compare_runs(evaluations: Mapping[str, Predictions], first: str, second: str, views: TestViews) -> w.Widget:
    """Choose two evaluations; what comparison_html says of them is shown at once."""
    wide = {"layout": w.Layout(width="40em"), "style": {"description_width": "6em"}}
    one = w.Dropdown(options=list(evaluations), value=first, description="first", **wide)
    other = w.Dropdown(options=list(evaluations), value=second, description="second", **wide)
    page = w.HTML()

    def show(*_: object) -> None:
        page.value = comparison_html(evaluations, one.value, other.value, views)

    for control in (one, other):
        control.observe(show, names="value")
    show()
    return w.VBox([one, other, page])
