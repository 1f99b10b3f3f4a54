"""The check of a made data set whose faults are known: it finds them, and following its suggestions makes a probe no worse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from colour_videos import LARGE, make_colour_set
from workspaces import use_workspace

from m2clip_lib.cli import main
from m2clip_lib.config import load_experiment
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.curate.check import check_data
from m2clip_lib.data.listing.corrections import Correction, write_correction
from m2clip_lib.data.prepare import load_manifest, prepare_data
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import open_backbone
from m2clip_lib.probes.table import Probes


class Checked:
    """A colour set in a workspace of its own, prepared and checked."""

    def __init__(self, root, clip_file, video_folder, **sizes):
        self.patch = pytest.MonkeyPatch()
        use_workspace(root, self.patch, clip_file, video_folder)
        self.videos = root / "videos"
        self.misplaced, self.copies = make_colour_set(self.videos, **sizes)
        self.overrides = [f"data.root={self.videos}", "backbone.source=demo"]
        self.experiment, self.lines = load_experiment("folder", self.overrides), []
        prepare_data(self.experiment, lambda line: None)
        self.table = check_data(self.experiment, self.lines.append)

    def of_kind(self, kind: str) -> pd.DataFrame:
        return self.table[self.table.kind == kind]

    def accuracy(self) -> float:
        found, *_ = Probes(self.experiment, load_manifest(self.experiment), open_backbone(self.experiment))("linear")
        return float((found.similarity.argmax(axis=1) == found.labels).mean())


@pytest.fixture(scope="module")
def small(tmp_path_factory, clip_file, video_folder):
    checked = Checked(tmp_path_factory.mktemp("colours"), clip_file, video_folder, videos=144, wrong=6, copied=3, size=48)
    yield checked
    checked.patch.undo()


def test_every_copy_in_another_split_is_found_and_nothing_else(small):
    leaks = small.of_kind("leak")
    assert dict(zip(leaks["with"], leaks.path, strict=True)) == small.copies  # the training video is to go
    assert set(leaks.suggestion) == {"ignore"}
    assert small.of_kind("duplicate").empty


def test_wrong_labels_are_found_with_their_right_class(small):
    found = small.of_kind("label")
    right = {f"relabel: {colour}" for colour in small.misplaced.values()}
    assert len(found) <= 0.1 * 147
    assert len(set(found.path) & small.misplaced.keys()) >= 4
    for row in found[found.path.isin(small.misplaced)].itertuples():
        assert row.suggestion == f"relabel: {small.misplaced[row.path]}"
        assert row.suggestion in right
    assert (np.diff(found.score) <= 0).all()


def test_the_table_is_written_and_read_again_and_nothing_else_is_changed(small):
    file = small.experiment.prepared / "check.csv"
    pd.testing.assert_frame_equal(read_csv(file), small.table, check_dtype=False, atol=1e-4)
    before = {path: path.stat().st_mtime_ns for path in [*small.videos.rglob("*.*"), *small.experiment.prepared.glob("manifest.*")]}
    content = file.read_bytes()
    again = check_data(small.experiment, lambda line: None)
    assert file.read_bytes() == content
    assert len(again) == len(small.table)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_kind_and_the_table_as_json(small, capsys):
    options = [text for override in small.overrides for text in ("-o", override)]
    with pytest.raises(SystemExit) as ended:
        main(["check", "folder", *options, "--top", "2"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "     3 leak: videos that another split has, too\n" in shown
    assert shown.count("ignore") == 2
    with pytest.raises(SystemExit):
        main(["check", "folder", *options, "--json"])
    printed = capsys.readouterr()
    assert [row["path"] for row in json.loads(printed.out)] == small.table.path.tolist()
    assert "duplicates: " in printed.err


def test_rows_of_an_accepted_video_are_left_out(small):
    path = small.of_kind("label").path.iloc[0]
    file = small.experiment.prepared / "corrections.csv"
    write_correction(file, small.videos, [], Correction(path, "accept"))
    table = check_data(small.experiment, lambda line: None)
    file.unlink()
    assert path not in set(table.path)
    assert len(table) == len(small.table) - 1


@pytest.mark.slow
def test_fast_copies_are_named_by_their_originals_and_a_video_that_is_gone_is_said(workspace, video_folder):
    """Twelve videos of 12 frames: all are shorter than a clip of 20."""
    experiment, lines = load_experiment("folder", ["data.transcode=true", "data.num_frames=20"]), []
    manifest = prepare_data(experiment, lines.append)
    gone = manifest.split("train").path.iloc[0]
    Path(gone).unlink()
    table = check_data(experiment, lines.append)
    named = set(table[table.kind == "short"].path)
    names = {path.relative_to(video_folder).as_posix() for path in video_folder.rglob("*.*")}
    assert named == names - {Path(gone).relative_to(experiment.prepared / "transcoded" / "videos").as_posix().removesuffix(".mp4")}
    assert [line for line in lines if line.startswith("features: 1 videos of split train could not be read: ")]


@pytest.mark.slow  # draws 306 videos, encodes them twice with CLIP: about a minute
def test_300_videos_with_known_faults_and_what_following_the_suggestions_gains(tmp_path, clip_file, video_folder):
    made = Checked(tmp_path, clip_file, video_folder, videos=300, wrong=15, copied=6)
    leaks, suspected = made.of_kind("leak"), made.of_kind("label")
    assert dict(zip(leaks["with"], leaks.path, strict=True)) == made.copies
    first = suspected.head(len(load_manifest(made.experiment).table) // 10)
    found = len(set(first.path) & made.misplaced.keys())
    assert found >= 0.8 * len(made.misplaced)
    uneven = made.of_kind("imbalance")
    assert set(uneven.class_name) == {LARGE}
    assert (uneven.score > 2).all()
    before = made.accuracy()
    shutil.copy(made.experiment.prepared / "suggested_corrections.csv", made.experiment.prepared / "corrections.csv")
    lines = []
    corrected = prepare_data(made.experiment, lines.append)
    assert f"corrections: {len(suspected)} videos relabelled, 6 left out, 0 accepted as they are" in lines
    assert len(corrected.table) == 300
    after = made.accuracy()
    print(f"{found} of 15 wrong labels among {len(first)} suspects, top-1 {100 * before:.1f} % before and {100 * after:.1f} % after")
    assert after >= before
    assert check_data(made.experiment, lines.append).kind.eq("leak").sum() == 0
    made.patch.undo()


def test_segments_are_no_copies_of_one_another_and_several_labels_are_not_doubted(workspace, video_folder):
    rows = [f"moving_left/clip 0.mp4,{name},{start},{start + 0.75}\n" for start in (0, 0.5, 0.75) for name in ("left", "moving")]
    (workspace / "train.csv").write_text("path,label,start,end\n" + "".join(rows) + "moving_right/clip 1.webm,right,,\n")
    changes = ["data.layout=annotations", f"data.root={video_folder}", f"data.train_list={workspace / 'train.csv'}", "data.hold_out=0.0"]
    experiment, lines = load_experiment("folder", changes), []
    prepare_data(experiment, lambda line: None)
    table = check_data(experiment, lines.append)
    assert "labels: NOT CHECKED: videos have several, and the check compares one with its rivals" in lines
    assert not {"leak", "duplicate", "label"} & set(table.kind)
    assert any(line.startswith("balance: train: 'left' has 3 of 4 videos, 'right' has 1") for line in lines)


def test_a_set_of_which_nothing_can_be_read_or_all_is_ignored_ends_with_one_line(workspace):
    videos = [workspace / "videos" / "train" / f"{name}.mp4" for name in ("left/a", "right/b")]
    for video in videos:
        video.parent.mkdir(parents=True)
        video.write_bytes(b"no video")
    experiment = load_experiment("folder", [f"data.root={workspace / 'videos'}"])
    for act, line in (
        (prepare_data, "none of the 2 listed can be read"),
        (check_data, "none of the 2 videos can be read; .*unreadable.csv says why"),
    ):
        with pytest.raises(UserError, match=line):
            act(experiment, lambda line: None)
    for video in videos:
        write_correction(experiment.prepared / "corrections.csv", workspace / "videos", ["left", "right"], Correction(str(video), "ignore"))
    with pytest.raises(UserError, match=r"corrections.csv ignores all 2 videos; remove some of its rows"):
        prepare_data(experiment, lambda line: None)
