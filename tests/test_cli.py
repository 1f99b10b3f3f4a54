"""The command line: what it does, and that bad input ends with one line that says what is wrong, where, and what to do."""

import itertools
import json
import shlex
import shutil
import subprocess
import sys

import forked
import pandas as pd
import pytest
import torch
import typer

from m2clip_lib import cli, paths
from m2clip_lib.cli import COMMANDS, app
from m2clip_lib.data.video.decode import load_decoder
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.moments import live

pytestmark = pytest.mark.xdist_group("trained")


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process and return (status, stdout, stderr)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


def assert_one_line(status: int, err: str, *expected: str) -> None:
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("m2clip: ")
    assert "Traceback" not in err
    for part in expected:
        assert part in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run nosuch", ["'nosuch'", "it has: tiny, folder"]),
        ("run tiny -p NUMBR=3", ["-p NUMBR=3", "RELABELLINGS"]),
        ("run tiny -p RELABELLINGS=many", ["RELABELLINGS is of type int"]),
        ("run tiny -p RUN=other", ["RUN is set by the command itself"]),
        ("run tiny -o train.epoch=3", ["-o train.epoch=3", "no field 'epoch'", "epochs"]),
        ("run tiny -o trian.epochs=3", ["-o trian.epochs=3", "backbone, model, data, train, eval"]),
        ("run tiny -o train.epochs", ["expected section.field=value"]),
        ("run tiny -o epochs=2", ["did you mean -o train.epochs=2?"]),
        ("run tiny -o train.epochs=0", ["train.epochs = 0", "greater than or equal to 1"]),
        ("train tiny -o train.lr=fast", ["train.lr = 'fast'"]),
        ("eval tiny -o eval.split=train", ["eval.split = 'train'", "'val' or 'test'"]),
        ("run tiny --only 07", ["--only 07: no such step", "05_ablations"]),
        ("run tiny --from 03 --only 04", ["--from and --only exclude each other"]),
        ("run tiny --run a/b", ["--run 'a/b'"]),
        ("train tiny --run ../b", ["--run '../b'"]),
        ("train tiny", ["manifest: none at", "m2clip prepare tiny"]),
        ("eval tiny", ["checkpoint: experiment 'tiny' has none", "m2clip train tiny"]),
        ("predict clip.mp4", ["checkpoint: experiment 'tiny' has none", "--checkpoint"]),
        ("predict clip.mp4 --top 0", ["--top", "greater than or equal to 1"]),
        ("predict", ["VIDEO"]),
        ("predict clip.mp4 --window 3", ["--window, --every, --picture and --threshold belong to --timeline"]),
        ("predict clip.mp4 --timeline --every -1", ["--every"]),
        ("predict clip.mp4 --timeline --merge 1", ["--min-length, --merge, --export and --out belong to --threshold"]),
        ("predict clip.mp4 --timeline --threshold 0.5 --export vtt", ["--export FORMAT and --out DIR belong together"]),
        (
            "predict clip.mp4 --timeline --threshold 0.5 --export vtt,srt --out x",
            ["--export vtt,srt: 'srt' is not one of csv, json"],
        ),
        (
            "predict a.mp4 b/a.mov --timeline --threshold 0.5 --export eaf --out x",
            ["--export: a.mp4 and b/a.mov would be written to the same file"],
        ),
        ("predict --folder b --burn b/c", ["--burn b/c: lies in b", "give a folder outside"]),
        ("predict a.mp4 --folder b", ["give one VIDEO or more, or --folder DIR, or --stream URL, or --camera N: one of them alone"]),
        ("predict a.mp4 --csv b.csv", ["--csv, --burn and --workers belong to --folder"]),
        ("predict --camera 0 --timeline", ["--timeline is for videos"]),
        ("predict a.mp4 b.mp4 --timeline --picture a.png", ["--picture: draws one video, 2 were given"]),
        ("prepare folder --folder /nowhere/at/all", ["no such folder: /nowhere/at/all"]),
        ("trian tiny", ["trian"]),
        ("train tiny --epochs 3", ["--epochs"]),
        ("train tiny --run", ["--run"]),
        ("train tiny extra", ["extra"]),
    ],
)
def test_wrong_input_ends_with_one_line_and_changes_nothing(workspace, capsys, arguments, expected):
    status, _, err = call(capsys, *arguments.split())
    assert_one_line(status, err, *expected)
    assert not list(workspace.rglob("*.safetensors"))


