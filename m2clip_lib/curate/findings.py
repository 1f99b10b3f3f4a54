"""The rows of the table that a check writes, sorted by what matters.

Columns: kind (see KINDS); path, and with (another video, or another class), as corrections.csv names them; class_name; split; suggestion
("ignore", "relabel: <class>" or ""); score (see KINDS); why.
"""

import re
from collections.abc import Callable, Iterable, Sequence, Set

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from m2clip_lib.data.classes import SPLITS
from m2clip_lib.data.listing.corrections import Correction
from m2clip_lib.data.opposites import opposite_labels

COLUMNS = ("kind", "path", "class_name", "split", "suggestion", "score", "with", "why")
KINDS = {  # in the order of the table -> what they are; what their score is
    "leak": ("videos that another split has, too", "how alike the two are, to 1"),
    "label": ("videos whose label is probably wrong", "by how much the other class is more probable"),
    "duplicate": ("videos that their split has twice", "how alike the two are, to 1"),
    "short": ("videos shorter than a clip", "the share of the clip that is missing"),
    "imbalance": ("splits whose classes are of uneven size", "how many times the smallest class the largest is"),
    "names": ("pairs of classes with nearly the same name", "the cosine of their texts"),
    "no verdict": ("classes, or pairs, whose labels frozen features cannot judge", "how often the probe is wrong about them"),
}
RELABEL = "relabel: "
KEPT = ("test", "val", "train")  # of copies in several splits: training can spare a video
UNEVEN = 2.0  # how many times the smallest class the largest is, from which on this is a finding
OUTLYING, CLASSES = 3.0, 10  # two names are near if their cosine is so many standard deviations above the mean, of so many classes or more

Row = dict[str, object]


