"""Checkpoints on the Hugging Face Hub, through huggingface_hub, which alone knows the token: nothing here reads or writes one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.files import storage_error
from m2clip_lib.models.checkpoint import WEIGHTS, existing, read_checkpoint
from m2clip_lib.ship.folder import ABOUT, FILES, write_folder

TAKEN = (".safetensors", ".md", ".json", ".txt")  # none of them is code, or a pickle
NETWORK_ERRORS = (HfHubHTTPError.__bases__[0], HFValidationError, OSError)  # the first: of the HTTP library, which has changed


def push(checkpoint: Path, repo: str) -> str:
    """Send a checkpoint with its card to a repository, which is made, private, where there is none. Returns: its address.

    Args:
        checkpoint: a file, from which a complete folder is made; or a folder of write_folder's, which is sent with its .onnx files.
        repo: OWNER/NAME.
    Raises: UserError when the Hub cannot be reached, or refuses.
    """
    with TemporaryDirectory() as scratch:
        folder = checkpoint if (checkpoint / ABOUT).is_file() else Path(scratch)
        if folder == checkpoint:
            read_checkpoint(checkpoint)
        else:
            write_folder(existing(checkpoint), folder)
        with _explained(repo):
            hub = HfApi()
            hub.create_repo(repo, private=True, exist_ok=True)
            hub.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[*FILES, "*.onnx"], commit_message="M2CLIP checkpoint")
            return f"{hub.endpoint}/{repo}"


def pull(repo: str, folder: Path | None = None) -> Path:
    """Fetch a checkpoint's folder; of its files, only those that cannot hold code, and none of a folder in it. Returns: the folder.

    Args:
        folder: must not exist yet; by default NAME in checkpoints/.
    Raises: UserError when the folder exists, the Hub cannot be reached or refuses, or what came is not a checkpoint of this workbook.
    """
    folder = folder or paths.CHECKPOINTS / repo.rpartition("/")[2]
    if folder.exists():
        raise UserError(f"{folder}: exists, and is not overwritten; give another folder with --to")
    with _explained(repo):
        found = Path(snapshot_download(repo, allow_patterns=[f"*{ending}" for ending in TAKEN], ignore_patterns=["*/*", "*\\*"]))
    if not (found / WEIGHTS).is_file():
        raise UserError(f"Hugging Face Hub, {repo}: holds no {WEIGHTS}, so it is no checkpoint of this workbook; give another one")
    read_checkpoint(found)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        for file in sorted(found.iterdir()):
            if file.suffix in TAKEN and file.is_file():  # the cache may hold more, fetched by others
                shutil.copyfile(file, made / file.name)
        made.rename(folder)
    return folder


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn an error of the Hub, or of the way to it, into a UserError."""
    try:
        if repo.count("/") != 1:  # the Hub's own rule asks for no owner
            raise HFValidationError
        yield
    except NETWORK_ERRORS as error:
        cause = error
        while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__
        if (explained := storage_error(error)) and not isinstance(cause, HfHubHTTPError):
            raise explained from error
        raise UserError(f"Hugging Face Hub, {repo}: {_reason(cause)}") from error


def _reason(error: BaseException) -> str:
    login = "log in with: hf auth login, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return "not the name of a repository; give OWNER/NAME"
    if not isinstance(error, HfHubHTTPError):
        return f"cannot be reached ({type(error).__name__}); connect, and unset HF_HUB_OFFLINE"
    status = error.response.status_code
    if status in (401, 403):
        return f"not allowed (HTTP {status}), or there is no such repository; check the name, and {login}"
    if status == 404:
        return f"no such repository, or it is private; check the name, and {login}"
    return f"the Hub answered HTTP {status}; try again later"
