"""The verdict on a manifest's labels: who reaches it, when it is used again, and what it does to a training. Frozen CLIP is replaced."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from m2clip_lib import cli
from m2clip_lib.config import BackboneSection, DataSection, Experiment
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate import labelcheck
from m2clip_lib.evaluate.labelcheck import VERDICT_FILE, check_labels, decide_labels, remember_verdict, require_verdict, settle_labels
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol

CLASSES, EACH = 10, 6
NAMES = [f"class {i}" for i in range(CLASSES)]
EXPERIMENT = Experiment(name="mine")


def manifest(folder, path: str = "/videos/{number}.mp4") -> Manifest:
    """Ten classes of six videos each; by default no path names a class."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    paths = [path.format(number=number, name=NAMES[label]) for number, label in enumerate(labels)]
    table = pd.DataFrame({"path": paths, "label": labels, "class_name": [NAMES[label] for label in labels]})
    return Manifest(table.assign(split="train", status="ok"), NAMES, folder, "of this list")


class FrozenCLIP:
    """Replaces zero_shot: answers label + shift for every video, and counts its calls."""

    def __init__(self) -> None:
        self.shift, self.calls, self.knows_no_name = 0, 0, False

    def __call__(self, experiment, asked, backbone, device, protocol) -> Predictions:
        self.calls += 1
        assert not experiment.data.cache_frames  # the cache does not hold this selection of videos
        assert protocol.num_views == 1
        labels = asked.split(protocol.split).label.to_numpy()
        scores = np.full((len(labels), CLASSES), 0.01, np.float32)
        scores[np.arange(len(labels)), (labels + self.shift) % CLASSES] = 0.9
        logits = np.hstack([np.log(scores)] * 2) if self.knows_no_name else None  # ten other names that fit exactly as well
        return Predictions(scores, None, labels, list(range(len(labels))), NAMES, logits=logits)


@pytest.fixture
def clip(monkeypatch) -> FrozenCLIP:
    frozen = FrozenCLIP()
    monkeypatch.setattr(labelcheck, "zero_shot", frozen)
    monkeypatch.setattr(labelcheck, "open_backbone", lambda experiment: None)
    return frozen


def lines_of(command, listed: Manifest, experiment: Experiment = EXPERIMENT) -> list[str]:
    lines: list[str] = []
    command(experiment, listed, lines.append)
    return lines


def test_a_manifest_whose_folders_name_the_classes_is_never_compared(tmp_path, clip):
    listed = manifest(tmp_path, "/videos/{name}/{number}.mp4")
    assert decide_labels(EXPERIMENT, listed) == {}
    assert lines_of(require_verdict, listed) == []
    assert clip.calls == 0
    assert not (tmp_path / VERDICT_FILE).exists()


def test_a_manifest_whose_classes_a_table_confirms_is_never_compared(tmp_path, clip):
    rows = [f"{NAMES[number // EACH]},id{number},0,10,train\n" for number in range(CLASSES * EACH)]
    (tmp_path / "kinetics.csv").write_text("label,youtube_id,time_start,time_end,split\n" + "".join(rows))
    experiment = Experiment(name="mine", data=DataSection(check_csv=str(tmp_path / "kinetics.csv")))
    assert decide_labels(experiment, manifest(tmp_path, "/videos/id{number}.mp4")) == {}
    assert clip.calls == 0


def test_names_that_fit_are_compared_once_and_the_verdict_is_kept(tmp_path, clip):
    listed = manifest(tmp_path)
    first, second = lines_of(decide_labels, listed), lines_of(require_verdict, listed)
    assert "comparing the names with frozen CLIP on 60 videos" in first[0]
    assert first[1] == "labels: zero-shot top-1 100.0 %, no other order of the names is clearly better"
    assert second == []
    assert clip.calls == 1
    assert json.loads((tmp_path / VERDICT_FILE).read_text()) == {"manifest": "of this list", "accepted": "", "refused": ""}


def test_permuted_names_are_reported_recorded_and_refused(tmp_path, clip):
    clip.shift = 1
    listed = manifest(tmp_path)
    assert lines_of(decide_labels, listed)[1].startswith("WARNING: labels: the class names are permuted")
    verdict = json.loads((tmp_path / VERDICT_FILE).read_text())
    assert verdict["accepted"] == ""
    with pytest.raises(UserError) as error:
        require_verdict(EXPERIMENT, listed)
    assert str(error.value) == verdict["refused"]
    assert "videos labelled 'class 0' look like 'class 1'" in verdict["refused"]
    assert "--accept-labels" in verdict["refused"]
    assert "ACCEPT_PERMUTED_LABELS=true" in verdict["refused"]
    assert clip.calls == 1


def test_a_verdict_on_file_is_used_for_its_own_manifest_alone(tmp_path, clip):
    listed = manifest(tmp_path)
    remember_verdict(listed, refused="refused before")
    with pytest.raises(UserError, match="refused before"):
        require_verdict(EXPERIMENT, listed)
    assert clip.calls == 0
    other = dataclasses.replace(listed, sha256="of another list")
    assert decide_labels(EXPERIMENT, other) == {"manifest": "of another list", "accepted": "", "refused": ""}
    assert clip.calls == 1


