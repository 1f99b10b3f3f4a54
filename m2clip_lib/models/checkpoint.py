"""Our checkpoint file: the trainable tensors as safetensors, with everything needed to use them in its header."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from m2clip_lib.data.prompts import prompt_texts
from m2clip_lib.errors import UserError
from m2clip_lib.files import DamagedFile, open_sealed, seal, write_atomically, write_json
from m2clip_lib.models.backbone import Backbone, M2CLIPConfig
from m2clip_lib.models.foreign import load_published
from m2clip_lib.models.sources import refuse_not_finite

WEIGHTS = "best.safetensors"  # in a checkpoint's folder
FORMAT, UNSEALED = "m2clip-workbook/2", "m2clip-workbook/1"  # UNSEALED: of earlier versions, without a digest


@dataclass(frozen=True)
class CheckpointInfo:
    """The header of a checkpoint, readable without a backbone."""

    format: str
    config: M2CLIPConfig
    prompts: list[str]
    backbone_source: str
    backbone_sha256: str
    preprocessing: dict
    extra: dict


def save_checkpoint(model, path: str | Path, **extra: object) -> None:
    """Write `path` (.safetensors) and a readable JSON side file, atomically. extra: further facts about the run."""
    path, backbone = Path(path), model.backbone
    header = {
        "format": FORMAT,
        "config": dataclasses.asdict(model.config),
        "prompts": prompt_texts(model.config.prompts()),
        "backbone": {"source": backbone.source, "sha256": backbone.sha256},
        "preprocessing": {"image_size": backbone.image_size, "mean": backbone.mean, "std": backbone.std},
        "extra": extra,
    }
    content = seal(model.saved_state(), {"m2clip": json.dumps(header)})
    write_atomically(path, lambda file: file.write_bytes(content))
    # The time is in the side file alone: equal trainings are equal weight files.
    write_json(path.with_suffix(".json"), header | {"saved": datetime.now(UTC).isoformat()})


def existing(path: str | Path) -> Path:
    """The path of a checkpoint's file; for a folder, of its best.safetensors. Raises: UserError when there is no such file."""
    file = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"checkpoint: no such file: {file}; train first, or give another file")
    return file


def is_ours(path: str | Path) -> bool:
    """Whether a file is in our format, going by its name; the others are third-party files, which name no classes."""
    return Path(path).suffix == ".safetensors"


def read_checkpoint_info(path: str | Path) -> CheckpointInfo:
    """Read the header. Raises: UserError when the file is missing, damaged, or not one of ours."""
    path = existing(path)
    if not is_ours(path):
        nameless = f"{path}: no .safetensors of this workbook; a published file names neither its backbone nor its classes"
        raise UserError(f"{nameless}; score it with: m2clip eval EXPERIMENT --checkpoint {path} -o backbone.source=CLIP")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("m2clip", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors checkpoint ({error}); copy it again, or train again") from error
    if header.get("format") not in (FORMAT, UNSEALED):
        raise UserError(f"{path}: not a checkpoint of this workbook (no {FORMAT!r} in its header); give another file")
    try:
        config = TypeAdapter(M2CLIPConfig).validate_python(header["config"])
        backbone = [header["backbone"][key] for key in ("source", "sha256")]
        return CheckpointInfo(header["format"], config, header["prompts"], *backbone, header["preprocessing"], header["extra"])
    except (KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged (missing or invalid in its header: {reason}); copy it again, or train again") from error


def read_checkpoint(path: str | Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """Read header and tensors. Raises: UserError as read_checkpoint_info, and when the bytes are not those that were saved."""
    path, info = existing(path), read_checkpoint_info(path)
    try:
        return info, load(path.read_bytes()) if info.format == UNSEALED else open_sealed(path)[0]
    except DamagedFile as damage:
        raise UserError(f"{path}: damaged ({damage}); copy it again, or train again") from damage


def load_checkpoint(model_class: type, path: str | Path, backbone: Backbone, num_frames: int | None = None):
    """Rebuild a model on its backbone: from our .safetensors, or from a third-party file (see models/foreign.py).

    num_frames: clip length, instead of the one the file was trained with; most third-party files do not record theirs (default 8).
    Raises: UserError when the file is none of these, is damaged, holds a value that is not finite, or was trained on another backbone
        (it names the first such, or the first differing, tensor).
    """
    path = existing(path)
    if not is_ours(path):
        return load_published(model_class, path, backbone, num_frames)
    info, found = read_checkpoint(path)
    model = model_class(backbone, info.config if num_frames is None else dataclasses.replace(info.config, num_frames=num_frames))
    trained_on, this = repr(info.backbone_source), repr(backbone.source)
    for name, value in model.saved_state().items():
        if name not in found or found[name].shape != value.shape:
            shape = tuple(found[name].shape) if name in found else "missing"
            sizes = f"tensor {name} is {shape} in the file and {tuple(value.shape)} on backbone {this}"
            raise UserError(f"{path}: {sizes}; load the backbone it was trained on, {trained_on}")
    if info.backbone_sha256 != backbone.sha256:
        digests = f"{trained_on} (sha256 {info.backbone_sha256[:12]}), not on {this} (sha256 {backbone.sha256[:12]})"
        raise UserError(f"{path}: trained on backbone {digests}; load that backbone")
    refuse_not_finite(path, found)
    model.load_state_dict(found, strict=False)
    model.source = str(path)
    return model.eval()
