"""From an experiment to its manifest: every layout, unchanged datasets left alone, and messages that say what is missing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256

import pytest

from m2clip_lib.config import load_experiment
from m2clip_lib.data import prepare as module
from m2clip_lib.data.demo.videos import CLASS_NAMES
from m2clip_lib.data.manifest import read_manifest
from m2clip_lib.data.prepare import data_fingerprint, load_manifest, prepare_data, videos_root
from m2clip_lib.errors import UserError


def prepare(name: str, *overrides: str):
    """Returns: the manifest, and the lines that were reported."""
    lines: list[str] = []
    return prepare_data(load_experiment(name, overrides), lines.append), lines


@pytest.fixture
def own_folder(workspace, video_folder):
    """A copy of the videos that a test may break; returns it and the override that points there."""
    root = workspace / "own videos"
    shutil.copytree(video_folder, root)
    return root, f"data.root={root}"


def test_synthetic_videos_are_written_once_and_listed(workspace):
    manifest, lines = prepare("tiny")
    assert [len(manifest.split(split)) for split in ("train", "val", "test")] == [24, 12, 12]
    assert manifest.class_names == list(CLASS_NAMES)
    assert lines[0].startswith("videos: written")
    times = [path.stat().st_mtime_ns for path in sorted((workspace / "data").rglob("*.*"))]
    again, lines = prepare("tiny")
    assert "up to date (48 videos)" in lines[-1]
    assert [path.stat().st_mtime_ns for path in sorted((workspace / "data").rglob("*.*"))] == times
    assert again.sha256 == manifest.sha256 == load_manifest(load_experiment("tiny")).sha256


def test_number_of_synthetic_videos_that_does_not_divide_is_an_error_and_deletes_nothing(workspace):
    prepare("tiny")
    with pytest.raises(UserError, match="train_videos"):
        prepare("tiny", "data.train_videos=25")
    assert len(list((workspace / "data" / "tiny" / "videos").rglob("*.mp4"))) == 48


def test_synthetic_videos_never_replace_files_they_did_not_write(workspace):
    # with `prepared` pointing at the wrong folder, <prepared>/videos is the user's own collection
    mine = workspace / "data" / "tiny" / "videos" / "holiday" / "only copy.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    with pytest.raises(UserError, match="videos"):
        prepare("tiny")
    assert mine.read_bytes() == b"precious"


def test_folder_is_listed_with_one_row_per_broken_video(own_folder):
    root, at_root = own_folder
    (root / "moving_left" / "empty.mp4").touch()
    (root / "moving_right" / "text.webm").write_text("no")
    manifest, lines = prepare("folder", at_root)
    assert manifest.class_names == ["moving left", "moving right"]
    assert len(manifest.table) == 14
    assert (manifest.table.status == "ok").sum() == 12
    assert "12 videos ok, 2 not usable" in "\n".join(lines)
    assert any(line.endswith("folder/unreadable.csv") for line in lines)


def test_unchanged_folder_is_left_alone_and_a_new_video_is_found(own_folder):
    root, at_root = own_folder
    first, _ = prepare("folder", at_root)
    assert "up to date" in prepare("folder", at_root)[1][-1]
    before = data_fingerprint(load_experiment("folder", [at_root]))
    shutil.copy(root / "moving_left" / "clip 0.mp4", root / "moving_left" / "new.mp4")
    assert data_fingerprint(load_experiment("folder", [at_root])) != before
    second, lines = prepare("folder", at_root)
    assert any("opening 13 videos" in line for line in lines)
    assert len(second.table) == 13
    assert second.sha256 != first.sha256


def test_file_that_took_too_long_is_tried_again_by_the_next_prepare(own_folder, monkeypatch):
    _, at_root = own_folder
    whole = module.scan

    def slow(*arguments):
        table = whole(*arguments)
        table.loc[0, "status"] = "took more than 60 s"
        return table

    with monkeypatch.context() as patch:
        patch.setattr(module, "scan", slow)
        prepare("folder", at_root)
    manifest, lines = prepare("folder", at_root)
    assert not any("up to date" in line for line in lines)
    assert (manifest.table.status == "ok").all()
    assert "up to date" in prepare("folder", at_root)[1][-1]


def test_fingerprint_of_synthetic_videos_changes_with_the_recipe(workspace):
    names = ([], ["data.video_seed=1"], ["data.train_videos=36"], ["data.num_frames=5"])
    prints = [data_fingerprint(load_experiment("tiny", overrides)) for overrides in names]
    assert len(set(prints)) == 3
    assert prints[3] == prints[0]  # how clips are cut does not change the videos


def test_list_files_are_read_by_split(own_folder, workspace):
    _, at_root = own_folder
    (workspace / "names.txt").write_text("going left\ngoing right\n")
    (workspace / "train.txt").write_text("moving_left/clip 0.mp4 0\nmoving_right/clip 1.webm 12 1\nmoving_left/gone.mp4 0\n")
    (workspace / "test.txt").write_text("moving_right/clip 2.avi 1\n")
    lists = [f"data.train_list={workspace}/train.txt", f"data.test_list={workspace}/test.txt", f"data.names_file={workspace}/names.txt"]
    manifest, _ = prepare("folder", at_root, "data.layout=list", *lists)
    assert manifest.table[["label", "class_name", "split", "status"]].values.tolist() == [
        [0, "going left", "train", "ok"],
        [1, "going right", "train", "ok"],
        [0, "going left", "train", "missing"],
        [1, "going right", "test", "ok"],
    ]


def test_list_whose_labels_disagree_with_the_class_folders_is_refused(own_folder, workspace):
    # the seed project's mistake: ids and names come from two files, and nothing else in a training run notices
    root, at_root = own_folder
    (workspace / "names.txt").write_text("moving right\nmoving left\n")
    lines = [f"{path.relative_to(root)} {int(path.parent.name == 'moving_right')}\n" for path in sorted(root.rglob("clip*"))]
    (workspace / "train.txt").write_text("".join(lines))
    lists = [f"data.train_list={workspace}/train.txt", f"data.names_file={workspace}/names.txt"]
    with pytest.raises(UserError, match=r"12 of 12.*clip 0"):
        prepare("folder", at_root, "data.layout=list", *lists)


def test_kinetics_table_is_read(own_folder, workspace):
    root, at_root = own_folder
    shutil.copy(root / "moving_left" / "clip 0.mp4", root / "moving_left" / "abc_000001_000011.mp4")
    (workspace / "val.csv").write_text("label,youtube_id,time_start,time_end,split\nmoving left,abc,1,11,val\nmoving right,xyz,0,10,val\n")
    manifest, _ = prepare("folder", at_root, "data.layout=kinetics", f"data.val_list={workspace}/val.csv")
    assert manifest.table[["class_name", "split", "status"]].values.tolist() == [
        ["moving left", "val", "ok"],
        ["moving right", "val", "missing"],
    ]


def test_ssv2_lists_are_read(own_folder, workspace):
    root, at_root = own_folder
    shutil.copy(root / "moving_left" / "clip 1.webm", root / "17.webm")
    (workspace / "labels.json").write_text(json.dumps({"Moving something left": "0", "Moving something right": "1"}))
    (workspace / "train.json").write_text(json.dumps([{"id": "17", "template": "Moving [something] left"}]))
    overrides = ["data.layout=ssv2", f"data.train_list={workspace}/train.json", f"data.names_file={workspace}/labels.json"]
    manifest, _ = prepare("folder", at_root, *overrides)
    assert manifest.table[["label", "class_name", "status", "codec"]].values.tolist() == [[0, "Moving something left", "ok", "vp9"]]


def test_missing_folder_is_named_with_the_field_to_set(workspace):
    with pytest.raises(UserError, match=r"experiment 'folder': no such folder: .*/nowhere; put them there, or set data\.root"):
        prepare("folder", f"data.root={workspace}/nowhere")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root="], "data.root is not set"),
        (["data.layout=list"], "needs data.train_list"),
        (["data.layout=kinetics"], "needs data.train_list"),
        (["data.layout=list", "data.train_list=a.txt"], "needs data.names_file"),
        (["data.layout=ssv2", "data.train_list=a.json"], "needs data.names_file"),
        (["data.layout=ucf101"], "needs data.annotations"),
        (["data.layout=hmdb51"], "needs data.annotations"),
        (["data.layout=k600_zero_shot"], "evaluation only: set data.test_list"),
        (["data.layout=kinetics", "data.train_list=/gone.csv"], "no such file: /gone.csv"),
    ],
)
def test_missing_field_or_file_is_named(workspace, overrides, message):
    with pytest.raises(UserError, match=message):
        prepare("folder", *overrides)


def test_empty_list_is_an_error(own_folder, workspace):
    (workspace / "names.txt").write_text("a\nb\n")
    (workspace / "train.txt").write_text("")
    lists = [f"data.train_list={workspace}/train.txt", f"data.names_file={workspace}/names.txt"]
    with pytest.raises(UserError, match=r"no video|empty"):
        prepare("folder", own_folder[1], "data.layout=list", *lists)


def test_dataset_without_one_readable_video_is_an_error_every_time(workspace):
    root = workspace / "broken"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "1.mp4").touch()
    for _ in range(2):  # the second time the manifest is up to date and just as useless
        with pytest.raises(UserError, match=r"none of the 2 listed can be read \(most often: empty file\)"):
            prepare("folder", f"data.root={root}")


def test_file_name_that_is_not_unicode_is_a_row_or_an_error(own_folder):
    # copies from old disks have such names; a crash in the digest would name neither file nor cause
    root, at_root = own_folder
    strange = os.path.join(os.fsencode(root / "moving_left"), b"caf\xe9.mp4")  # noqa: PTH118 (bytes)
    shutil.copy(root / "moving_left" / "clip 0.mp4", strange)
    try:
        found = str(prepare("folder", at_root)[0].table.path.tolist())
    except UserError as error:
        found = str(error)
    assert "caf" in found


def test_manifest_is_not_made_behind_the_users_back(workspace):
    with pytest.raises(UserError, match="m2clip prepare tiny"):
        load_manifest(load_experiment("tiny"))


def test_manifest_is_where_the_experiment_says(workspace):
    experiment = load_experiment("folder", [f"data.prepared={workspace}/elsewhere"])
    manifest = prepare_data(experiment, lambda line: None)
    assert manifest.folder == workspace / "elsewhere"
    assert len(read_manifest(workspace / "elsewhere", "").table) == 12
    assert videos_root(load_experiment("tiny")) == workspace / "data" / "tiny" / "videos"


# --- what prepare checks and writes down beside the rows ---


def list_fields(workspace, train: str, test: str = "", names: str = "moving left\nmoving right\n") -> list[str]:
    for name, text in (("train", train), ("test", test), ("names", names)):
        (workspace / f"{name}.txt").write_text(text)
    fields = ["data.layout=list", f"data.train_list={workspace}/train.txt", f"data.names_file={workspace}/names.txt"]
    return [*fields, f"data.test_list={workspace}/test.txt"] if test else fields


def side_file(workspace) -> dict:
    return json.loads((workspace / "data" / "folder" / "manifest.json").read_text())


def all_lines(root) -> list[str]:
    return [f"{path.relative_to(root)} {int(path.parent.name == 'moving_right')}\n" for path in sorted(root.rglob("clip*"))]


def test_validation_is_held_out_where_lists_bring_none(own_folder, workspace):
    root, at_root = own_folder
    lines = all_lines(root)
    fields = list_fields(workspace, "".join(lines[:5] + lines[6:11]), lines[5] + lines[11])
    manifest, _ = prepare("folder", at_root, *fields, "data.hold_out=0.2")
    assert manifest.table.split.value_counts().to_dict() == {"train": 8, "val": 2, "test": 2}
    manifest, lines = prepare("folder", at_root, *fields, "data.hold_out=0")
    assert manifest.table.split.value_counts().to_dict() == {"train": 10, "test": 2}
    assert any("no validation videos; the last epoch" in line for line in lines)


def in_split_folders(root, *splits: str) -> None:
    """Move a third of each class's videos to each of the splits' folders."""
    for number, path in enumerate(sorted(root.rglob("clip*"))):
        place = root / splits[number % len(splits)] / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    for folder in ("moving_left", "moving_right"):
        (root / folder).rmdir()


def test_validation_is_held_out_where_split_folders_bring_none(own_folder):
    """Old code: 8 training videos and no validation; data.hold_out was ignored for this layout."""
    root, at_root = own_folder
    in_split_folders(root, "train", "train", "test")
    manifest, lines = prepare("folder", at_root, "data.hold_out=0.3")
    counts = manifest.table.split.value_counts().to_dict()
    assert counts["val"] >= 1
    assert (counts["train"] + counts["val"], counts["test"]) == (8, 4)
    assert any(line.startswith(f"splits: train {counts['train']} videos of {counts['train']} recordings, val ") for line in lines)
    manifest, _ = prepare("folder", at_root, "data.hold_out=0")
    assert manifest.table.split.value_counts().to_dict() == {"train": 8, "test": 4}


def test_folder_without_a_test_split_is_announced_and_its_evaluation_says_what_to_do(own_folder):
    """Old code: nothing in prepare, then "no readable video in split 'test'; see unreadable.csv"."""
    root, at_root = own_folder
    in_split_folders(root, "train", "train", "val")
    manifest, lines = prepare("folder", at_root)
    wanted = "the dataset has no test split, only train and val; evaluate another one with -o eval.split=val"
    assert sum(wanted in line for line in lines) == 1
    with pytest.raises(UserError, match=wanted):
        manifest.split("test")
    assert not any("no test split" in line for line in prepare("folder", at_root, "eval.split=val")[1])


def test_a_video_that_is_listed_twice_is_one_row(own_folder, workspace):
    """Old code: 12 training rows and 3 test rows, and the report said "it counts as often as it is listed"."""
    root, at_root = own_folder
    lines = all_lines(root)
    (root / "link.mp4").symlink_to(root / lines[0].rpartition(" ")[0])
    train, test = [*lines[:10], f"./{lines[0]}", "link.mp4 0\n"], [*lines[10:], lines[11].replace("/", "/../moving_right/")]
    manifest, said = prepare("folder", at_root, *list_fields(workspace, "".join(train), "".join(test)), "data.hold_out=0")
    assert manifest.table.split.value_counts().to_dict() == {"train": 10, "test": 2}
    assert "lists: 3 lines repeat a video; each counts once" in said


def test_video_in_two_lists_is_refused(own_folder, workspace):
    root, at_root = own_folder
    lines = all_lines(root)
    with pytest.raises(UserError, match="2 of 12 videos are in two splits"):
        prepare("folder", at_root, *list_fields(workspace, "".join(lines), lines[0] + lines[7]))
    assert not (workspace / "data" / "folder").exists()


def test_mirror_of_left_and_right_is_refused_before_anything_is_opened(own_folder, workspace):
    with pytest.raises(UserError, match="'moving left' and 'moving right'"):
        prepare("folder", own_folder[1], "data.mirror=true")
    assert not (workspace / "data" / "folder").exists()
    assert len(prepare("folder", own_folder[1], "data.mirror=force")[0].table) == 12


def test_lists_prompts_and_vocabulary_are_in_the_side_file(own_folder, workspace):
    root, at_root = own_folder
    fields = list_fields(workspace, "".join(all_lines(root)))
    _, lines = prepare("folder", at_root, *fields)
    assert any("labels: 12 of 12 videos carry their class" in line for line in lines)
    assert any("texts: 2 classes, 1 prompt(s) each ('A video of moving left', ...), vocabulary of 6 words" in line for line in lines)
    side = side_file(workspace)
    expected = {str(workspace / name): sha256((workspace / name).read_bytes()).hexdigest() for name in ("train.txt", "names.txt")}
    assert side["sources"] == expected
    assert side["prompts"] == [["A video of moving left"], ["A video of moving right"]]
    assert side["vocabulary"] == ["a", "left", "moving", "of", "right", "video"]

    # Other texts on unchanged videos: nothing is scanned again, and the side file follows.
    (workspace / "p.json").write_text(json.dumps({"moving left": ["to the left", "moving left"], "moving right": ["going right"]}))
    (workspace / "v.txt").write_text("left 1\nup 0\n")
    files = [f"data.prompts_file={workspace}/p.json", f"data.vocabulary_file={workspace}/v.txt"]
    before = data_fingerprint(load_experiment("folder", [at_root, *fields, *files]))
    _, lines = prepare("folder", at_root, *fields, *files)
    assert "up to date" in lines[-1]
    assert any("1 to 2 prompt(s) each ('to the left', ...), vocabulary of 2 words; 1 class names have no word" in line for line in lines)
    side = side_file(workspace)
    assert side["prompts"] == [["to the left", "moving left"], ["going right"]]
    assert side["vocabulary"] == ["up", "left"]
    assert set(side["sources"]) == {*expected, str(workspace / "p.json"), str(workspace / "v.txt")}
    (workspace / "v.txt").write_text("left 0\nup 1\n")
    assert data_fingerprint(load_experiment("folder", [at_root, *fields, *files])) != before


def test_list_is_checked_against_a_kinetics_table(own_folder, workspace):
    root, at_root = own_folder
    for name, video in (("clip 0.mp4", "id0"), ("clip 4.mp4", "id4")):
        shutil.copy(root / "moving_left" / name, root / f"{video}.mp4")
    (workspace / "k.csv").write_text("label,youtube_id,time_start,time_end\nmoving left,id0,0,10\nmoving right,id4,0,10\n")
    check = f"data.check_csv={workspace}/k.csv"
    with pytest.raises(UserError, match=r"2 of 2 .*id0\.mp4 says 'moving left', its label 'moving right'"):
        prepare("folder", at_root, *list_fields(workspace, "id0.mp4 1\nid4.mp4 0\n"), check)
    assert len(prepare("folder", at_root, *list_fields(workspace, "id0.mp4 0\nid4.mp4 1\n"), check)[0].table) == 2


def test_class_without_a_training_video_is_named(own_folder, workspace):
    root, at_root = own_folder
    _, lines = prepare("folder", at_root, *list_fields(workspace, "".join(all_lines(root)), names="moving left\nmoving right\nski\n"))
    assert any("1 of 3 classes have no training video: 'ski'" in line for line in lines)


def test_ucf101_and_hmdb51_are_read_from_their_official_files(own_folder, workspace):
    _, at_root = own_folder
    (workspace / "classInd.txt").write_text("1 MovingLeft\n2 MovingRight\n")
    (workspace / "trainlist02.txt").write_text("".join(f"moving_left/clip {i}{s} 1\n" for i, s in ((0, ".mp4"), (1, ".webm"))))
    (workspace / "testlist02.txt").write_text("moving_right/clip 2.avi\n")
    fields = [f"data.annotations={workspace}", "data.official_split=2", "data.hold_out=0"]
    manifest, _ = prepare("folder", at_root, "data.layout=ucf101", *fields)
    assert manifest.table[["class_name", "split", "status"]].values.tolist() == [
        ["Moving Left", "train", "ok"],
        ["Moving Left", "train", "ok"],
        ["Moving Right", "test", "ok"],
    ]
    assert {os.path.basename(file) for file in side_file(workspace)["sources"]} == {"classInd.txt", "trainlist02.txt", "testlist02.txt"}  # noqa: PTH119
    for name, text in (("moving_left", "clip 0.mp4 1\nclip 1.webm 0\n"), ("moving_right", "clip 2.avi 2\n")):
        (workspace / f"{name}_test_split2.txt").write_text(text)
    manifest, _ = prepare("folder", at_root, "data.layout=hmdb51", *fields)
    assert manifest.table[["class_name", "split", "status"]].values.tolist() == [
        ["moving left", "train", "ok"],
        ["moving right", "test", "ok"],
    ]


def test_zero_shot_dataset_is_for_evaluation_only(own_folder, workspace):
    root, at_root = own_folder
    lists = list_fields(workspace, "x", "".join(all_lines(root)), names="moving left\nmoving right\nski\n")
    zero_shot = ["data.layout=k600_zero_shot", lists[2], lists[3]]
    manifest, _ = prepare("folder", at_root, *zero_shot)
    assert manifest.class_names == ["moving left", "moving right"]
    assert set(manifest.table.split) == {"test"}
    with pytest.raises(UserError, match=r"evaluation only: set data\.test_list"):
        prepare("folder", at_root, *zero_shot, lists[1])


# --- scripts and several processes ---


def script(workspace, name: str, guard: str) -> list[str]:
    """Write a script that prepares an experiment. Returns: the command that runs it."""
    file = workspace / "my script.py"
    file.write_text(
        "from m2clip_lib.config import load_experiment\n"
        "from m2clip_lib.data.prepare import prepare_data\n"
        f"{guard}prepare_data(load_experiment({name!r}), lambda line: print(line, flush=True))\n"
    )
    return [sys.executable, str(file)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder", "tiny"])
def test_script_without_a_guard_ends_with_one_line(workspace, name):
    """Starts three processes that import the library: about 10 s."""
    done = subprocess.run(script(workspace, name, ""), capture_output=True, text=True, timeout=200)
    advice = 'starts processes while it is being imported; put the call under: if __name__ == "__main__":'
    assert (done.stderr, done.returncode) == (f"m2clip: {workspace / 'my script.py'}: {advice}\n", 1)


@pytest.mark.slow
def test_two_processes_prepare_a_folder_once(workspace):
    """Two scripts with a guard; the first is held up while it has the lock, so that the second is refused: about 10 s."""
    command = script(workspace, "folder", 'if __name__ == "__main__":\n    ')
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [first.stdout.readline() for _ in range(3)]
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(command, capture_output=True, text=True, timeout=100)
    first.send_signal(signal.SIGCONT)
    output, errors = first.communicate(timeout=100)
    assert (first.returncode, errors) == (0, "")
    assert started[-1] == "manifest: opening 12 videos of 2 classes\n"
    assert output.startswith("manifest: 12 videos ok, 0 not usable")
    assert "splits: train 10 videos of 10 recordings, val 1" in output
    assert "labels: 1 of 2 classes have no test video: 'moving left'\n" in output
    assert re.search(
        rf"UserError: manifest: .*folder: process {first.pid} on host .* is at work on it; wait", second.stderr.splitlines()[-1]
    )
    again = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "is up to date (12 videos)" in again.stdout.splitlines()[-1]


@pytest.mark.parametrize("names", [["1", "2"], ["Anna", "Ben"]])
def test_folders_of_subjects_named_like_classes_can_be_overruled_and_it_is_recorded(own_folder, workspace, names):
    root, at_root = own_folder
    for subject, folder in zip(names, ("moving_left", "moving_right"), strict=True):
        (root / folder).rename(root / subject)
    (workspace / "names.txt").write_text("\n".join(names))
    lines = [f"{path.relative_to(root)} {i % 2}\n" for i, path in enumerate(sorted(root.rglob("clip*")))]
    (workspace / "train.txt").write_text("".join(lines))
    fields = ["data.layout=list", f"data.train_list={workspace}/train.txt", f"data.names_file={workspace}/names.txt"]
    with pytest.raises(UserError, match=r"6 of 12 .*if the folders are no classes but subjects or cameras, set data\.trust_list=true"):
        prepare("folder", at_root, *fields)
    _, said = prepare("folder", at_root, *fields, "data.trust_list=true")
    assert any(line.startswith("labels: data.trust_list is set: the list is trusted although 6 of 12 videos") for line in said)
    assert side_file(workspace)["trust_list"].startswith("labels: 6 of 12 videos whose path carries a class")


def test_what_is_passed_over_is_said_each_time(own_folder, workspace):
    root, at_root = own_folder
    (root / "waving").mkdir()
    (root / "waving" / "1.dav").touch()
    for _ in range(2):
        said = prepare("folder", at_root)[1]
        assert "passed over: 1 class folders without a video: 'waving'" in said
    (root / "jumping").mkdir()
    assert "passed over: 2 class folders without a video: 'jumping', 'waving'" in prepare("folder", at_root)[1]
