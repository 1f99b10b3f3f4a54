"""A checkpoint's folder: complete, used in place of a file, and enough for a program without torch."""

import json
import shutil
import subprocess
import sys
import venv

import pytest

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint, predict_videos
from m2clip_lib.files import file_sha256
from m2clip_lib.models import M2CLIP
from m2clip_lib.ship.folder import export, write_folder

pytestmark = pytest.mark.xdist_group("exported")

EXAMPLE = paths.ROOT / "docs" / "onnx_example.py"
WITHOUT_TORCH = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "open_clip", "m2clip_lib"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
example, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(example, run_name="__main__")
"""


def best_three(output):
    """What the example prints: [(label, percent)]."""
    return [(line.split("%")[1].strip(), float(line.split("%")[0])) for line in output.splitlines()]


def test_a_folder_holds_weights_card_class_names_and_protocol(exported, demo_file):
    folder, _ = exported
    names = ["README.md", "best.safetensors", "class_names.txt", "model.json", "text.onnx", "video.onnx"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert file_sha256(folder / "best.safetensors") == file_sha256(demo_file)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert about["class_names"][:2] == ["moving left", "moving right"]
    assert (folder / "class_names.txt").read_text(encoding="utf-8").split("\n")[:-1] == about["class_names"]
    assert about["prompts"][0] == "A video of moving left"
    clip = {"frames": 8, "stride": 0, "image_size": 64, "clips_per_video": 1, "crop": "centre", "training_clip_s": 0.0}
    assert about["clip"] == clip | {"resize": "short side to image_size, bicubic, by FFmpeg's scaler"}
    assert about["scores"] == {"similarity_scale": 100.0, "similarity_weight": 0.5}
    assert about["checkpoint_sha256"] == file_sha256(demo_file)
    assert about["graphs"]["video.onnx"]["input"] == {"frames": {"type": "uint8", "shape": ["batch", 8, 3, 64, 64]}}
    assert about["graphs"]["text.onnx"]["input"] == {"tokens": {"type": "int64", "shape": ["batch", 16]}}
    assert {name: graph["sha256"] for name, graph in about["graphs"].items()} == {
        name: file_sha256(folder / name) for name in ("video.onnx", "text.onnx")
    }


def test_a_folder_is_used_like_its_checkpoint(exported, demo_file, video_folder):
    folder, video = exported[0], min(video_folder.rglob("*.mp4"))
    assert predict_videos([video], folder) == predict_videos([video], demo_file)
    model = M2CLIP.from_checkpoint(folder, open_checkpoint(demo_file)[0].backbone)
    assert model.source == str(folder / "best.safetensors")


def test_graphs_of_an_earlier_export_stay_listed_while_they_are_there(exported, demo_file, tmp_path, workspace):
    shutil.copytree(exported[0], tmp_path / "copy")
    (tmp_path / "copy" / "text.onnx").unlink()
    write_folder(demo_file, tmp_path / "copy", {"video.pt2": {}})
    about = json.loads((tmp_path / "copy" / "model.json").read_text(encoding="utf-8"))
    assert list(about["graphs"]) == ["video.onnx", "video.pt2"]


def test_a_folder_with_another_checkpoint_is_left_as_it_is(demo_file, tmp_path, workspace):
    open_checkpoint(demo_file)[0].save(tmp_path / "other" / "best.safetensors")
    before = file_sha256(tmp_path / "other" / "best.safetensors")
    with pytest.raises(UserError, match=r"other: holds another checkpoint, .*best\.safetensors; give another folder"):
        export(demo_file, tmp_path / "other", None)
    with pytest.raises(UserError, match="holds another checkpoint"):
        write_folder(demo_file, tmp_path / "other")
    assert file_sha256(tmp_path / "other" / "best.safetensors") == before
    assert not (tmp_path / "other" / "model.json").exists()
    with pytest.raises(UserError, match="is a file; give a folder"):
        export(demo_file, demo_file, None)


@pytest.mark.parametrize("held", [{"README.md": "my project"}, {"model.json": "{}"}, {"best.safetensors": None, "model.json": "{}"}])
def test_files_of_something_else_are_not_written_over(demo_file, tmp_path, workspace, held):
    for name, text in held.items():
        (tmp_path / name).write_bytes(demo_file.read_bytes() if text is None else text.encode())
    with pytest.raises(UserError, match=r"of no export; .*give another folder"):
        export(demo_file, tmp_path, None)
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} - {"config.py"} == set(held)
    assert all((tmp_path / name).read_text() == text for name, text in held.items() if text is not None)


def test_an_export_has_to_be_asked_for(demo_file):
    with pytest.raises(UserError, match="nothing to write; give --onnx DIR, or --torch-export DIR"):
        export(demo_file, None, None)


@pytest.mark.parametrize(("kind", "stride"), [("*.mp4", 0), ("*.mkv", 0), ("*.mp4", 2)])
def test_the_example_needs_no_torch_and_answers_like_predict(exported, demo_file, video_folder, tmp_path, kind, stride):
    folder, video, checkpoint = exported[0], min(video_folder.rglob(kind)), demo_file
    if stride:
        open_checkpoint(demo_file)[0].save(checkpoint := tmp_path / "strided.safetensors", stride=stride)
        shutil.copytree(folder, folder := tmp_path / "strided")
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        about["clip"]["stride"] = stride
        (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLE), str(folder), str(video)]
    shown = best_three(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (found,) = predict_videos([video], checkpoint, top=3)
    assert [name for name, _ in shown] == [name for name, _ in found.top]
    assert [percent for _, percent in shown] == pytest.approx([100 * score for _, score in found.top], abs=0.051)


def test_the_blocked_import_is_blocked(tmp_path):
    (tmp_path / "asks.py").write_text("import torch")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "asks.py")], capture_output=True, text=True, check=False)
    assert "torch is not installed here" in done.stderr


def test_the_example_is_short():
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 30


@pytest.mark.slow
def test_the_example_runs_where_only_its_three_packages_are_installed(exported, demo_file, video_folder, tmp_path):
    """Makes a fresh virtual environment with pip; needs the package index. About a minute."""
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy", "av"], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 1
    video = min(video_folder.rglob("*.mp4"))
    clean = {"PATH": "/usr/bin:/bin"}  # without PYTHONPATH
    done = subprocess.run([python, EXAMPLE, exported[0], video], capture_output=True, text=True, check=True, env=clean, cwd=tmp_path)
    (found,) = predict_videos([video], demo_file, top=1)
    assert best_three(done.stdout)[0][0] == found.top[0][0]