def test_accepted_names_are_trained_on_with_a_warning(tmp_path, clip):
    listed = manifest(tmp_path)
    remember_verdict(listed, accepted="ACCEPTED ALTHOUGH permuted")
    assert lines_of(require_verdict, listed) == ["WARNING: ACCEPTED ALTHOUGH permuted"]
    assert clip.calls == 0


def test_missing_weights_leave_no_verdict(tmp_path):
    experiment = Experiment(name="mine", backbone=BackboneSection(source=str(tmp_path / "gone.pt")))
    for command in (decide_labels, require_verdict):
        with pytest.raises(UserError, match=r"backbone weights: no such file: .*gone.pt"):
            command(experiment, manifest(tmp_path))
    assert not (tmp_path / VERDICT_FILE).exists()


def test_prepare_only_reports_missing_weights(workspace, video_folder, capsys):
    lines = []
    (workspace / "flat").mkdir()
    for number, file in enumerate(sorted(video_folder.rglob("clip*.mp4"))):
        shutil.copy(file, workspace / "flat" / f"{number}.mp4")
        lines.append(f"{number}.mp4 {int('right' in file.parent.name)}\n")
    (workspace / "list.txt").write_text("".join(lines))
    (workspace / "names.txt").write_text("moving left\nmoving right\n")
    fields = {"layout": "list", "root": workspace / "flat", "train_list": workspace / "list.txt", "names_file": workspace / "names.txt"}
    overrides = [f"data.{name}={value}" for name, value in fields.items()] + ["data.hold_out=0", "backbone.source=gone.pt"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", "folder", *(word for override in overrides for word in ("-o", override))])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "labels: not compared with frozen CLIP (backbone weights: no such file" in out
    assert (workspace / "data" / "folder" / "manifest.parquet").is_file()
    assert not (workspace / "data" / "folder" / VERDICT_FILE).exists()


def test_notebook_02_refuses_over_an_earlier_verdict_that_was_good(tmp_path, clip):
    listed, clip.shift = manifest(tmp_path), 1
    remember_verdict(listed)
    require_verdict(EXPERIMENT, listed)
    labels = listed.table.label.to_numpy()
    scores = np.full((len(labels), CLASSES), 0.01, np.float32)
    scores[np.arange(len(labels)), (labels + 1) % CLASSES] = 0.9
    check = check_labels(Predictions(scores, None, labels, list(range(len(labels))), NAMES))
    with pytest.raises(UserError, match="class names are permuted"):
        settle_labels(check, EXPERIMENT, listed, accept=False)
    with pytest.raises(UserError, match="class names are permuted"):
        require_verdict(EXPERIMENT, listed)
    assert settle_labels(check, EXPERIMENT, listed, accept=True).startswith("ACCEPTED ALTHOUGH")
    assert any("ACCEPTED ALTHOUGH" in line for line in lines_of(require_verdict, listed))


def test_names_that_clip_does_not_know_are_a_warning_and_trained_on(tmp_path, clip):
    """Old code: "the class names are permuted; training will refuse them", and it did."""
    listed, clip.shift, clip.knows_no_name = manifest(tmp_path), 1, True
    lines = lines_of(decide_labels, listed)
    assert lines[1].startswith("WARNING: labels: UNDECIDED: frozen CLIP recognises 0.0 % of 30 videos with the names as listed and 100.0 %")
    assert json.loads((tmp_path / VERDICT_FILE).read_text()) == {"manifest": "of this list", "accepted": "", "refused": ""}
    assert require_verdict(EXPERIMENT, listed) == ""
    check = check_labels(clip(EXPERIMENT, listed, None, None, Protocol("train", 8, 0)))
    assert settle_labels(check, EXPERIMENT, listed, accept=False).startswith("labels: UNDECIDED")  # notebook 02 shows it
    assert json.loads((tmp_path / VERDICT_FILE).read_text())["accepted"] == ""


def test_a_refusal_can_be_overruled_and_the_verdict_on_file_says_so(tmp_path, clip):
    listed, clip.shift = manifest(tmp_path), 1
    lines: list[str] = []
    accepted = require_verdict(EXPERIMENT, listed, lines.append, accept=True)
    assert accepted.startswith("ACCEPTED ALTHOUGH labels: the class names are permuted")
    assert accepted.endswith("videos labelled 'class 2' look like 'class 3'")  # without the advice
    assert lines[-1] == f"WARNING: {accepted}"
    assert json.loads((tmp_path / VERDICT_FILE).read_text()) == {"manifest": "of this list", "accepted": accepted, "refused": ""}
    assert require_verdict(EXPERIMENT, listed, lines.append) == accepted  # once accepted, for this manifest
    assert clip.calls == 1


def test_overruling_what_was_not_refused_changes_nothing(tmp_path, clip):
    assert require_verdict(EXPERIMENT, manifest(tmp_path), accept=True) == ""
    assert json.loads((tmp_path / VERDICT_FILE).read_text())["accepted"] == ""