def as_table(rows: Iterable[Row], accepted: Set[str] = frozenset()) -> pd.DataFrame:
    """Sort rows by kind and score. accepted: paths of the videos that a person has looked at, whose rows are left out."""
    empty = dict.fromkeys(COLUMNS, "") | {"score": 0.0}
    table = pd.DataFrame([empty | row for row in rows if row.get("path") not in accepted], columns=list(COLUMNS))
    order = table.assign(kind=table.kind.map(list(KINDS).index), score=-table.score).sort_values(["kind", "score"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def summary_lines(table: pd.DataFrame) -> list[str]:
    """One line per kind: how many rows it has."""
    counts = table.kind.value_counts()
    return [f"{counts.get(kind, 0):6,} {kind}: {what}" for kind, (what, _) in KINDS.items()]


def suggested_corrections(table: pd.DataFrame) -> list[Correction]:
    """What corrections.csv says if every suggestion is followed; of several for one video, the first."""
    found: dict[str, Correction] = {}
    for row in table[table.suggestion != ""].itertuples():
        action, _, name = row.suggestion.partition(": ")
        found.setdefault(row.path, Correction(row.path, action, name, row.why))
    return list(found.values())


def _about(kind: str, video: pd.Series) -> Row:
    return {"kind": kind, "path": video["name"], "class_name": video.class_name, "split": video.split}


def copy_rows(videos: pd.DataFrame, groups: Iterable[list[int]], same: Sequence[tuple[int, int, float]]) -> list[Row]:
    """A row for every video of a group but the one to keep. same: pairs that are one video, with scores."""
    best: dict[int, float] = {}
    for a, b, score in same:
        best |= {row: max(score, best.get(row, 0.0)) for row in (a, b)}
    rows = []
    for group in groups:
        kept, *others = sorted((videos.loc[row] for row in group), key=lambda video: KEPT.index(video.split))
        for video in others:
            why = f"shows the same as {kept['name']} in {kept.split}"
            why += "" if video.label == kept.label else f", which is listed as {kept.class_name!r}"
            about = _about("duplicate" if video.split == kept.split else "leak", video)
            rows.append(about | {"suggestion": "ignore", "score": best[video.name], "with": kept["name"], "why": why})
    return rows


def label_rows(
    videos: pd.DataFrame, found: Iterable[tuple[int, int, float]], class_names: Sequence[str], probabilities: Float[ndarray, "n k"]
) -> list[Row]:
    """A row for every suspected label. found: what suspects() returns."""
    rows = []
    for place, label, margin in found:
        video, name = videos.loc[place], class_names[label]
        own, other = (probabilities[place, number] for number in (video.label, label))
        why = f"a probe that has not seen this video gives {name!r} {other:.2f}, {video.class_name!r} {own:.2f}"
        rows.append(_about("label", video) | {"suggestion": f"{RELABEL}{name}", "score": margin, "why": why})
    return rows


def short_rows(videos: pd.DataFrame, frames: int, stride: int) -> list[Row]:
    """A row for every video that has fewer frames than a clip spans."""
    span = stride * (frames - 1) + 1 if stride else frames
    short = videos[videos.num_frames < span]
    needed = f"a clip spans {span} ({frames} frames, stride {stride}): some are repeated"
    return [
        _about("short", video) | {"score": 1 - video.num_frames / span, "why": f"{video.num_frames} frames; {needed}"}
        for _, video in short.iterrows()
    ]


def imbalance_rows(videos: pd.DataFrame, class_names: Sequence[str], report: Callable[[str], None]) -> list[Row]:
    """A row for every split whose classes are of uneven size; the sizes are reported in any case.

    videos: with a row per label, and one index for all labels of a video.
    """
    rows = []
    for split in [split for split in SPLITS if (videos.split == split).any()]:
        of_split = videos[videos.split == split]
        counts = np.bincount(of_split.label, minlength=len(class_names))
        most, least = int(counts.argmax()), int(counts.argmin())
        ratio = counts[most] / max(1, counts[least])
        why = f"{class_names[most]!r} has {counts[most]} of {of_split.index.nunique()} videos, {class_names[least]!r} has {counts[least]}"
        uneven = why + (f" ({ratio:.1f} times)" if counts[least] else "")
        report(f"balance: {split}: {uneven if counts[most] > counts[least] else f'every class has {counts[0]} videos'}")
        if counts[most] >= UNEVEN * counts[least]:
            rows.append({"kind": "imbalance", "class_name": class_names[most], "split": split, "score": ratio, "why": why})
    return rows


def stem(name: str) -> tuple[str, ...]:
    """The words of a name in any order, without the usual English endings: "Running dogs" and "dog runs" are one."""
    words = (re.sub(r"(?<=\w{3})(ing|ed|es|s|e)$", "", word) for word in re.findall(r"\w+", name.lower()))
    return tuple(sorted(re.sub(r"([^aeiou])\1$", r"\1", word) for word in words))


def name_rows(class_names: Sequence[str], texts: Float[ndarray, "k e"], opposites: Sequence[tuple[str, str]] = ()) -> list[Row]:
    """A row for every two classes of one stem, or whose texts are far nearer to each other than those of other classes.

    Classes that are each other's reversal are left out: they have nearly the same name for a reason.
    Args: texts: of length 1. opposites: see opposite_labels.
    """
    opposite, stems, rows = opposite_labels(class_names, opposites), [stem(name) for name in class_names], []
    first, second = np.triu_indices(len(class_names), 1)
    cosines = (texts @ texts.T)[first, second]
    limit = cosines.mean() + OUTLYING * cosines.std() if len(class_names) >= CLASSES else np.inf
    for a, b, cosine in zip(first, second, cosines, strict=True):
        if stems[a] == stems[b] or (cosine > limit and opposite[a] != b):
            alike = f"frozen CLIP reads them alike; the mean of all pairs is {cosines.mean():.2f}"
            why = "one word stem" if stems[a] == stems[b] else alike
            rows.append({"kind": "names", "class_name": class_names[a], "with": class_names[b], "score": float(cosine), "why": why})
    return rows


def unjudged_rows(
    class_names: Sequence[str], right: Float[ndarray, "k k"], apart: Bool[ndarray, "k k"], labels: Int[ndarray, "n"]
) -> list[Row]:
    """A row for every class that the probe cannot tell from most others, and for every other pair that it cannot tell apart."""
    present = [label for label in range(len(class_names)) if (labels == label).any()]
    blind = {a: [b for b in present if b != a and not apart[a, b]] for a in present}
    lost = {a for a in present if 2 * len(blind[a]) > len(present) - 1 and len(present) > 2}
    rows = []
    for a in present:
        count = int((labels == a).sum())
        if a in lost:
            others = f"{len(blind[a])} of {len(present) - 1} classes"
            why = f"it has {count} videos, and frozen features cannot tell it from {others}: no verdict on these"
            score = float(np.mean([1 - right[a, b] for b in blind[a]]))
            rows.append({"kind": "no verdict", "class_name": class_names[a], "score": score, "why": why})
        for b in [b for b in blind[a] if b > a and not {a, b} & lost]:
            why = f"frozen features cannot tell {class_names[a]!r} from {class_names[b]!r}: no verdict on these"
            about = {"class_name": class_names[a], "with": class_names[b]}
            rows.append({"kind": "no verdict", **about, "score": float(1 - right[a, b]), "why": why})
    return rows
