"""The label check of the backbone step: does frozen CLIP recognise more with the list as it is than with names shuffled?

Where it does not, the names may be permuted, or CLIP may be unable to see these classes. A relabelling fitted on one half of the videos
and judged on the other tells them apart: permuted names come back, blindness stays.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.listing.checks import KineticsNames, check_labels_in_paths, read_kinetics_names
from m2clip_lib.data.listing.folders import Listing
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.controls import zero_shot
from m2clip_lib.evaluate.metrics import top_ids, topk_accuracy
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.experiment import first_of_each_class, open_backbone, pick_device
from m2clip_lib.files import write_json

VERDICT_FILE = "label_check.json"  # beside the manifest
VIDEOS_PER_CLASS, VIDEOS = 6, 200  # at least so many are looked at: half of them to fit a relabelling, half to judge it

# A CLIP without words for the classes still answers something, and a fitted relabelling makes a little of that: the demonstration's goes
# from 6 to 16 % of its motions, but gives only two classes of twelve their name most often. Permuted names come back for many.
LEAST_CLASSES, LEAST_SHARE, SURE = 3, 1 / 3, 0.001
# A list of which a part is permuted (one name too many in its middle) is better than chance all the same. Then the exchange must gain this
# many points of top-1, and be right for this many percent of the videos of the labels that it clearly renames.
LEAST_GAIN, LEAST_RIGHT = 5.0, 40.0


@dataclass(frozen=True)
class Relabelling:
    """The names that fit best, found on one half of the videos; all figures are of the other half.

    names: label -> the class name it should have. listed, fitted: zero-shot top-1, percent, of the list and with the names exchanged.
    p_value: of the sign test that `fitted` is no better than `listed`. returned: labels that got another name, which is then CLIP's most
    frequent answer for their videos; the clearest first. returned_fitted: `fitted` among their videos. videos: how many were judged.
    """

    names: np.ndarray
    class_names: list[str]
    listed: float
    fitted: float
    p_value: float
    returned: list[int]
    returned_fitted: float
    videos: int


NOT_FITTED = Relabelling(np.arange(0), [], float("nan"), float("nan"), 1.0, [], float("nan"), 0)


@dataclass(frozen=True)
class LabelCheck:
    """Zero-shot top-1 of the list as it is and under random relabellings, percent.

    p_value: share of relabellings that do at least as well (the list itself counted as one).
    """

    observed: float
    shuffled: np.ndarray
    p_value: float
    relabelling: Relabelling = NOT_FITTED

    @property
    def suspicious(self) -> bool:
        """True when the mapping is no better than chance: permuted names, or a backbone that cannot see these classes."""
        return self.p_value > 0.05

    @property
    def permuted(self) -> bool:
        """True when exchanged names are right for many classes, on videos they were not fitted to: for all of them, or for a part."""
        found = self.relabelling
        classes = len(found.class_names)
        if found.p_value >= SURE or len(found.returned) < min(LEAST_CLASSES, classes):
            return False
        if self.suspicious and classes >= LEAST_CLASSES:
            return len(found.returned) >= LEAST_SHARE * classes
        return found.fitted - found.listed >= LEAST_GAIN and found.returned_fitted >= LEAST_RIGHT

    def message(self) -> str:
        """What is wrong with a permuted list: counts and three examples."""
        found, names = self.relabelling, self.relabelling.class_names
        examples = "; ".join(f"videos labelled {names[label]!r} look like {names[found.names[label]]!r}" for label in found.returned[:3])
        return (
            f"labels: the class names are permuted: frozen CLIP names {found.listed:.1f} % of {found.videos} videos right with the list as "
            f"it is and {found.fitted:.1f} % with names exchanged ({len(found.returned)} of {len(names)} classes clearly): {examples}"
        )


def check_labels(zero_shot: Predictions, relabellings: int = 200, seed: int = 0) -> LabelCheck:
    """Compare the list with random permutations of its class names, and with the one that fits best.

    Args:
        zero_shot: frozen CLIP's predictions; only its similarity scores are read.
    """
    rng = np.random.default_rng(seed)
    guesses = top_ids(zero_shot.similarity, 1)[:, 0]
    classes = zero_shot.similarity.shape[1]
    observed = topk_accuracy(zero_shot.similarity, zero_shot.labels, 1)
    shuffled = np.array([100 * (guesses == rng.permutation(classes)[zero_shot.labels]).mean() for _ in range(relabellings)])
    p_value = (1 + int((shuffled >= observed).sum())) / (1 + relabellings)
    return LabelCheck(observed, shuffled, p_value, fit_relabelling(zero_shot, rng))


def fit_relabelling(zero_shot: Predictions, rng: np.random.Generator) -> Relabelling:
    """Give every label the name that frozen CLIP gives to its videos, one name a label, on half of each label's videos."""
    scores, labels = zero_shot.similarity, zero_shot.labels
    classes = scores.shape[1]
    fitting = np.zeros(len(labels), bool)
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        fitting[rows[: (len(rows) + 1) // 2]] = True
    means = np.zeros((classes, classes))
    np.add.at(means, labels[fitting], scores[fitting])
    means /= np.maximum(np.bincount(labels[fitting], minlength=classes), 1)[:, None]
    names = linear_sum_assignment(means, maximize=True)[1]

    guesses, judged = top_ids(scores[~fitting], 1)[:, 0], labels[~fitting]
    if not len(judged):
        return Relabelling(names, zero_shot.class_names, float("nan"), float("nan"), 1.0, [], float("nan"), 0)
    listed, fitted = guesses == judged, guesses == names[judged]
    better, worse = int((fitted & ~listed).sum()), int((listed & ~fitted).sum())
    p_value = binomtest(better, better + worse, alternative="greater").pvalue if better + worse else 1.0
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (judged, guesses), 1)
    rows = np.arange(classes)
    hits = counts[rows, names]
    returned = np.flatnonzero((names != rows) & (hits > 0) & (hits == counts.max(axis=1)))
    order = returned[np.argsort(-hits[returned], kind="stable")]
    top1 = [100 * float(right.mean()) for right in (listed, fitted)]
    of_returned = fitted[np.isin(judged, returned)]
    right = 100 * float(of_returned.mean()) if len(of_returned) else float("nan")
    return Relabelling(names, zero_shot.class_names, *top1, float(p_value), order.tolist(), right, len(judged))


def vouched_for(manifest: Manifest, table: KineticsNames | None = None) -> bool:
    """Whether every usable video lies in a folder of its class, says it in its name, or stands in the table: nothing can disagree then."""
    usable = manifest.table[manifest.table.status == "ok"]
    rows = [(Path(path), label, split) for path, label, split in zip(usable.path, usable.label, usable.split, strict=True)]
    return check_labels_in_paths(Listing(rows, manifest.class_names), table) == len(rows)


def stop_if_permuted(check: LabelCheck, manifest: Manifest, accept: bool) -> str:
    """What to write in red: "" where the names are not permuted, or the paths vouch for them, whatever CLIP says.

    Raises: UserError when they are permuted and that was not accepted.
    """
    if not check.permuted or vouched_for(manifest):
        return ""
    if not accept:
        raise UserError(refusal(check))
    return f"ACCEPTED ALTHOUGH {check.message()}"


def refusal(check: LabelCheck) -> str:
    """Why nothing is trained on permuted names, and what to do."""
    return (
        f"{check.message()}; mend the names file or the list; if you know better: m2clip run EXPERIMENT --only 02 "
        "-p ACCEPT_PERMUTED_LABELS=true (the report says so)"
    )


def remember_verdict(manifest: Manifest, accepted: str = "", refused: str = "") -> None:
    """Write the outcome of a comparison with frozen CLIP beside the manifest; both texts are empty where all is well."""
    write_json(manifest.folder / VERDICT_FILE, {"manifest": manifest.sha256, "accepted": accepted, "refused": refused})


def decide_labels(experiment: Experiment, manifest: Manifest, report: Callable[[str], None] = print) -> dict[str, str]:
    """The verdict on a manifest's labels: the one on file, or one reached and written now.

    Frozen CLIP is asked only where neither the paths nor a table of the dataset tell the classes.
    Returns: `accepted` and `refused`, see remember_verdict.
    Raises: UserError when the backbone's weights are missing.
    """
    file = manifest.folder / VERDICT_FILE
    verdict = json.loads(file.read_text()) if file.is_file() else {}
    if verdict.get("manifest") == manifest.sha256:
        return verdict
    table = experiment.data.check_csv
    if vouched_for(manifest, read_kinetics_names(paths.resolve(table)) if table else None):
        return {}
    usable = manifest.table[(manifest.table.status == "ok") & (manifest.table.split != "test")]
    usable = usable.sort_values("split", ascending=False, kind="stable").reset_index(drop=True)  # validation first
    rows = first_of_each_class(usable, max(VIDEOS_PER_CLASS, -(-VIDEOS // len(manifest.class_names))))
    backbone = open_backbone(experiment)
    report(f"labels: no path tells the classes; comparing the names with frozen CLIP on {len(rows)} videos")
    some = Manifest(usable.loc[rows].assign(split="val"), manifest.class_names, manifest.folder, manifest.sha256)
    uncached = experiment.model_copy(update={"data": experiment.data.model_copy(update={"cache_frames": False})})
    protocol = Protocol.of_experiment(experiment, split="val").one_view()
    check = check_labels(zero_shot(uncached, some, backbone, pick_device(), protocol))
    if check.permuted:
        report(f"WARNING: {check.message()}; training will refuse them")
    else:
        report(f"labels: zero-shot top-1 {check.observed:.1f} %, no other order of the names is clearly better")
    remember_verdict(manifest, refused=refusal(check) if check.permuted else "")
    return json.loads(file.read_text())


def require_verdict(experiment: Experiment, manifest: Manifest, report: Callable[[str], None] = print) -> None:
    """What every command that trains asks before it builds anything. Raises: UserError where the class names are permuted."""
    verdict = decide_labels(experiment, manifest, report)
    if verdict.get("refused"):
        raise UserError(verdict["refused"])
    if verdict.get("accepted"):
        report(f"WARNING: {verdict['accepted']}")
