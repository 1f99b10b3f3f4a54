"""The model as a graph that runs without this library: ONNX, or torch.export's .pt2. Each is compared with the model before it is kept."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.evaluate.scoring import class_logits, class_scores
from m2clip_lib.files import file_sha256, show_bytes, write_atomically
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.text import tokenize, unit

TOLERANCE = 1e-4  # of an output, relative to its largest value where that is above 1
LARGEST_ONNX = 2**31  # bytes, the limit of protobuf
TEXTS = ("a video of running", "a cat", "someone opens a door, slowly")  # to compare text encoders with


class VideoScores(nn.Module):
    """Frames -> scores of the fixed classes, as m2clip predict gives them, and what they are made of."""

    outputs = ("scores", "similarity", "classifier", "features")

    def __init__(self, model: M2CLIP, protocol: Protocol):
        super().__init__()
        self.model = model
        self.register_buffer("texts", protocol.class_texts(model).clone())  # a clone is no inference tensor

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Score clips.

        Args:
            frames: (b, t, 3, s, s) uint8 RGB in [0, 255].
        Returns: scores (b, k), see class_scores; 100 x cosine with the class texts (b, k); the classifier's logits (b, k); features of
            length 1 (b, e).
        """
        seen = self.model.encode_video(self.model.backbone.video(frames, frames.device))
        logits = class_logits(seen, self.texts, own=True)
        each = class_scores(logits, self.model)
        scores = Predictions.weight * each["similarity"] + (1 - Predictions.weight) * each["classifier"]
        return scores, logits["similarity"], logits["classifier"], unit(seen.image_features)


class TextFeatures(nn.Module):
    """Tokens (n, l) int64 -> features of length 1 (n, e); 100 x their product with the features of videos is the similarity."""

    outputs = ("features",)

    def __init__(self, model: M2CLIP):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Encode texts. All positions are computed: how many have an effect depends on the values, which a graph does not know."""
        return (unit(self.model.encode_text(tokens, length=tokens.shape[1]).text_features),)


@dataclass(frozen=True)
class Graph:
    """What is exported.

    input: its name. example: three rows of it, of which a graph must also accept one; module(example) gives tensors named module.outputs.
    """

    module: nn.Module
    input: str
    example: Tensor

    def described(self, file: Path, differences: dict[str, float]) -> dict:
        """What model.json says of a file made of it. differences: see compared."""
        sizes = {"type": str(self.example.dtype).removeprefix("torch."), "shape": ["batch", *self.example.shape[1:]]}
        return {"input": {self.input: sizes}, "outputs": list(differences), "differences": differences, "sha256": file_sha256(file)}


def video_graph(model: M2CLIP, protocol: Protocol) -> Graph:
    """The video path of a model on the CPU, with the texts of its classes inside."""
    side, generator = model.backbone.image_size, torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, protocol.frames, 3, side, side), dtype=torch.uint8, generator=generator)
    return Graph(VideoScores(model, protocol).eval(), "frames", noise)


def text_graph(model: M2CLIP) -> Graph:
    """The text encoder of a model on the CPU, with its adapters."""
    return Graph(TextFeatures(model).eval(), "tokens", tokenize(model.backbone.tokenizer, TEXTS))


def write_onnx(graph: Graph, file: Path) -> dict[str, float]:
    """Write one ONNX file. Returns: see compared.

    Raises: UserError when a package is missing, the weights are too large for one file, or onnxruntime gives other values than torch.
    """
    try:
        onnxruntime, *_ = [importlib.import_module(name) for name in ("onnxruntime", "onnx", "onnxscript")]
    except ImportError as error:
        raise UserError(f"export: {error.name} is not installed; pip install onnx onnxruntime onnxscript") from error
    batch = ({0: torch.export.Dim("batch")},)
    names = {"input_names": [graph.input], "output_names": list(graph.module.outputs)}
    made = torch.onnx.export(traced(graph), (graph.example,), dynamo=True, dynamic_shapes=batch, verbose=False, **names)
    weights = sum(value.const_value.nbytes for value in made.model.graph.initializers.values())
    if weights > LARGEST_ONNX:
        raise UserError(f"{file}: one ONNX file holds 2 GB, the weights take {show_bytes(weights)}; use --torch-export")
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # places in the source code, with the paths of this machine

    def write(place: Path) -> dict[str, float]:
        made.save(str(place), external_data=False)
        session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
        return compared(graph, lambda rows: session.run(None, {graph.input: rows.numpy()}), f"{file}: onnxruntime")

    return _kept(file, write)


def write_pt2(graph: Graph, file: Path) -> dict[str, float]:
    """Write what torch.export.load reads. Returns: see compared. Raises: UserError when the file gives other values than the model."""
    program = traced(graph)

    def write(place: Path) -> dict[str, float]:
        with place.open("wb") as opened:
            torch.export.save(program, opened)
        with place.open("rb") as opened:  # our own file
            return compared(graph, torch.export.load(opened).module(), f"{file}: the exported program")

    return _kept(file, write)


def traced(graph: Graph) -> torch.export.ExportedProgram:
    """The module as torch.export sees it, for any number of rows."""
    program = torch.export.export(graph.module, (graph.example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine
    return program


@torch.inference_mode()
def compared(graph: Graph, run: Callable[[Tensor], Sequence], what: str) -> dict[str, float]:
    """Run a file on one row and on three. Returns: the largest difference from the model, by output; see TOLERANCE.

    Raises: UserError naming `what` and the output when it is too large.
    """
    found = dict.fromkeys(graph.module.outputs, 0.0)
    for rows in (graph.example[:1], graph.example):
        for name, own, other in zip(found, graph.module(rows), run(rows), strict=True):
            own, other = own.numpy(), np.asarray(other)
            difference = float(np.abs(own - other).max() / max(1.0, np.abs(own).max())) if own.shape == other.shape else float("inf")
            if not difference <= TOLERANCE:  # NaN, too
                much = f"differs from torch by {difference:.2g} in {name!r}, {TOLERANCE:g} is allowed"
                raise UserError(f"{what} {much}; nothing was kept: install the versions of constraints.txt")
            found[name] = max(found[name], difference)
    return found


def _kept(file: Path, write: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    """Write a file atomically. Returns: what `write` does."""
    results: list[dict[str, float]] = []
    write_atomically(file, lambda place: results.append(write(place)))
    return results[0]