def test_a_mistyped_option_leaves_no_folder_behind(workspace, capsys):
    for arguments in ("run tiny -o train.epoch=3", "run tiny -p NUMBR=3", "run nosuch", "train tiny --run a/b"):
        call(capsys, *arguments.split())
    assert not paths.RESULTS.exists()


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize("place", ["", "tiny"])
def test_a_results_path_that_is_a_file_ends_with_one_line(workspace, capsys, command, place):
    file = paths.RESULTS / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("in the way")
    status, _, err = call(capsys, command, "tiny")
    assert_one_line(status, err, str(file), "is a file", "--run")


def prepared(trained) -> str:
    return f"data.prepared={trained[0] / 'data' / 'tiny'}"


def test_missing_backbone_weights_end_with_one_line(trained, workspace, capsys):
    status, _, err = call(capsys, "train", "tiny", "-o", prepared(trained), "-o", "backbone.source=/nowhere/ViT-B-16.pt")
    assert_one_line(status, err, "backbone weights: no such file: /nowhere/ViT-B-16.pt")


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("options", [(), ("data.cache_frames=false",)])
def test_a_decoder_that_is_not_installed_ends_with_one_line_and_trains_nothing(trained, workspace, capsys, monkeypatch, command, options):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setattr("m2clip_lib.experiment.load_decoder", load_decoder.__wrapped__)
    file = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    chosen = ["--checkpoint", file] if command == "eval" else []
    settings = [part for option in (prepared(trained), "data.decoder=torchcodec", *options) for part in ("-o", option)]
    status, _, err = call(capsys, command, "tiny", *chosen, *settings)
    assert_one_line(status, err, "data.decoder torchcodec: torchcodec is not installed", "pip install torchcodec", "data.decoder to auto")
    assert not list(workspace.glob("checkpoints/**/*.safetensors"))


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_a_file_that_is_not_a_checkpoint_ends_with_one_line(trained, workspace, capsys, content):
    file = workspace / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    status, _, err = call(capsys, "eval", "tiny", "--checkpoint", file, "-o", prepared(trained))
    assert_one_line(status, err, str(file))
    status, _, err = call(capsys, "predict", "--checkpoint", file, "clip.mp4")
    assert_one_line(status, err, str(file))


def test_debug_shows_the_traceback_at_any_position(workspace, capsys):
    for arguments in (["--debug", "train", "nosuch"], ["train", "nosuch", "--debug"]):
        with pytest.raises(UserError, match="nosuch"):
            cli.main(arguments)


def test_a_bad_notebook_input_ends_run_with_one_line(workspace, capsys):
    """Runs notebook 04 alone, with nothing prepared: starts one kernel."""
    status, _, err = call(capsys, "run", "tiny", "--only", "04")
    assert_one_line(status, err, "04_evaluation failed in cell", "manifest: none at", "m2clip prepare tiny")


def test_prediction_names_missing_files_and_answers_for_the_others(trained, workspace, video_folder, capsys):
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    status, _, err = call(capsys, "predict", "/nowhere/clip.mp4", "--checkpoint", checkpoint)
    assert_one_line(status, err, "/nowhere/clip.mp4: missing; not predicted")
    good = sorted(video_folder.rglob("*.mp4"))[0]
    status, out, err = call(capsys, "predict", "/nowhere/clip.mp4", good, "--checkpoint", checkpoint, "--top", 2)
    assert_one_line(status, err, "/nowhere/clip.mp4: missing")
    assert out.splitlines()[0] == f"{good}  (ensemble)"
    assert len(out.splitlines()) == 3
    status, out, err = call(capsys, "predict", good, "--checkpoint", checkpoint, "--json", "--labels", "run,walk")
    assert (status, err) == (0, "")
    (found,) = json.loads(out)
    assert (found["path"], found["readout"], found["error"]) == (str(good), "similarity", "")
    assert {entry["label"] for entry in found["top"]} == {"run", "walk"}


