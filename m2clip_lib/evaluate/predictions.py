"""Scores of videos, and their files. Every table and figure is made from those files, never from a live model."""

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.opposites import opposite_labels
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.metrics import NO_LABELS, READOUTS, top_ids
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.files import file_sha256, read_json, write_atomically, write_json

HOW = "(m2clip eval, or notebook 04)"
ARRAYS = ("labels", "lost", "recordings", "opposites")  # fields that are saved as they are, beside the scores
ABOUT = ("class_names", "decoders", "missing", "agreement", "weight", "weight_chosen_on")  # and those in the JSON file


@dataclass(frozen=True)
class Predictions:
    """Scores of n videos against k classes, float32, mean over views of a softmax, so that each row sums to 1.

    Attributes:
        similarity: softmax of 100 x cosine with the class texts. classifier: of the linear head (None for classes it was not trained on);
            a sigmoid per class if the model was trained with several labels per video.
        rows: rows of the split's table that were read. failed: (row, reason) of the others.
        decoders: number of videos read by each decoder.
        protocol: how the videos were scored (None: scores that do not come from videos). list_sha256: digest of the manifest, once saved.
        checkpoint_sha256: digest of the trained model's file, once saved; "" for controls.
        epoch_chosen_on: the split that chose the trained model's epoch ("val"), or "last epoch", once saved. balance: train.balance.
        lost: labels of the listed videos without scores: first those of `failed`, then those that the manifest marks as not usable.
        missing: how many of the latter are missing. recordings: a number for each scored and then each lost video, the same for clips
            of one recording (by default each is its own).
        opposites: (k,) the label of each class played backwards, -1 where there is none; by default found from the names.
        weight: of the similarity in the ensemble. weight_chosen_on: the split that chose it; "" if it was given.
        agreement: for how many of how many videos the answer is the same in fp32, where they were scored in bf16.
        targets: (n, k) all labels of each video, where any of the data set has several; `labels` are the first of them.
        logits: (n, k + m), 100 x cosine with the k class texts and m unrelated ones, mean over views, if these were asked for; not saved.
    """

    similarity: np.ndarray
    classifier: np.ndarray | None
    labels: np.ndarray
    rows: list[int]
    class_names: list[str]
    failed: list[tuple[int, str]] = field(default_factory=list)
    decoders: dict[str, int] = field(default_factory=dict)
    protocol: Protocol | None = None
    list_sha256: str = ""
    checkpoint_sha256: str = ""
    epoch_chosen_on: str = ""
    balance: str = ""
    lost: np.ndarray | None = None
    missing: int = 0
    recordings: np.ndarray | None = None
    opposites: np.ndarray | None = None
    weight: float = 0.5
    weight_chosen_on: str = ""
    agreement: tuple[int, int] = (0, 0)
    targets: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.lost is None:
            object.__setattr__(self, "lost", np.full(len(self.failed), -1))  # of a class that is not known
        if self.opposites is None:
            object.__setattr__(self, "opposites", opposite_labels(self.class_names))
        if self.recordings is None:
            object.__setattr__(self, "recordings", np.arange(len(self.labels) + len(self.lost)))

    def columns(self) -> dict[str, object]:
        """The columns that make a table's numbers reproducible: the protocol's, what counts as wrong, how the epoch was chosen."""
        own = {"count_unreadable_as_wrong": self.count_unreadable_as_wrong, "epoch_chosen_on": self.epoch_chosen_on}
        own |= {"ensemble_weight": self.weight, "weight_chosen_on": self.weight_chosen_on}
        own |= {"balance": self.balance.replace("none", "")}  # said where there is something to say, as of controls
        return self.protocol.columns(self.list_sha256) | own

    def check_checkpoint(self, file: Path) -> None:
        """Raises: UserError when a file of this name exists and is not the one these scores were made with."""
        if file.is_file() and self.checkpoint_sha256 != (digest := file_sha256(file)):
            made = f"predictions: made with a checkpoint of sha256 {self.checkpoint_sha256[:12]}"
            raise UserError(f"{made}, but {file} is {digest[:12]}; evaluate again {HOW}")

    @property
    def count_unreadable_as_wrong(self) -> bool:
        """Whether tables count the videos without scores as wrong."""
        return self.protocol is not None and self.protocol.count_unreadable_as_wrong

    @property
    def wrong(self) -> np.ndarray:
        """Labels of the videos without scores that count as wrong."""
        return self.lost if self.count_unreadable_as_wrong else NO_LABELS

    @property
    def readouts(self) -> tuple[str, ...]:
        """The available read-outs, the best one last: similarity alone without a classifier."""
        return READOUTS if self.classifier is not None else ("similarity",)

    def readout(self, name: str) -> np.ndarray:
        """Scores (n, k) of "similarity", "classifier" or "ensemble" (their weighted mean)."""
        if name == "ensemble":
            return self.weight * self.similarity + (1 - self.weight) * self.classifier
        return {"similarity": self.similarity, "classifier": self.classifier}[name]

    @property
    def best(self) -> np.ndarray:
        """Scores (n, k) of the ensemble, or of similarity where there is no classifier."""
        return self.readout(self.readouts[-1])

    @property
    def right(self) -> np.ndarray:
        """Whether the best class of each video is its label, or one of its labels (n,)."""
        said = self.best.argmax(axis=1)
        return said == self.labels if self.targets is None else self.targets[np.arange(len(said)), said]


