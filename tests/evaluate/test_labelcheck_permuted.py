"""A list permuted against its names, end to end: caught by the paths in prepare, or by frozen CLIP in prepare, train and notebook 02."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2clip_lib import cli
from m2clip_lib.data.demo.videos import write_video

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (250, 250, 250)}
EACH = 12


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


def test_prepare_of_a_permuted_list_ends_with_counts_and_three_examples(workspace, video_folder, capsys):
    (workspace / "names.txt").write_text("moving right\nmoving left\n")
    lines = [f"{file.relative_to(video_folder)} {int('right' in file.parent.name)}\n" for file in sorted(video_folder.rglob("clip*"))]
    (workspace / "train.txt").write_text("".join(lines))
    fields = {"layout": "list", "train_list": workspace / "train.txt", "names_file": workspace / "names.txt"}
    overrides = [word for name, value in fields.items() for word in ("-o", f"data.{name}={value}")]
    status, _, err = call(capsys, "prepare", "folder", *overrides)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "labels: 12 of 12 videos" in err
    assert err.count(" says ") == 3
    assert not (workspace / "data").exists()


@torch.inference_mode()
def names_that_fit(backbone, pictures: np.ndarray) -> list[str]:
    """One word per picture, chosen so that this CLIP (with random weights) answers each picture with its word."""
    clip, words = backbone.clip, [f"{a}{b}" for a, b in itertools.product("bcdfghklmnprst", "aeiou")]
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (backbone.mean, backbone.std))
    images = F.normalize(clip.encode_image((pixels - mean) / std), dim=-1)
    texts = F.normalize(clip.encode_text(backbone.tokenizer([f"A video of {word}" for word in words])), dim=-1)
    scores, rng = (images @ texts.T).numpy(), np.random.default_rng(0)
    draws = (rng.choice(len(words), len(pictures), replace=False) for _ in range(20_000))
    margin, best = 0.0, None
    for chosen in draws:
        found = np.sort(scores[:, chosen] - np.diag(scores[:, chosen])[:, None], axis=1)[:, -1]
        gap = np.diag(scores[:, chosen]) - np.where(np.eye(len(chosen)), -9, scores[:, chosen]).max(axis=1)
        if found.max() <= 0 and gap.min() > margin:
            margin, best = gap.min(), chosen
    assert best is not None
    return [words[i] for i in best]


@pytest.mark.slow
def test_training_and_notebook_02_stop_at_permuted_names_until_they_are_accepted(workspace, backbone, capsys):
    """Files in one folder, which CLIP can tell apart: no path names a class. Starts two kernels, about 30 s."""
    pictures = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in COLOURS.values()])
    words = names_that_fit(backbone, pictures)
    root, lines = workspace / "flat", []
    for label, picture in enumerate(pictures):
        for i in range(EACH):
            write_video(root / f"{label}_{i}.mp4", np.repeat(picture[None], 4 + i, axis=0), codec="libx264", options={})
            lines.append(f"{label}_{i}.mp4 {label}\n")
    lists = {"train_list": "".join(lines[::2]), "test_list": "".join(lines[1::2])}
    for name, text in lists.items():
        (workspace / f"{name}.txt").write_text(text)
    (workspace / "names.txt").write_text("\n".join(np.roll(words, 1)))
    fields = {"layout": "list", "root": root, "names_file": workspace / "names.txt", "hold_out": 0}
    fields |= {name: workspace / f"{name}.txt" for name in lists}
    overrides = [word for name, value in fields.items() for word in ("-o", f"data.{name}={value}")]
    status, out, _ = call(capsys, "prepare", "folder", *overrides)
    assert status == 0  # the manifest is written; permuted labels are only a warning
    assert "WARNING: labels: the class names are permuted" in out

    status, _, err = call(capsys, "train", "folder", *overrides)  # without notebook 02
    assert status == 2
    assert "the class names are permuted" in err
    assert err.count("look like") == 3
    assert not (workspace / "checkpoints" / "folder").exists()

    status, out, _ = call(capsys, "train", "folder", "--run", "sure", "--accept-labels", *overrides)
    assert status == 0
    assert "WARNING: ACCEPTED ALTHOUGH labels: the class names are permuted" in out
    verdict = json.loads((workspace / "data" / "folder" / "label_check.json").read_text())
    assert verdict["accepted"].startswith("ACCEPTED ALTHOUGH labels: the class names are permuted")
    assert json.loads((workspace / "results" / "sure" / "train.json").read_text())["warning"] == verdict["accepted"]

    status, _, err = call(capsys, "run", "folder", "--only", "02", *overrides)
    assert status == 2
    assert "the class names are permuted" in err
    assert len(re.findall("videos labelled '.*?' look like '.*?'", err)) == 3
    record = workspace / "results" / "folder" / "02_backbone_check.json"
    assert not record.exists()

    status, _, _ = call(capsys, "run", "folder", "--only", "02", "-p", "ACCEPT_PERMUTED_LABELS=true", *overrides)
    assert status == 0
    assert json.loads(record.read_text())["warning"].startswith("ACCEPTED ALTHOUGH labels: the class names are permuted")
    assert '<p class="warning">ACCEPTED ALTHOUGH' in Path(workspace / "results" / "folder" / "report.html").read_text(encoding="utf-8")
    status, out, _ = call(capsys, "train", "folder", *overrides)
    assert status == 0
    assert "WARNING: ACCEPTED ALTHOUGH" in out

    (workspace / "names.txt").write_text("\n".join(words))  # corrected: the manifest made from the old file is not used
    status, _, err = call(capsys, "train", "folder", "--run", "corrected", *overrides)
    assert status == 2
    assert "names.txt has changed since the manifest was made; make it again with: m2clip prepare folder" in err
    status, out, _ = call(capsys, "prepare", "folder", *overrides)
    assert status == 0
    assert "comparing the names with frozen CLIP on" in out
    assert "no other order of the names is clearly better" in out
    status, out, _ = call(capsys, "train", "folder", "--run", "corrected", *overrides)
    assert status == 0
    assert "comparing" not in out  # prepare has written the verdict
    assert "ACCEPTED" not in out
