"""Every command of README, docs and notebooks that needs no GPU, no download and no hour, run on a small demonstration: make test-docs."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from documents import NOTEBOOKS, PAGES, commands, is_synopsis, words

from m2clip_lib import paths

# Why some are not run here.
ELSEWHERE = {
    r"k400|ucf|hmdb|ssv2": "needs a dataset that has to be asked for",
    r"rtsp:|--camera": "needs a camera",
    r"--cluster slurm": "needs a cluster; tests/studies/test_jobs.py runs submitit's own executors",
    r"bench (all|train|eval)|two_commits|fused_|/segments\.py": "measures for minutes; tests/test_bench.py runs each on a small model",
    r"^make |pytest": "the suite itself, or the environment",
    r"--study all|pretrain|clip1": "trains for an hour; the other studies, and tests/train/test_pretrain.py, run the same code",
    r"13_transfer": "trains for eight minutes, on 48 classes; tests/studies/test_transfer.py runs its studies on few videos",
    r"OWNER/NAME": "needs an account of the Hub; tests/ship/test_hub.py runs both against a stand-in",
    r"checkpoints/study/": "follows the study of the README, which is run",
}
CONFIG = """
import runpy

_shipped = runpy.run_path({own!r})
STUDIES, DEFAULT_EXPERIMENT = _shipped["STUDIES"], _shipped["DEFAULT_EXPERIMENT"]
_short = {{"ablation_epochs": 1}}
_few = {{"train_videos": 48, "val_videos": 24, "test_videos": 24}}
EXPERIMENTS = {{
    name: each | {{"data": each["data"] | _few, "train": each["train"] | {{"epochs": 1}}, "eval": each.get("eval", {{}}) | _short}}
    if name.startswith("demo")
    else each
    for name, each in _shipped["EXPERIMENTS"].items()
}}
EXPERIMENTS["own_folder"]["data"] = EXPERIMENTS["own_folder"]["data"] | {{"root": {folder!r}}}
"""


def to_run():
    """(command as written, reason not to run it or "") of all pages, the README's first."""
    found = [command for page in [*PAGES, *NOTEBOOKS] for command in commands(page) if not is_synopsis(command) and len(words(command)) > 2]
    found.sort(key=lambda command: not command.startswith("m2clip run demo"))
    for command in dict.fromkeys(["m2clip run demo", *found]):
        yield command, next((reason for pattern, reason in ELSEWHERE.items() if re.search(pattern, command)), "")


@pytest.mark.slow_docs
@pytest.mark.timeout(3600)
def test_every_command_ends_well(tmp_path, video_folder, monkeypatch):
    """An hour's worth of commands, each after those that it builds on: trained models, own videos."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(own=str(paths.ROOT / "configs" / "config.py"), folder=str(video_folder)), encoding="utf-8")
    shutil.copytree(paths.ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("M2CLIP_CONFIG", str(config))
    for name in ("DATA", "RESULTS", "CHECKPOINTS"):
        monkeypatch.setenv(f"M2CLIP_{name}", str(tmp_path / name.lower()))
    some, other = sorted(video_folder.rglob("*.mp4"))[:2]
    values = {
        "EXPERIMENT": "demo",
        "DIR": str(video_folder),
        "N": "100",
        "VIDEO": str(some),
        "VIDEO2": str(other),
        "some_video.mp4": str(some),
        "OUT.ipynb": "out.ipynb",
        "docs/onnx_example.py": str(paths.ROOT / "docs" / "onnx_example.py"),
    }
    programs = {
        "m2clip": [sys.executable, "-m", "m2clip_lib"],
        "python": [sys.executable],
        "papermill": [sys.executable, "-m", "papermill"],
    }
    environment, failed = os.environ | {"PYTHONPATH": str(paths.ROOT)}, []
    for written, reason in to_run():
        print(f"{'-' if reason else '>'} {written}{f' ({reason})' if reason else ''}", flush=True)
        if reason:
            continue
        command = re.sub(r"--seeds \d+|\[0, 1, 2(, 3, 4)?\]", lambda m: "--seeds 1" if m[0].startswith("--") else "[0]", written)
        program, *arguments = [values.get(word, word) for word in words(command)]
        done = subprocess.run([*programs[program], *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(f"{command}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
            print(f"failed: {failed[-1]}", flush=True)
    assert not failed, "\n\n".join(failed)