def save_predictions(predictions: Predictions, manifest: Manifest, folder: Path, name: str, **provenance: object) -> None:
    """Write folder/<name>.parquet (one row per video: path, label, top-5 per read-out), <name>.npz (score matrices), <name>.json."""
    table = manifest.split(predictions.protocol.split)
    rows = table.iloc[predictions.rows][["path", "label", "class_name"]].reset_index(drop=True)
    for readout in predictions.readouts:
        scores = predictions.readout(readout)
        ids = top_ids(scores, 5)
        rows[f"{readout}_top5"] = ids.tolist()
        rows[f"{readout}_top5_scores"] = np.take_along_axis(scores, ids, axis=1).tolist()
    write_atomically(folder / f"{name}.parquet", lambda file: rows.to_parquet(file, index=False))
    arrays = {readout: predictions.readout(readout) for readout in predictions.readouts if readout != "ensemble"}
    content = io.BytesIO()  # given a path, savez would append .npz to the temporary file's name
    arrays |= {name: getattr(predictions, name) for name in ARRAYS}
    arrays |= {} if predictions.targets is None else {"targets": predictions.targets}
    np.savez(content, rows=np.asarray(predictions.rows), **arrays)
    write_atomically(folder / f"{name}.npz", lambda file: file.write_bytes(content.getbuffer()))
    failed = [{"row": row, "path": str(table.path[row]), "reason": reason} for row, reason in predictions.failed]
    about = {name: getattr(predictions, name) for name in ABOUT} | {"failed": failed, "list_sha256": manifest.sha256}
    write_json(folder / f"{name}.json", about | {"protocol": asdict(predictions.protocol)} | provenance)


def load_predictions(folder: Path, name: str) -> Predictions:
    """Read what save_predictions wrote. Raises: UserError when the files are missing or too old."""
    side = folder / f"{name}.json"
    if not side.is_file():
        raise UserError(f"predictions: no such file: {side}; evaluate first {HOW}")
    about = read_json(side)
    if not {"missing", "weight"} <= about.keys():
        raise UserError(f"predictions: {side} was written by an older version; evaluate again {HOW}")
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    rest = {name: arrays[name] for name in ARRAYS} | {name: about[name] for name in ABOUT}
    rest |= {name: about.get(name, "") for name in ("list_sha256", "checkpoint_sha256", "epoch_chosen_on", "balance")}
    rest |= {"failed": [(entry["row"], entry["reason"]) for entry in about["failed"]], "agreement": tuple(about["agreement"])}
    protocol, rows = Protocol(**about["protocol"]), arrays["rows"].tolist()
    scores = arrays["similarity"], arrays.get("classifier")
    return Predictions(*scores, rows=rows, protocol=protocol, targets=arrays.get("targets"), **rest)
