"""Does the model read time? The same videos played backwards, with shuffled frames, and with one frame throughout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib import paths
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import direction_hits, is_hit, percent, top1_columns, top_ids
from m2clip_lib.evaluate.multilabel import drawn_maps, map_columns, mean_average_precision, one_sided
from m2clip_lib.evaluate.paired import paired_bootstrap
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import WITHOUT_TIME, Order
from m2clip_lib.evaluate.tables import MEASURES, measure_of, with_wrong

SUBSETS = Path(__file__).parent / "subsets.csv"
REVERSED = {
    "top1": "backwards_true",
    "mean_ap": "backwards_mean_ap",
    "opposite": "backwards_opposite",
}  # of the videos played backwards: columns of other tables


def honesty_table(folder: Path, split: str, orders: Sequence[Order] = WITHOUT_TIME) -> pd.DataFrame:
    """What is left of each read-out's accuracy without the order of frames: the honesty_rows of saved predictions."""
    plain = load_predictions(folder, split)
    found = {"forwards": plain} | {name: load_predictions(folder, f"{split}_{name}") for name in orders}
    return pd.DataFrame(honesty_rows(plain, found))


def honesty_rows(plain: Predictions, found: Mapping[str, Predictions]) -> list[dict[str, object]]:
    """One row per read-out and order of the frames. plain: of the videos played forwards. found: of the same videos, by order.

    Columns: played (forwards, backwards, shuffled, repeated: one frame throughout), readout, videos, top1 with its 95 % interval,
    same_answer (share of videos whose answer is that of the video played forwards), drop (of top-1, in points) with its 95 % interval,
    and, where classes have opposites, direction (see direction_hits) and opposite (share of videos that become the opposite class).
    Where videos have several labels, mean_ap (mAP) is in the place of top1, the answer is the best class, and opposite is left out.
    """
    return [_row(played, plain, of_order, readout) for played, of_order in found.items() for readout in plain.readouts]


def _row(played: str, plain: Predictions, found: Predictions, readout: str) -> dict[str, object]:
    if found.rows != plain.rows:
        raise UserError(f"predictions: {played} and forwards are of different videos; evaluate again (m2clip eval, or notebook 04)")
    scores, labels = found.readout(readout), found.labels
    if plain.targets is not None:
        return _row_of_labels(played, plain, found, readout)
    hits, straight = (with_wrong(is_hit(values, labels, 1), found) for values in (scores, plain.readout(readout)))
    recordings = plain.recordings[: len(hits)]
    same = top_ids(scores, 1)[:, 0] == top_ids(plain.readout(readout), 1)[:, 0]
    drop = paired_bootstrap(straight, hits, recordings)
    row = {"played": played, "readout": readout, "videos": len(labels)} | top1_columns(hits, recordings) | {"same_answer": percent(same)}
    row |= {"drop": drop.mean, "drop_low": drop.low, "drop_high": drop.high}
    if (plain.opposites >= 0).any():
        partners = plain.opposites[labels]
        row |= {"direction": percent(direction_hits(scores, labels, plain.opposites))}
        row |= {"opposite": percent((top_ids(scores, 1)[:, 0] == partners)[partners >= 0])}
    return row


def _row_of_labels(played: str, plain: Predictions, found: Predictions, readout: str) -> dict[str, object]:
    scores, straight, targets = found.readout(readout), plain.readout(readout), plain.targets
    recordings = plain.recordings[: len(scores)]
    lost = drawn_maps(straight, targets, recordings) - drawn_maps(scores, targets, recordings)
    row = {"played": played, "readout": readout, "videos": len(scores)} | map_columns(scores, targets, recordings)
    row |= {"same_answer": percent(top_ids(scores, 1)[:, 0] == top_ids(straight, 1)[:, 0])}
    row |= {"drop": mean_average_precision(straight, targets) - row["mean_ap"]}
    row |= dict(zip(("drop_low", "drop_high"), map(float, np.percentile(lost, [2.5, 97.5])), strict=True))
    videos, named = one_sided(targets, plain.opposites)
    return row | ({"direction": percent(direction_hits(scores[videos], named, plain.opposites))} if len(videos) else {})


def named_subsets(class_names: Sequence[str], file: str = "") -> dict[str, list[str]]:
    """Class names by subset: those of Sevilla-Lara et al. (2021, "Only Time Can Tell") for Kinetics-400, temporal and static, 32 each.

    Args:
        class_names: of the dataset; it gets the subsets of which it has all classes. file: CSV subset,class_name of your own instead.
    """
    path = paths.resolve(file) if file else SUBSETS
    if not path.is_file():
        raise UserError(f"eval.subsets: no such file: {path}")
    table = read_csv(path)
    if not {"subset", "class_name"} <= set(table.columns):
        raise UserError(f"eval.subsets: {file}: expected the columns subset and class_name, found {', '.join(table.columns)}")
    subsets = {str(name): rows.class_name.tolist() for name, rows in table.groupby("subset", sort=False)}
    return subsets if file else {name: members for name, members in subsets.items() if set(members) <= set(class_names)}


def subset_table(found: Predictions, subsets: dict[str, list[str]]) -> pd.DataFrame:
    """Accuracy on the videos of some classes: subset, classes, readout, videos, top1 with its 95 % interval, and top1_within.

    top1 is among all classes, top1_within among those of the subset. Raises: UserError when a name is no class of the dataset.
    """
    rows, labels = [], found.labels
    for name, members in subsets.items():
        unknown = [member for member in members if member not in found.class_names]
        if unknown:
            raise UserError(f"eval.subsets: {name}: {unknown[0]!r} is no class of this dataset; use its class names")
        own = np.array([found.class_names.index(member) for member in members])
        chosen = np.isin(labels, own)
        recordings = found.recordings[: len(labels)][chosen]
        for readout in found.readouts:
            scores = found.readout(readout)[chosen]
            within = own[top_ids(scores[:, own], 1)[:, 0]] == labels[chosen]
            row = {"subset": name, "classes": len(own), "readout": readout, "videos": int(chosen.sum())}
            rows.append(row | top1_columns(is_hit(scores, labels[chosen], 1), recordings) | {"top1_within": percent(within)})
    return pd.DataFrame(rows)


def honesty_finding(table: pd.DataFrame) -> str:
    """The table's last read-out in one sentence, without a claim that its intervals do not carry."""
    best, measure = table[table.readout == table.readout.iloc[-1]].set_index("played"), measure_of(table)
    parts = []
    for played, words in (("backwards", "played backwards"), ("shuffled", "with shuffled frames"), ("repeated", "with one frame repeated")):
        row = best.loc[played]
        known = row.drop_low > 0 or row.drop_high < 0
        parts.append(f"{row[measure]:.1f} % {words}" + (f" ({row['drop']:.1f} points lost)" if known else " (no difference shown)"))
    return f"{MEASURES[measure]} is {best[measure]['forwards']:.1f} % as recorded, {', '.join(parts)}."