def test_weights_that_are_not_finite_end_eval_and_predict_with_one_line(trained, workspace, video_folder, capsys):
    """eval wrote a table (8.3 % top-1, 100 % recall for class 0); predict printed "nan %"."""
    folder = trained[0] / "checkpoints" / "tiny"
    model = open_checkpoint(folder / "best.safetensors")[0]
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save(workspace / "bad.safetensors", stride=0)
    status, out, err = call(capsys, "eval", "tiny", "--checkpoint", workspace / "bad.safetensors", "-o", prepared(trained))
    assert_one_line(status, err, "bad.safetensors: tensor classifier.bias is not finite")
    assert out == ""
    assert not list(paths.RESULTS.rglob("*.csv"))
    good = sorted(video_folder.rglob("*.mp4"))[0]
    for option in ([], ["--timeline"], ["--json"]):
        status, out, err = call(capsys, "predict", good, "--checkpoint", workspace / "bad.safetensors", *option)
        assert_one_line(status, err, "bad.safetensors: tensor classifier.bias is not finite")
        assert out == ""


def test_scores_that_are_not_finite_end_predict_with_one_line(trained, workspace, video_folder, capsys):
    model = open_checkpoint(trained[0] / "checkpoints" / "tiny" / "best.safetensors")[0]
    torch.nn.init.constant_(model.classifier.weight, 3e38)  # finite, but not what comes of it
    model.save(workspace / "large.safetensors", stride=0)
    good = sorted(video_folder.rglob("*.mp4"))[0]
    for option in ([], ["--timeline"]):
        status, out, err = call(capsys, "predict", good, "--checkpoint", workspace / "large.safetensors", *option)
        assert_one_line(status, err, "large.safetensors: the scores of", "are not finite", str(good))
        assert out == ""


def test_a_timeline_is_printed_as_a_table_or_json_and_drawn(trained, workspace, video_folder, capsys):
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    good = sorted(video_folder.rglob("*.mp4"))[0]  # 12 frames at 8 per second: 1.5 s
    common = ("predict", good, "--checkpoint", checkpoint, "--timeline", "--window", 1, "--every", 0.5, "--top", 2)
    picture = workspace / "when.png"
    status, out, err = call(capsys, *common, "--picture", picture)
    assert status == 0
    assert err.strip() == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    head, first, second = out.splitlines()
    assert head == f"{good}  (ensemble)"
    assert first.split("s  ")[0].split() == ["0.0", "to", "1.0"]
    assert second.split("s  ")[0].split() == ["0.5", "to", "1.5"]
    assert first.count("%") == 2
    status, out, _ = call(capsys, *common, "--json", "--labels", "run,walk")
    assert status == 0
    found = json.loads(out)
    assert (found["path"], found["readout"]) == (str(good), "similarity")
    assert [(window["start_s"], window["end_s"], window["error"]) for window in found["windows"]] == [(0.0, 1.0, ""), (0.5, 1.5, "")]
    status, _, err = call(capsys, *common, "--picture", "when.jpg")
    assert_one_line(status, err, "--picture when.jpg", ".png")


