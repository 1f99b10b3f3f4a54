"""A checkpoint's folder, complete: weights, card, class names, and model.json with the protocol; exported graphs beside them."""

import shutil
from pathlib import Path

from m2clip_lib import __version__
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.files import file_sha256, read_json, write_atomically, write_json
from m2clip_lib.models.checkpoint import WEIGHTS, existing, read_checkpoint_info
from m2clip_lib.models.losses import SCORE_SCALE
from m2clip_lib.runs import versions
from m2clip_lib.ship.card import model_card
from m2clip_lib.ship.graphs import text_graph, video_graph, write_onnx, write_pt2

FORMAT = "m2clip-folder/1"
RESIZING = {  # what a program has to do before it gives frames to a graph
    "fast": "short side to image_size, bicubic, by FFmpeg's scaler",
    "exact": "short side to image_size, bicubic without antialiasing, as torch does it; uint8 rounds what the model reads as floats",
}
ABOUT, CARD, NAMES = "model.json", "README.md", "class_names.txt"
FILES = (WEIGHTS, ABOUT, CARD, NAMES)


def export(checkpoint: Path, onnx: Path | None, torch_export: Path | None, text: bool = False) -> dict[Path, dict[str, float]]:
    """Write the video path, and on request the text encoder, into folders that are then complete.

    Args:
        onnx, torch_export: the folder of the .onnx files, and that of the .pt2 files; they may be the same.
    Returns: the largest differences from torch, by file and output. Raises: UserError; see write_onnx, write_pt2 and write_folder.
    """
    if onnx is None and torch_export is None:
        raise UserError("export: nothing to write; give --onnx DIR, or --torch-export DIR")
    checkpoint = existing(checkpoint)
    model, protocol = open_checkpoint(checkpoint)
    model.cpu()
    graphs = {"video": video_graph(model, protocol)} | ({"text": text_graph(model)} if text else {})
    made: dict[Path, dict[str, float]] = {}
    for folder in dict.fromkeys(folder for folder in (onnx, torch_export) if folder is not None):
        _refuse_another(folder, checkpoint)
        about = {}
        for name, graph in graphs.items():
            for wanted, ending, write in ((onnx, "onnx", write_onnx), (torch_export, "pt2", write_pt2)):
                if wanted == folder:
                    file = folder / f"{name}.{ending}"
                    made[file] = write(graph, file)
                    about[file.name] = graph.described(file, made[file])
        write_folder(checkpoint, folder, about)
    return made


def write_folder(checkpoint: Path, folder: Path, graphs: dict[str, dict] | None = None) -> None:
    """Write weights, card, class names and model.json.

    graphs: what Graph.described says of each exported file in the folder; those of an earlier export of the same checkpoint stay listed.
    Raises: UserError when the folder holds another checkpoint, or files of something else by these names, or the file is not one of ours.
    """
    checkpoint, about = existing(checkpoint), folder / ABOUT
    info, digest = read_checkpoint_info(checkpoint), file_sha256(checkpoint)
    _refuse_another(folder, checkpoint)
    if not (folder / WEIGHTS).is_file():
        write_atomically(folder / WEIGHTS, lambda place: shutil.copyfile(checkpoint, place))
    names, protocol = list(info.config.class_names), Protocol.of_checkpoint(info)
    write_atomically(folder / NAMES, lambda place: place.write_text("\n".join(names) + "\n", encoding="utf-8"))
    earlier = read_json(about)["graphs"] if about.is_file() else {}
    clip = {"frames": protocol.frames, "stride": protocol.stride, "image_size": info.preprocessing["image_size"]}
    clip |= {
        "resize": RESIZING[protocol.resize],
        "crop": "centre",
        "clips_per_video": protocol.num_views,
        "training_clip_s": protocol.clip_s,
    }
    content = {
        "format": FORMAT,
        "made_with": {"m2clip": __version__, "torch": versions()["torch"]},
        "checkpoint_sha256": digest,
        "backbone": {"source": info.backbone_source, "sha256": info.backbone_sha256},
        "class_names": names,
        "prompts": info.prompts,
        "clip": clip,
        "normalisation": {"inside_graphs": True, "mean": info.preprocessing["mean"], "std": info.preprocessing["std"]},
        "scores": {"similarity_scale": SCORE_SCALE, "similarity_weight": Predictions.weight},
        "graphs": {name: each for name, each in earlier.items() if (folder / name).is_file()} | (graphs or {}),
        "trained": info.extra,
    }
    write_json(about, content)
    card = model_card(checkpoint)
    write_atomically(folder / CARD, lambda place: place.write_text(card, encoding="utf-8"))


def _refuse_another(folder: Path, checkpoint: Path) -> None:
    """Raises: UserError when a folder holds what would be written over: files that are not of an export of this checkpoint."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder")
    held, about = folder / WEIGHTS, folder / ABOUT
    others = [name for name in FILES if (folder / name).exists()]  # the weights are written first
    if others and not held.is_file():
        raise UserError(f"{folder}: holds a file {others[0]} that is of no export; give another folder")
    if about.is_file() and "graphs" not in read_json(about):
        raise UserError(f"{about}: names no graphs, so it is of no export; remove it, or give another folder")
    if held.is_file() and file_sha256(held) != file_sha256(checkpoint):
        raise UserError(f"{folder}: holds another checkpoint, {held}; give another folder")
