"""Does the model read time? The same videos played backwards, with shuffled frames, and with one frame throughout."""

from pathlib import Path

import pandas as pd

from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import direction_hits, is_hit, percent, top1_columns, top_ids
from m2clip_lib.evaluate.paired import paired_bootstrap
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import WITHOUT_TIME


def honesty_table(folder: Path, split: str) -> pd.DataFrame:
    """What is left of each read-out's accuracy without the order of frames: one row per read-out and order, from saved predictions.

    Columns: played (forwards, backwards, shuffled, repeated: one frame throughout), readout, videos, top1 with its 95 % interval,
    same_answer (share of videos whose answer is that of the video played forwards), drop (of top-1, in points) with its 95 % interval,
    and, where classes have opposites, direction (see direction_hits) and opposite (share of videos that become the opposite class).
    """
    plain = load_predictions(folder, split)
    found = {"forwards": plain} | {name: load_predictions(folder, f"{split}_{name}") for name in WITHOUT_TIME}
    return pd.DataFrame([_row(played, plain, of_order, readout) for played, of_order in found.items() for readout in plain.readouts])


def _row(played: str, plain: Predictions, found: Predictions, readout: str) -> dict[str, object]:
    if found.rows != plain.rows:
        raise UserError(f"predictions: {played} and forwards are of different videos; evaluate again (m2clip eval, or notebook 04)")
    scores, labels, recordings = found.readout(readout), found.labels, plain.recordings[: len(plain.labels)]
    hits, straight = is_hit(scores, labels, 1), is_hit(plain.readout(readout), labels, 1)
    same = top_ids(scores, 1)[:, 0] == top_ids(plain.readout(readout), 1)[:, 0]
    drop = paired_bootstrap(straight, hits, recordings)
    row = {"played": played, "readout": readout, "videos": len(labels)} | top1_columns(hits, recordings) | {"same_answer": percent(same)}
    row |= {"drop": drop.mean, "drop_low": drop.low, "drop_high": drop.high}
    if (plain.opposites >= 0).any():
        partners = plain.opposites[labels]
        row |= {"direction": percent(direction_hits(scores, labels, plain.opposites))}
        row |= {"opposite": percent((top_ids(scores, 1)[:, 0] == partners)[partners >= 0])}
    return row


def honesty_finding(table: pd.DataFrame) -> str:
    """The table's last read-out in one sentence, without a claim that its intervals do not carry."""
    best = table[table.readout == table.readout.iloc[-1]].set_index("played")
    parts = []
    for played, words in (("backwards", "played backwards"), ("shuffled", "with shuffled frames"), ("repeated", "with one frame repeated")):
        row = best.loc[played]
        known = row.drop_low > 0 or row.drop_high < 0
        parts.append(f"{row.top1:.1f} % {words}" + (f" ({row['drop']:.1f} points lost)" if known else " (no difference shown)"))
    return f"Top-1 is {best.top1['forwards']:.1f} % as recorded, {', '.join(parts)}."