def test_segments_of_several_videos_are_printed_and_exported_without_a_second_run_of_the_model(
    trained, workspace, video_folder, capsys, monkeypatch
):
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    videos = sorted(video_folder.rglob("*.mp4"))[:2]
    common = ("predict", *videos, "--checkpoint", checkpoint, "--timeline", "--window", 1, "--every", 0.5)
    status, out, err = call(capsys, *common, workspace / "gone.mp4", "--top", 1)
    assert_one_line(status, err, "gone.mp4: missing; not predicted")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [f"{path}  (ensemble)" for path in videos]
    monkeypatch.setattr("m2clip_lib.moments.windows.video_timeline", None)  # would end the command if a model ran
    status, out, err = call(capsys, *common, "--threshold", 0, "--export", "csv,vtt", "--out", workspace / "out")
    assert status == 0
    assert out.count(" 0.0 to     1.5 s") == 24  # at threshold 0 each of twelve classes is one segment of 1.5 s
    written = [workspace / "out" / name for name in ("segments.csv", f"{videos[0].stem}.vtt", f"{videos[1].stem}.vtt")]
    assert err.splitlines() == [f"written: {file}" for file in written]
    assert len(pd.read_csv(written[0])) == 24
    status, out, _ = call(capsys, *common, "--threshold", 1, "--json")
    assert [video["segments"] for video in json.loads(out)] == [[], []]
    _, out, _ = call(capsys, *common, "--threshold", 1)
    assert out.count("no segment: no class is scored that high for that long") == 2


def test_a_folder_is_predicted_into_a_table_and_burnt_copies(trained, workspace, video_folder, capsys):
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    folder = workspace / "mine" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(next(video_folder.rglob("*.avi")), folder / "a.avi")
    (folder / "b.mp4").write_bytes(b"no video")
    common = ("predict", "--folder", workspace / "mine", "--checkpoint", checkpoint, "--top", 1)
    status, out, err = call(capsys, *common, "--csv", workspace / "table.csv", "--burn", workspace / "burnt")
    assert status == 0  # some were read
    assert out.startswith(f"{folder / 'a.avi'}  ")
    assert err.splitlines()[-2].startswith(f"m2clip: {folder / 'b.mp4'}: cannot be opened")
    assert err.splitlines()[-1] == f"1 of 2 videos predicted; table: {workspace / 'table.csv'}"
    assert pd.read_csv(workspace / "table.csv").path.tolist() == [str(folder / "a.avi"), str(folder / "b.mp4")]
    assert (workspace / "burnt" / "deep" / "a.avi.mp4").is_file()
    (folder / "a.avi").unlink()
    status, out, err = call(capsys, *common)
    assert (status, out) == (2, "")
    assert "0 of 1 videos predicted" in err


def test_a_stream_prints_a_line_per_window_and_ends_with_their_number(trained, workspace, video_folder, capsys, monkeypatch):
    checkpoint = trained[0] / "checkpoints" / "tiny" / "best.safetensors"
    video = next(video_folder.rglob("*.mp4"))  # 12 frames at 8 per second
    command = ("predict", "--stream", video, "--checkpoint", checkpoint, "--window", 0.5, "--every", 0.5, "--top", 1)
    status, out, err = call(capsys, *command)
    assert (status, err) == (0, "")
    assert [line.split("s  ")[0].split() for line in out.splitlines()[:-1]] == [
        ["0.0", "to", "0.5"],
        ["0.5", "to", "1.0"],
        ["1.0", "to", "1.5"],
    ]
    assert out.splitlines()[-1] == "3 windows"

    def interrupted(*arguments):
        yield from itertools.islice(watch(*arguments), 2)
        raise KeyboardInterrupt

    watch = live.watch
    monkeypatch.setattr(live, "watch", interrupted)
    status, out, err = call(capsys, *command)
    assert (status, err) == (130, "m2clip: interrupted\n")
    assert out.splitlines()[-1] == "2 windows"


