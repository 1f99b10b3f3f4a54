"""The label check: does frozen CLIP recognise more videos with the class names as listed than with the names shuffled?

If not, the names may be permuted, or CLIP may not know them. A relabelling fitted on one half of the videos and judged on the other half
tells the two apart: it restores permuted names, and does so better than unrelated words can be fitted to the same videos.
`m2clip prepare` and notebook 02 write the verdict beside the manifest; commands that train require it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from scipy.stats import binomtest

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.listing.checks import check_labels_in_paths, read_kinetics_names
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.manifest import SIDE_FILE, Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.controls import zero_shot
from m2clip_lib.evaluate.metrics import confusion_matrix, percent, top_ids
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.experiment import first_of_each_class, open_backbone, pick_device
from m2clip_lib.files import read_json, write_json

VERDICT_FILE = "label_check.json"  # beside the manifest
VIDEOS_PER_CLASS, LEAST_VIDEOS = 6, 200  # to compare: half of them fit a relabelling, half judge it
ADVICE = (
    "correct the names file or the list, or, if you are sure of them: m2clip train EXPERIMENT --accept-labels, or "
    "m2clip run EXPERIMENT --only 02 -p ACCEPT_PERMUTED_LABELS=true (the report will say so)"
)

# A CLIP without words for the classes still answers, and a fitted relabelling gains a little from that: on the demonstration it goes from
# 6 to 16 % of the motions, but only two of twelve classes get the name CLIP gives them most often. Permuted names are restored for many.
LEAST_CLASSES, LEAST_SHARE, SURE = 3, 1 / 3, 0.001
# A list that is permuted in part (one name too many in its middle) is still better than chance. Then the exchange must gain this many
# points of top-1, and be right for this percentage of the videos whose labels it clearly renames.
LEAST_GAIN, LEAST_RIGHT = 5.0, 40.0
# Both also happen to correct lists whose names CLIP does not know: classes that look different are told apart by any words once these are
# assigned as they fit best. (Of colours with unrelated names, 20 % of the lists of two classes and 59 % of those of eight passed.) So at
# most 1 % of so many sets of unrelated names may fit as well: 0.2 to 2 % of such lists are left.
UNRELATED_SETS, MOST_RIVALS = 400, 3


@dataclass(frozen=True)
class Relabelling:
    """The best fitting names, found on one half of the videos; all figures are from the other half.

    Attributes:
        names: label -> the class name it should have. listed, fitted: zero-shot top-1, percent, as listed and with names exchanged.
        p_value: of the sign test that `fitted` is no better than `listed`.
        returned: renamed labels whose new name is CLIP's most frequent answer for their videos, the clearest first.
        returned_fitted: `fitted` on the videos of those labels. videos: how many were judged.
        rivals: how many sets of unrelated names can be fitted as well, counted up to MOST_RIVALS + 1 (0 also if none were scored).
    """

    names: np.ndarray
    class_names: list[str]
    listed: float
    fitted: float
    p_value: float
    returned: list[int]
    returned_fitted: float
    videos: int
    rivals: int = 0


@dataclass(frozen=True)
class LabelCheck:
    """Zero-shot top-1 as listed and under random relabellings, percent.

    p_value: share of relabellings that do at least as well, counting the list itself as one.
    """

    observed: float
    shuffled: np.ndarray
    p_value: float
    relabelling: Relabelling | None = None

    @property
    def suspicious(self) -> bool:
        """Whether the list is no better than chance: permuted names, or a backbone that does not recognise these classes."""
        return self.p_value > 0.05

    @property
    def permuted(self) -> bool:
        """Whether the names are those of other classes: reordered, and hardly any unrelated names would fit as well."""
        return self.reordered and self.relabelling.rivals <= MOST_RIVALS

    @property
    def reordered(self) -> bool:
        """Whether exchanged names are right for many classes on videos they were not fitted to, in the whole list or in a part."""
        found = self.relabelling
        if found is None or found.p_value >= SURE or len(found.returned) < min(LEAST_CLASSES, len(found.class_names)):
            return False
        if self.suspicious and len(found.class_names) >= LEAST_CLASSES:
            return len(found.returned) >= LEAST_SHARE * len(found.class_names)
        return found.fitted - found.listed >= LEAST_GAIN and found.returned_fitted >= LEAST_RIGHT

    def message(self) -> str:
        """What is wrong with a permuted list, with counts and three examples; or why nobody can tell whether it is."""
        found, names = self.relabelling, self.relabelling.class_names
        counts = f"frozen CLIP recognises {found.listed:.1f} % of {found.videos} videos with the names as listed"
        counts = f"{counts} and {found.fitted:.1f} % with names exchanged"
        if not self.permuted:
            unclear = "unrelated words can be fitted as well: it does not know the names, or they are permuted"
            return f"labels: UNDECIDED: {counts}, but {unclear}; compare some videos with their names"
        examples = "; ".join(f"videos labelled {names[label]!r} look like {names[found.names[label]]!r}" for label in found.returned[:3])
        return f"labels: the class names are permuted: {counts} ({len(found.returned)} of {len(names)} classes clearly): {examples}"


def check_labels(predictions: Predictions, relabellings: int = 200, seed: int = 0) -> LabelCheck:
    """Compare the list with random permutations of its class names, and with the one that fits best.

    predictions: of frozen CLIP; only the similarity scores are read, and the logits if another order of the names seems better.
    """
    rng, labels = np.random.default_rng(seed), predictions.labels
    guesses, classes = top_ids(predictions.similarity, 1)[:, 0], len(predictions.class_names)
    observed = percent(guesses == labels)
    shuffled = np.array([percent(guesses == rng.permutation(classes)[labels]) for _ in range(relabellings)])
    p_value = (1 + int((shuffled >= observed).sum())) / (1 + relabellings)
    fitting = half_of_each_class(labels, rng)
    check = LabelCheck(observed, shuffled, p_value, fit_relabelling(predictions, fitting))
    if predictions.logits is None or not check.reordered:
        return check
    rivals = count_rivals(predictions.logits, labels, fitting, check.relabelling.names, rng, MOST_RIVALS)
    return replace(check, relabelling=replace(check.relabelling, rivals=rivals))


def half_of_each_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose the videos to fit a relabelling to, a boolean (n,); the others judge it."""
    fitting = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        fitting[rows[: (len(rows) + 1) // 2]] = True
    return fitting


def fit_names(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give each label the name (k,) with the highest mean score on its videos, each name once."""
    sums = np.eye(scores.shape[1], dtype=scores.dtype)[labels].T @ scores
    return linear_sum_assignment(sums / np.maximum(np.bincount(labels, minlength=len(sums)), 1)[:, None], maximize=True)[1]


def fit_relabelling(predictions: Predictions, fitting: np.ndarray) -> Relabelling:
    """Give each label the name that frozen CLIP gives its videos, each name once: fitted on half of each label's videos."""
    scores, labels, classes = predictions.similarity, predictions.labels, len(predictions.class_names)
    names = fit_names(scores[fitting], labels[fitting])
    scores, labels = scores[~fitting], labels[~fitting]
    guesses = top_ids(scores, 1)[:, 0]
    listed, fitted = guesses == labels, guesses == names[labels]
    better, worse = int((fitted & ~listed).sum()), int((listed & ~fitted).sum())
    p_value = float(binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0
    counts, rows = confusion_matrix(scores, labels), np.arange(classes)
    hits = counts[rows, names]
    returned = np.flatnonzero((names != rows) & (hits > 0) & (hits == counts.max(axis=1)))
    returned = returned[np.argsort(-hits[returned], kind="stable")].tolist()
    right = percent(fitted[np.isin(labels, returned)])
    return Relabelling(names, predictions.class_names, percent(listed), percent(fitted), p_value, returned, right, len(labels))


def count_rivals(
    logits: np.ndarray, labels: np.ndarray, fitting: np.ndarray, names: np.ndarray, rng: np.random.Generator, most: int = UNRELATED_SETS
) -> int:
    """Put unrelated names in the place of those that the fit has moved, and fit them in the same way, UNRELATED_SETS times.

    A fit's score is the share of the moved labels' videos that get their fitted name, plus the mean softmax of that name at a temperature
    where unrelated names do not saturate it.

    Args:
        logits: see Predictions. fitting: videos (n,) to fit to. names: label -> fitted name. most: stop counting above it.
    Returns: how many score at least as well as the list's own names.
    """
    own, others = np.arange(len(names)), np.arange(len(names), logits.shape[1])
    moved = np.flatnonzero(names != own)
    judging = ~fitting & np.isin(labels, moved)
    unrelated = logits[:, others] - logits[:, others].mean(axis=1, keepdims=True)
    temperature = 4 * (unrelated - unrelated.mean(axis=0)).std()

    def score(columns: np.ndarray) -> float:
        chosen, judged = logits[:, columns], logits[np.ix_(judging, columns)]
        wanted = fit_names(softmax(chosen[fitting], axis=1), labels[fitting])[labels[judging]]
        surely = softmax(judged / temperature, axis=1)[np.arange(len(judged)), wanted]
        return float((judged.argmax(axis=1) == wanted).mean() + surely.mean())

    best, rivals = score(own), 0
    for _ in range(UNRELATED_SETS):
        columns = own.copy()
        columns[moved] = rng.choice(others, len(moved), replace=False)
        rivals += score(columns) >= best
        if rivals > most:
            break
    return rivals


def vouched_for(manifest: Manifest, check_csv: str = "") -> bool:
    """Whether the path of every usable video, or a Kinetics table, confirms its class: then the names cannot be permuted.

    Nor can they in annotation rows, which hold names in place of numbers.
    """
    if "labels" in manifest.table:
        return True
    table = read_kinetics_names(paths.resolve(check_csv)) if check_csv else None
    usable = manifest.table[manifest.table.status == "ok"]
    if "listed_as" in usable:  # a corrected label differs from its path, and says nothing about the list
        usable = usable[usable.listed_as == usable.class_name]
    rows = [(Path(path), label, split) for path, label, split in zip(usable.path, usable.label, usable.split, strict=True)]
    side = manifest.folder / SIDE_FILE
    overruled = side.is_file() and read_json(side).get("trust_list")  # the folders are no classes: the user has said so
    return not overruled and check_labels_in_paths(Listing(rows, manifest.class_names), table) == len(rows)


def remember_verdict(manifest: Manifest, accepted: str = "", refused: str = "") -> dict[str, str]:
    """Write the verdict on a manifest's labels beside it; both texts are empty when the names are not permuted. Returns: the verdict."""
    verdict = {"manifest": manifest.sha256, "accepted": accepted, "refused": refused}
    write_json(manifest.folder / VERDICT_FILE, verdict)
    return verdict


def settle_labels(check: LabelCheck, experiment: Experiment, manifest: Manifest, accept: bool) -> str:
    """Write the verdict of a comparison with frozen CLIP, over any earlier one.

    Returns: a warning to show in red; "" if the names as listed fit, or the paths or the table vouch for them.
    Raises: UserError when they are permuted and not accepted.
    """
    warning = check.message() if check.reordered and not vouched_for(manifest, experiment.data.check_csv) else ""
    if not warning or not check.permuted:
        remember_verdict(manifest)
        return warning
    if not accept:
        raise UserError(remember_verdict(manifest, refused=f"{warning}; {ADVICE}")["refused"])
    return remember_verdict(manifest, accepted=f"ACCEPTED ALTHOUGH {warning}")["accepted"]


def decide_labels(experiment: Experiment, manifest: Manifest, report: Callable[[str], None] = print) -> dict[str, str]:
    """The verdict on a manifest's labels: the one on file, or one reached now and written.

    Frozen CLIP is asked only when neither the paths nor data.check_csv confirm the classes; if they do, there is no verdict ({}).
    Returns: `accepted` and `refused`, see remember_verdict.
    Raises: UserError when the backbone's weights are missing.
    """
    file = manifest.folder / VERDICT_FILE
    verdict = read_json(file) if file.is_file() else {}
    if verdict.get("manifest") == manifest.sha256:
        return verdict
    if vouched_for(manifest, experiment.data.check_csv):
        return {}
    usable = manifest.table[(manifest.table.status == "ok") & (manifest.table.split != "test")]
    usable = usable.sort_values("split", ascending=False, kind="stable").reset_index(drop=True)  # validation first
    rows = first_of_each_class(usable, max(VIDEOS_PER_CLASS, -(-LEAST_VIDEOS // len(manifest.class_names))))
    backbone = open_backbone(experiment)
    report(f"labels: the paths do not confirm the classes; comparing the names with frozen CLIP on {len(rows)} videos")
    some = Manifest(usable.loc[rows].assign(split="val"), manifest.class_names, manifest.folder, manifest.sha256)
    uncached = experiment.model_copy(update={"data": experiment.data.model_copy(update={"cache_frames": False})})
    check = check_labels(zero_shot(uncached, some, backbone, pick_device(), Protocol.of_experiment(experiment, split="val").one_view()))
    refused = f"{check.message()}; {ADVICE}" if check.permuted else ""
    if check.reordered:
        report(f"WARNING: {check.message()}{'; training will refuse them' if refused else ''}")
    else:
        report(f"labels: zero-shot top-1 {check.observed:.1f} %, no other order of the names is clearly better")
    return remember_verdict(manifest, refused=refused)


def require_verdict(experiment: Experiment, manifest: Manifest, report: Callable[[str], None] = print, accept: bool = False) -> str:
    """Decide the labels before a training builds anything.

    accept: train on permuted names all the same; the verdict on file then says so.
    Returns: that they were accepted although they are permuted; "" if they are not.
    Raises: UserError when the class names are permuted and not accepted.
    """
    verdict = decide_labels(experiment, manifest, report)
    refused = verdict.get("refused", "")
    if refused:
        if not accept:
            raise UserError(refused)
        verdict = remember_verdict(manifest, accepted=f"ACCEPTED ALTHOUGH {refused.removesuffix(f'; {ADVICE}')}")
    if verdict.get("accepted"):
        report(f"WARNING: {verdict['accepted']}")
    return verdict.get("accepted", "")
