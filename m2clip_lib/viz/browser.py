"""What the browser of videos (notebook 11) computes, without any widget: its table, filters, orders, confusions, corrections and films."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

from m2clip_lib.csvfiles import read_csv
from m2clip_lib.curate.check import FILE as CHECK
from m2clip_lib.curate.check import all_videos
from m2clip_lib.curate.findings import COLUMNS, RELABEL
from m2clip_lib.data.classes import SPLITS
from m2clip_lib.data.listing.corrections import FILE, Correction, name_below, write_correction
from m2clip_lib.data.manifest import Manifest, read_manifest
from m2clip_lib.data.prepare import corrections_of, prepared_root, stored_manifest
from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import VideoError, check_file, probe
from m2clip_lib.data.video.thumbnails import FOLDER, make_thumbnails, read_thumbnail
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.workers import cores
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.experiment import open_backbone
from m2clip_lib.moments.search import search
from m2clip_lib.moments.windows import Timeline, stored_timelines
from m2clip_lib.runs import Run
from m2clip_lib.viz.overlay import FILM_SIDE, film_bytes
from m2clip_lib.viz.plots.evaluation import plot_embedding
from m2clip_lib.viz.style import new_figure

PAGE, COLUMNS_OF_PAGE = 24, 6  # videos shown at once
MAPPED = 5000  # videos on the map at most: each is compared with every other
FILM_FRAMES, SLOWEST = 64, 8  # frames of a film at most; frames per second at least: a longer stretch is shown faster than it was
ORDERS = {  # what a list can be sorted by -> column, ascending; videos without a value come last
    "as listed": ("place", True),
    "most suspected first": ("suspicion", False),
    "surest first": ("confidence", False),
    "least sure first": ("confidence", True),
    "longest first": ("duration_s", False),
    "shortest first": ("duration_s", True),
    "copies side by side": ("group", True),
}
UNDECIDED = "none yet"
ALL, EVERYTHING = (0.0, 1.0), (0.0, np.inf)


@dataclass(frozen=True)
class Filter:
    """Which videos to list; by default all. Empty texts leave their column open.

    answer: "right" or "wrong". action: of corrections.csv, or UNDECIDED. text: part of the path, in any case.
    confidence: [low, high] in [0, 1]. duration_s: [low, high]. copies: only videos that are stored more than once.
    suspected: only videos whose label is probably wrong.
    """

    class_name: str = ""
    split: str = ""
    predicted: str = ""
    answer: str = ""
    action: str = ""
    text: str = ""
    confidence: tuple[float, float] = ALL
    duration_s: tuple[float, float] = EVERYTHING
    copies: bool = False
    suspected: bool = False


def video_table(
    manifest: Manifest,
    names: Sequence[str],
    predictions: Sequence[Predictions],
    findings: pd.DataFrame,
    corrections: Mapping[str, Correction],
) -> pd.DataFrame:
    """One row per video of a manifest.

    Args:
        names: of the videos, as corrections.csv writes them. corrections: by these names.
        predictions: of splits of this manifest, as far as there are any.
        findings: what m2clip check wrote; without rows where it has not run.
    Returns: path, class_name, split, duration_s, status, as in the manifest; name; place, the row's number; classes, a tuple of all its
        class names; frames, the number of its first one and how many; start_s and end_s, 0 and infinity but for a segment; answer
        ("right", "wrong"), predicted, confidence in [0, 1]; group, a number that the copies of one video share; likelier, the class
        that the check prefers, and suspicion, its score; action, relabel (the new class) and note of the correction. NaN or "" where
        there is none.
    """
    listed, class_names = manifest.table.reset_index(drop=True), manifest.class_names
    table = listed[["path", "class_name", "split", "duration_s", "status"]]
    table = table.assign(name=list(names), place=range(len(table)), answer="", predicted="", confidence=np.nan, start_s=0.0, end_s=np.inf)
    table["classes"] = [tuple(class_names[i] for i in own) for own in listed.get("labels", [[label] for label in listed.label])]
    table["frames"] = list(zip(listed.get("start_frame", [0] * len(listed)), listed.num_frames, strict=True))
    parts = (listed.status == "ok") & (listed.num_frames < listed.get("file_frames", 0))
    for place, text in listed.times[parts].items():
        times, (first, count) = frame_times(text), table.frames[place]
        table.loc[place, ["start_s", "end_s"]] = times[first], times[first + count]
    for found in predictions:
        rows = np.flatnonzero((table.split == found.protocol.split) & (table.status == "ok"))[found.rows]
        said = found.best.argmax(axis=1)
        table.loc[rows, "predicted"] = np.array(found.class_names, object)[said]
        table.loc[rows, "answer"] = np.where(found.right, "right", "wrong")
        table.loc[rows, "confidence"] = found.best.max(axis=1)
    copies, doubts = findings[findings.kind.isin(("leak", "duplicate"))], findings[findings.kind == "label"]
    sets = DisjointSet(sorted({*copies["path"], *copies["with"]}))
    for one, other in zip(copies["path"], copies["with"], strict=True):
        sets.merge(one, other)
    groups = {name: float(number) for number, group in enumerate(sets.subsets(), 1) for name in group}
    likelier = dict(zip(doubts.path, doubts.suggestion, strict=True))
    suspicion = dict(zip(doubts.path, doubts.score, strict=True))
    decided = [corrections.get(name, Correction(name, "")) for name in names]
    return table.assign(
        group=[groups.get(name, np.nan) for name in names],
        likelier=[likelier.get(name, "").removeprefix(RELABEL) for name in names],
        suspicion=[suspicion.get(name, np.nan) for name in names],
        action=[one.action for one in decided],
        relabel=[one.class_name for one in decided],
        note=[one.note for one in decided],
    )


def chosen(table: pd.DataFrame, asked: Filter, order: str = "as listed") -> pd.DataFrame:
    """The rows of a video_table that pass a filter, sorted by one of ORDERS.

    A video without a confidence passes only the filter that leaves it open.
    """
    keep = pd.Series(True, table.index)
    if asked.class_name:
        keep &= table.classes.map(lambda own: asked.class_name in own)
    for column in ("split", "predicted", "answer", "action"):
        if value := getattr(asked, column):
            keep &= table[column] == ("" if value == UNDECIDED else value)
    if asked.text:
        keep &= table.name.str.contains(asked.text, case=False, regex=False)
    if asked.confidence != ALL:
        keep &= table.confidence.between(*asked.confidence)
    if asked.duration_s != EVERYTHING:
        keep &= table.duration_s.between(*asked.duration_s)
    if asked.copies:
        keep &= table.group.notna()
    if asked.suspected:
        keep &= table.suspicion.notna()
    column, ascending = ORDERS[order]
    return table[keep].sort_values(column, ascending=ascending, kind="stable")


def confusions(table: pd.DataFrame, split: str, class_names: Sequence[str]) -> pd.DataFrame:
    """How many videos of each class (rows) were taken for each class (columns), among those with a prediction."""
    scored = table[(table.split == split) & (table.predicted != "")]
    return pd.crosstab(scored.class_name, scored.predicted).reindex(index=class_names, columns=class_names, fill_value=0)


def film(path: str | Path, start_s: float = 0.0, end_s: float = np.inf) -> tuple[bytes, float]:
    """A stretch of a video as a small MP4 (H.264), and how many times faster than the original it is.

    start_s, end_s: seconds after the first frame.
    Raises: UserError with the reason when it cannot be read.
    """
    try:
        info = probe(check_file(path))
        times = frame_times(info.times)
        if not times[-1]:  # nothing says when its frames are shown
            times = np.arange(len(times)) / SLOWEST
        first, end = np.searchsorted(times[1:-1], start_s, "right"), max(1, np.searchsorted(times[:-1], end_s))
        first = min(int(first), int(end) - 1)
        picked = np.unique(np.linspace(first, end - 1, min(FILM_FRAMES, end - first)).round().astype(int)).tolist()
        size = fit_short_side(info.width, info.height, min(FILM_SIDE, info.width, info.height))
        frames, _ = read_frames(path, picked, size, num_frames=info.num_frames)
    except VideoError as error:
        raise UserError(f"{path}: {error}") from error
    rate = len(picked) / (times[end] - times[first])
    fps = max(round(rate), SLOWEST)
    return film_bytes(frames, fps=fps), fps / rate


@dataclass
class Browser:
    """The prepared videos of a run's experiment, with what is known about them.

    table: see video_table. notes: what could not be shown. annotated: whether labels are annotation rows.
    """

    run: Run
    table: pd.DataFrame
    class_names: list[str]
    root: Path
    notes: list[str] = field(default_factory=list)
    annotated: bool = False

    @classmethod
    def open(cls, run: Run, report: Callable[[str], None] = print) -> "Browser":
        """Read manifest, saved predictions, m2clip check's table and corrections, and make the thumbnails that are missing.

        The manifest may be older than the corrections: what was decided today is shown, and m2clip prepare applies it.
        Raises: UserError if there is no manifest.
        """
        experiment, root = run.experiment, prepared_root(run.experiment)
        manifest, notes, predictions = stored_manifest(experiment), [], []
        names = [name_below(path, root) for path in read_manifest(experiment.prepared, "").table.path]  # fast copies have its order
        for split in (split for split in SPLITS if (run.predictions / f"{split}.json").is_file()):
            found = load_predictions(run.predictions, split)
            if found.list_sha256 == manifest.sha256:
                predictions.append(found)
            else:
                notes.append(f"The predictions for split {split} were made from another list of videos: evaluate again (notebook 04).")
        if not predictions and not notes:
            notes.append("No predictions are known: evaluate first (m2clip eval, or notebook 04).")
        file = experiment.prepared / CHECK
        findings = read_csv(file) if file.is_file() else pd.DataFrame(columns=list(COLUMNS))
        if not file.is_file():
            notes.append(f"No duplicates or suspected labels are known: run m2clip check {experiment.name}.")
        table = video_table(manifest, names, predictions, findings, corrections_of(experiment, manifest.class_names))
        make_thumbnails(manifest.table, experiment.prepared / FOLDER, cores(), report)
        return cls(run, table, manifest.class_names, root, notes, "labels" in manifest.table)

    @property
    def corrections(self) -> Path:
        """The file that correct() writes."""
        return self.run.experiment.prepared / FILE

    def thumbnail(self, row: int) -> tuple[bytes, str]:
        """The picture of a video (JPEG), or nothing and the reason."""
        video = self.table.loc[row]
        return read_thumbnail(self.run.experiment.prepared / FOLDER, video.path, video.frames, video.status)

    def correct(self, row: int, action: str, class_name: str = "", note: str = "") -> None:
        """Write a decision about a video, with all its segments, to corrections.csv and into the table; with the action "" take it back.

        Raises: UserError, also for a new class where the labels are annotation rows, which are corrected there.
        """
        if action == "relabel" and self.annotated:
            raise UserError("relabel: the labels of these videos are annotation rows; correct them in your list, or ignore the video here")
        one = Correction(self.table.name[row], action, class_name if action == "relabel" else "", " ".join(note.split()) if action else "")
        write_correction(self.corrections, self.root, self.class_names, one)
        self.table.loc[self.table.name == one.path, ["action", "relabel", "note"]] = [one.action, one.class_name, one.note]

    def timeline(self, path: str, window_s: float = 0.0) -> Timeline:
        """Scores of the run's model for each window of a video: read if they are stored, else computed. Raises: UserError."""
        found = next(stored_timelines([Path(path).expanduser()], self.run.checkpoint, window_s=window_s))
        if isinstance(found, UserError):
            raise found
        return found

    def search(self, text: str, top: int, report: Callable[[str], None]) -> tuple[pd.DataFrame, dict[str, str]]:
        """The moments of all videos that resemble a sentence most, and what could not be read; see moments/search.py. Raises: UserError."""
        return search(text, self.run.experiment, top=top, report=report)

    def sheet(self, shown: pd.DataFrame, title: str) -> Figure:
        """One page of thumbnails with their captions. shown: rows of the table."""
        rows = shown.iloc[:PAGE]
        lines = max(1, -(-len(rows) // COLUMNS_OF_PAGE))
        figure, axes = new_figure(13, 0.6 + 2.7 * lines, columns=COLUMNS_OF_PAGE, rows=lines)
        for ax in axes:
            ax.axis("off")
        for ax, (row, video) in zip(axes, rows.iterrows(), strict=False):
            picture, reason = self.thumbnail(row)
            if picture:
                ax.imshow(Image.open(io.BytesIO(picture)))
            else:
                ax.text(0.5, 0.5, textwrap.fill(reason, 18), ha="center", va="center", transform=ax.transAxes, fontsize=11)
            ax.set_title("\n".join(line if len(line) < 28 else f"{line[:26]}…" for line in captions(video)), fontsize=10, weight="normal")
        figure.suptitle(f"{title}: {len(rows)} of {len(shown):,}", x=0.01, ha="left", fontsize=15, weight="bold")
        return figure

    def map(self) -> Figure:
        """Place the readable videos, or MAPPED of them, by the features of frozen CLIP, which are read if m2clip check has kept them.

        A video with several labels has the colour of its first one. Raises: UserError when fewer than three can be read.
        """
        experiment = self.run.experiment
        videos, frames = all_videos(experiment, stored_manifest(experiment), open_backbone(experiment), print)
        if len(videos) < 3:
            raise UserError(f"map: {len(videos)} videos can be read; it takes three")
        few = np.linspace(0, len(videos) - 1, min(MAPPED, len(videos))).astype(int)
        figure, (ax,) = new_figure(10, 6)
        plot_embedding(ax, frames[few].mean(axis=1), videos.label.to_numpy()[few], self.class_names)
        return figure


def captions(video: pd.Series) -> list[str]:
    """What stands under a video: its class, what was predicted, and what is suspected or decided; one line each."""
    lines = [", ".join(video.classes)]
    if video.predicted:
        said = "right" if video.answer == "right" else f"taken for {video.predicted}"
        lines.append(f"{said}, {100 * video.confidence:.0f} %")
    if video.action:
        lines.append({"accept": "accepted", "relabel": f"now {video.relabel}", "ignore": "ignored"}[video.action])
    elif video.likelier:
        lines.append(f"rather {video.likelier}?")
    return lines