def test_search_prints_moments_as_lines_or_json(trained, workspace, video_folder, capsys):
    status, out, err = call(capsys, "search", "a red square", "--folder", video_folder, "--top", 3)
    assert (status, len(out.splitlines())) == (0, 3), err
    status, out, _ = call(capsys, "search", "a red square", "--folder", video_folder, "--top", 2, "--json")
    assert [list(moment) for moment in json.loads(out)] == [["path", "start_s", "end_s", "score"]] * 2
    assert_one_line(*call(capsys, "search", " ", "--folder", video_folder)[::2], "search: the sentence is empty")
    status, _, err = call(capsys, "search", "a red square")
    assert_one_line(status, err, "manifest: none at", "m2clip prepare tiny")
    status, out, _ = call(capsys, "search", "a red square", "-o", prepared(trained), "--top", 2, "--per-video", 1, "--json")
    assert all("videos" in moment["path"] for moment in json.loads(out))
    assert status == 0


def test_a_users_folder_is_prepared_trained_evaluated_and_predicted(workspace, video_folder, capsys):
    """Prepare starts worker processes that import torch: about 10 s."""
    data = workspace / "my data"  # with a space
    status, out, _ = call(capsys, "prepare", "folder", "--folder", video_folder, "--out", data)
    assert status == 0
    assert f'next: m2clip train folder -o "data.prepared={data}"' in out
    assert (data / "manifest.parquet").is_file()
    assert pd.read_csv(data / "unreadable.csv").empty
    status, out, _ = call(capsys, "prepare", "folder", "--folder", video_folder, "--out", data)
    assert "is up to date (12 videos)" in out
    status, out, _ = call(capsys, "train", "folder", "--run", "mine", "-o", f"data.prepared={data}")
    assert status == 0
    assert "epoch 1/1" in out
    assert "best: epoch 1, validation top-1" in out
    for name in ("best.safetensors", "best.json", "last.safetensors", "last.json"):
        assert (paths.CHECKPOINTS / "mine" / name).is_file()
    status, out, _ = call(capsys, "eval", "folder", "-o", f"data.prepared={data}")  # finds the last run by itself
    assert status == 0
    assert f"tables: {paths.RESULTS / 'mine' / 'tables'}" in out
    assert "–" in out.splitlines()[1]  # top-5 of two classes: it said 100
    assert "wilson" in out.splitlines()[1]
    accuracy = pd.read_csv(paths.RESULTS / "mine" / "tables" / "accuracy.csv")
    assert accuracy.readout.tolist() == ["similarity", "classifier", "ensemble"]
    assert accuracy.videos.tolist() == [1, 1, 1]  # 15 % of twelve recordings, as their names fall
    assert "direction" in accuracy  # "moving left" and "moving right" are opposites
    run = json.loads((paths.RESULTS / "mine" / "run.json").read_text())
    assert set(run["steps"]) == {"train", "eval"}
    assert run["steps"]["train"]["sha256"]["checkpoint"] == run["steps"]["eval"]["sha256"]["checkpoint"]
    assert set(run["sha256"]) == {"manifest", "labels", "backbone"}
    videos = sorted(video_folder.rglob("*.webm"))
    status, out, _ = call(capsys, "predict", *videos, "--checkpoint", paths.CHECKPOINTS / "mine" / "best.safetensors", "--json")
    assert status == 0
    assert [entry["path"] for entry in json.loads(out)] == [str(path) for path in videos]
    assert all(abs(sum(label["score"] for label in entry["top"]) - 1) < 1e-4 for entry in json.loads(out))


