"""Push and pull, against a local stand-in for the Hub."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from ship_hub import Hub

from m2clip_lib import paths
from m2clip_lib.cli import main
from m2clip_lib.files import file_sha256

pytestmark = pytest.mark.xdist_group("exported")

TOKEN = "hf_" + "s3cret" * 6


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def m2clip(hub, workspace, monkeypatch, capsys):
    """Run a command with the stand-in's address and a token in the environment -> (status, output)."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    own = {"ENDPOINT": hub.address, "HF_HUB_CACHE": str(workspace / "hub")}  # read from the environment when Python starts
    own["HUGGINGFACE_CO_URL_TEMPLATE"] = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    for name, value in own.items():
        monkeypatch.setattr(constants, name, value)
    disable_progress_bars()

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert TOKEN not in shown.out + shown.err
        return ended.value.code, shown.out + shown.err

    yield call
    enable_progress_bars()


def files_below(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_the_commands_go_where_the_environment_says(hub, demo_file, workspace):
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(workspace / "home"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, "-m", "m2clip_lib", "push", str(demo_file), "someone/demo"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True, cwd=workspace)
    assert done.stdout == f"sent: {hub.address}/someone/demo\n"
    assert file_sha256(demo_file) == hashlib.sha256(hub.repositories["someone/demo"]["best.safetensors"]).hexdigest()
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in done.stdout + done.stderr
    assert not [file for file in files_below(workspace) if TOKEN.encode() in file.read_bytes()]


def test_what_was_pushed_is_pulled_and_no_file_holds_the_token(hub, m2clip, demo_file, workspace):
    status, said = m2clip("push", demo_file, "someone/demo")
    assert (status, said) == (0, f"sent: {hub.address}/someone/demo\n")
    sent = hub.repositories["someone/demo"]
    assert sorted(sent) == ["README.md", "best.safetensors", "class_names.txt", "model.json"]
    assert hub.private == {"someone/demo"}
    sent |= {"evil.pt": b"a pickle", "deep/evil.bin": b"a pickle", "run.py": b"print()", "weights.safetensors.pkl": b"a pickle"}
    sent |= {"../evil.txt": b"", "/evil.txt": b"", "..\\evil.txt": b"", "deep/evil.json": b"{}"}
    status, said = m2clip("pull", "someone/demo")
    assert status == 0, said
    folder = workspace / "checkpoints" / "demo"
    assert said == f"checkpoint: {folder}; use it with: m2clip predict VIDEO --checkpoint {folder}\n"
    assert sorted(file.name for file in files_below(folder)) == ["README.md", "best.safetensors", "class_names.txt", "model.json"]
    assert file_sha256(folder / "best.safetensors") == file_sha256(demo_file)
    assert not [call for call in hub.calls if "evil" in call or "run.py" in call or ".pkl" in call]
    assert f"Bearer {TOKEN}" in hub.tokens
    assert not [file for file in files_below(workspace) if TOKEN.encode() in file.read_bytes()]
    status, said = m2clip("pull", "someone/demo")
    assert (status, said) == (2, f"m2clip: {folder}: exists, and is not overwritten; give another folder with --to\n")


def test_an_exported_folder_is_sent_as_it_is_and_not_what_lies_beside(hub, m2clip, exported, workspace):
    folder = workspace / "out"
    shutil.copytree(exported[0], folder)
    (folder / "text.onnx").unlink()
    (folder / "README.md").write_text("my own card", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "last.safetensors").write_bytes(b"another")
    assert m2clip("push", folder, "someone/demo")[0] == 0
    sent = hub.repositories["someone/demo"]
    assert sorted(sent) == ["README.md", "best.safetensors", "class_names.txt", "model.json", "video.onnx"]
    assert sent["README.md"] == b"my own card"


def test_what_is_no_checkpoint_is_not_kept(hub, m2clip, workspace):
    hub.repositories["someone/other"] = {"best.safetensors": b"not weights", "README.md": b"a card"}
    status, said = m2clip("pull", "someone/other", "--to", workspace / "got")
    assert status == 2
    assert "not a readable safetensors checkpoint" in said
    assert said.count("\n") == 1
    assert not (workspace / "got").exists()


def test_a_repository_without_weights_is_named(hub, m2clip, workspace):
    hub.repositories["someone/card"] = {"README.md": b"a card"}
    status, said = m2clip("pull", "someone/card", "--to", workspace / "got")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("m2clip: Hugging Face Hub, someone/card: holds no best.safetensors")


def test_a_damaged_checkpoint_is_neither_sent_nor_kept(hub, m2clip, demo_file, workspace):
    content = demo_file.read_bytes()
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    (workspace / "bad.safetensors").write_bytes(damaged)
    hub.repositories["someone/bad"] = {"best.safetensors": damaged}
    for arguments in (("push", workspace / "bad.safetensors", "someone/new"), ("pull", "someone/bad", "--to", workspace / "got")):
        status, said = m2clip(*arguments)
        assert status == 2
        assert "damaged (its content does not match its digest); copy it again" in said
        assert said.count("\n") == 1
    assert list(hub.repositories) == ["someone/bad"]
    assert not (workspace / "got").exists()


@pytest.mark.parametrize(
    ("repo", "refuse", "changed", "words"),
    [
        ("someone/missing", 0, {}, "no such repository, or it is private; check the name, and log in with: hf auth login"),
        ("someone/missing", 401, {}, "not allowed (HTTP 401), or there is no such repository; check the name, and log in"),
        ("someone/missing", 403, {}, "not allowed (HTTP 403)"),
        ("a/b/c", 0, {}, "not the name of a repository; give OWNER/NAME"),
        ("demo", 0, {"HF_HUB_OFFLINE": True}, "not the name of a repository; give OWNER/NAME"),
        ("someone/demo", 0, {"ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached (ConnectError); connect"),
        ("someone/demo", 0, {"HF_HUB_OFFLINE": True}, "cannot be reached (OfflineModeIsEnabled); connect, and unset HF_HUB_OFFLINE"),
    ],
)
def test_an_error_of_the_hub_is_one_line(hub, m2clip, workspace, monkeypatch, repo, refuse, changed, words):
    hub.refuse = refuse
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
    status, said = m2clip("pull", repo, "--to", workspace / "got")
    assert status == 2
    assert said.startswith(f"m2clip: Hugging Face Hub, {repo}: {words}"), said
    assert said.count("\n") == 1
    assert not (workspace / "got").exists()


def test_a_push_that_is_refused_is_one_line(hub, m2clip, demo_file):
    hub.refuse = 401
    status, said = m2clip("push", demo_file, "someone/demo")
    assert status == 2
    assert said.startswith("m2clip: Hugging Face Hub, someone/demo: not allowed (HTTP 401)")
    assert said.count("\n") == 1