def python(*arguments: object, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_two_scripts_of_the_seed_still_work_from_anywhere(trained, workspace):
    done = forked.run(paths.ROOT / "train.py", "tiny", "--run", "script", "-o", prepared(trained), cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "best: epoch 1" in done.stdout
    done = forked.run(paths.ROOT / "eval.py", "tiny", "-o", prepared(trained), cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "ensemble" in done.stdout
    ours, workbooks = (pd.read_csv(folder / "tables" / "accuracy.csv") for folder in (paths.RESULTS / "script", trained[1]))
    pd.testing.assert_frame_equal(ours, workbooks)  # the same training as in the notebooks


def test_a_process_ends_with_status_2_and_one_line(workspace):
    done = python("-m", "m2clip_lib", "train", "nosuch", cwd=workspace)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.returncode, done.stderr, "'nosuch'")


def test_help_lists_the_commands_and_imports_neither_torch_nor_pandas(workspace):
    code = "import sys, m2clip_lib.cli as cli\ntry: cli.main(['--help'])\nfinally: print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = python("-c", code, cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("run", "prepare", "train", "eval", "predict", "bench"):
        assert f"  {command}" in done.stdout
    assert "tables to results/NAME/tables." in done.stdout  # no sentence is cut


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(capsys, command, shipped):
    status, out, err = call(capsys, command, "--help")
    assert (status, err) == (0, "")
    example = COMMANDS[command][1]
    assert " ".join(out.split()).endswith(f"Example: {example}")
    program, name, *arguments = shlex.split(example)
    assert (program, name) == ("m2clip", command)
    typer.main.get_command(app).commands[command].make_context(command, arguments)  # is understood; runs nothing


@pytest.mark.parametrize("backend", ["TkAgg", "no such backend"])
def test_commands_draw_without_a_display_whatever_the_backend(workspace, monkeypatch, backend):
    monkeypatch.setenv("MPLBACKEND", backend)
    monkeypatch.delenv("DISPLAY", raising=False)
    draw = "from m2clip_lib.viz.style import new_figure, png_bytes; print(png_bytes(new_figure()[0])[1:4])"
    done = python("-c", f"from m2clip_lib import cli\ntry: cli.main(['--help'])\nfinally: {draw}", cwd=workspace)
    assert done.stdout.splitlines()[-1] == "b'PNG'", done.stderr


def test_no_arguments_show_the_help(capsys):
    status, out, _ = call(capsys)
    assert status == 0
    assert "M2CLIP workbook" in out


def test_eval_takes_several_checkpoints_and_mixes_each_and_repeats_nothing(trained, workspace, capsys, monkeypatch):
    """At mix 0 both are frozen CLIP, whatever was trained; each checkpoint has a run of its own."""
    root = trained[0] / "checkpoints" / "tiny" / "ablations"
    files = [root / name / "best.safetensors" for name in ("full-seed0", "full-seed1")]
    chosen = [part for file in files for part in ("--checkpoint", file)]
    command = ("eval", "tiny", *chosen, "--mix", "0,1", "-o", prepared(trained), "-o", "eval.honesty=false")
    status, _, err = call(capsys, *command)
    assert status == 0, err
    folders = sorted(folder for folder in (workspace / "results").iterdir() if not folder.name.startswith("."))
    assert len(folders) == 2
    tables = [pd.read_csv(folder / "tables" / "mix.csv") for folder in folders]
    frozen = [table[(table.mix == 0) & (table.readout == "similarity")].sort_values("split") for table in tables]
    assert frozen[0].top1.tolist() == frozen[1].top1.tolist()
    assert not any((folder / "tables" / "honesty.csv").exists() for folder in folders)
    monkeypatch.setattr("m2clip_lib.evaluate.evaluate.predict_orders", None)  # would end the command if anything were scored again
    assert call(capsys, *command)[0] == 0


@pytest.mark.slow
def test_without_honesty_the_evaluation_notebook_runs_and_makes_no_such_table(trained, workspace, capsys):
    """It was an error once: the notebook read a table that nobody had made."""
    for name in ("results", "checkpoints", "data"):
        shutil.copytree(trained[0] / name, workspace / name, dirs_exist_ok=True)
    for file in (workspace / "results" / "tiny").glob("*/honesty.*"):
        file.unlink()
    status, out, err = call(capsys, "run", "tiny", "--only", "04", "-o", "eval.honesty=false", "-p", "FRAMES=[]", "-p", "STUDY_VIDEOS=1")
    assert status == 0, out + err
    assert not (workspace / "results" / "tiny" / "tables" / "honesty.csv").exists()
    assert (workspace / "results" / "tiny" / "tables" / "calibration.csv").exists()
