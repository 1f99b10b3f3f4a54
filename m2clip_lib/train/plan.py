"""Estimate hours, memory and loader rate of a training before it runs; every assumption is printed with its figure."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip import get_model_config
from open_clip.tokenizer import SimpleTokenizer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from m2clip_lib.config import Experiment
from m2clip_lib.csvfiles import read_csv
from m2clip_lib.data.manifest import made_from
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig
from m2clip_lib.models.demo_clip import MODEL_CONFIG
from m2clip_lib.models.sources import new_clip, refuse_unfit
from m2clip_lib.runs import hardware, short_commit

ASSUMED_SHARE = 0.3  # of a card's peak that a step reaches: a guess until `m2clip bench train` has measured it on that card
BENCH = "bench.json"  # in results/: what `m2clip bench train` measured last
ASSUMED_CLASSES, TEXT_TOKENS = 400, 11  # the longest prompt of Kinetics-400 has 11 tokens
GIB = 2**30
# Training videos and classes in the official lists, for a plan without a manifest.
OFFICIAL_VALIDATION = {"kinetics": 20_000, "ssv2": 24_777}
OFFICIAL = {"kinetics": (240_000, 400), "ssv2": (168_913, 174), "ucf101": (9_537, 101), "hmdb51": (3_570, 51)}


class Card(NamedTuple):
    """A kind of GPU: the dense bf16 or fp16 peak its maker states (FLOP/s), its memory (GB), and how many of them."""

    name: str
    peak: float
    memory: float
    count: int = 1


CARDS = (Card("one 16 GB card (T4, fp16)", 65e12, 16), Card("one H200", 989e12, 141), Card("eight H200", 989e12, 141, 8))


class StepCost(NamedTuple):
    """FLOP per clip, of the texts per step, bytes kept for the backward pass per clip, bytes of weights and moments, FLOP of a view."""

    clip_flop: float
    text_flop: float
    clip_bytes: float
    fixed_bytes: float
    view_flop: float = 0.0


def step_cost(experiment: Experiment, classes: int) -> StepCost:
    """Count forward and backward of one clip and of the class texts, in the experiment's precision, on tensors without content."""
    settings, half = experiment.train, experiment.train.precision != "fp32"
    with torch.device("meta"):
        clip = architecture(experiment).eval().requires_grad_(False)
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16, enabled=half):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch itself does so when it copies a parameter
        clip = clip.to_empty(device="cpu")
        side = clip.visual.image_size[0]
        names, words = tuple(f"class {i}" for i in range(classes)), tuple(f"word {i}" for i in range(classes))
        config = M2CLIPConfig(names, words, num_frames=experiment.data.num_frames, **dataclasses.asdict(experiment.model))
        model = M2CLIP(Backbone(clip, SimpleTokenizer(), "", "", side), config).train()
        model.activation_checkpointing = False
        video = torch.zeros(1, 3, config.num_frames, side, side)
        flop, kept = _count(model, video)
        if settings.activation_checkpointing:  # everything between the blocks is kept, and one block at a time in full
            model.activation_checkpointing = True
            flop, between = _count(model, video)
            kept = between + kept / len(model.visual_adapters)
        with torch.no_grad(), FlopCounterMode(display=False) as view:
            model.encode_video(video)
        tokens = torch.zeros(classes, model.text.context_length, dtype=torch.int64)
        length = TEXT_TOKENS if model.text.causal else model.text.context_length
        with FlopCounterMode(display=False) as prefix:
            model.text_prefix(tokens[:, :length], length)
        with FlopCounterMode(display=False) as read:
            features = model.encode_text(tokens, length=length).text_features
            if features.requires_grad:
                features.sum().backward()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        fixed = 4 * sum(p.numel() for p in model.parameters()) * (1.5 if half else 1) + 12 * trained
    return StepCost(flop, max(0, read.get_total_flops() - prefix.get_total_flops()), kept, fixed, view.get_total_flops())


def _count(model: M2CLIP, video: torch.Tensor) -> tuple[float, float]:
    """FLOP of forward and backward of one clip, and the bytes that the forward pass keeps for the backward pass."""
    weights = {id(parameter.untyped_storage()) for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # by id; holding the storage keeps its id from being reused

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in weights:
            kept[id(storage)] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model.encode_video(video)
        (out.image_features.sum() + out.fc_logits.sum()).backward()
    return counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values())


def clips_per_second(experiment: Experiment, results: Path, given: float) -> tuple[float, str]:
    """Measured clips/s and its source; (0, "") without a measurement. given: a rate, or 0 to read it from the run's metrics.csv."""
    if given:
        return given, "--clips-per-s"
    file = results / experiment.name / "metrics.csv"
    if file.is_file():
        table = read_csv(file)
        return float(table.clips.sum() / table.seconds.sum()), f"{file}, without validation"
    rows = measured_steps(experiment, results)
    return (rows[0]["rate"], f"m2clip bench train: {rows[0]['what']}, {rows[0]['contestant']}") if rows else (0.0, "")


def setup_of(experiment: Experiment) -> dict[str, object]:
    """What the time of a training step depends on, beside its batch and precision."""
    settings = {"compile": experiment.train.compile, "activation_checkpointing": experiment.train.activation_checkpointing}
    fixed = {"architecture": _architecture_name(experiment), "num_frames": experiment.data.num_frames}
    return fixed | settings | dataclasses.asdict(experiment.model)


def measured_steps(experiment: Experiment, results: Path) -> list[dict]:
    """What `m2clip bench train` has measured on this machine for this model and precision, the nearest batch first.

    Precision auto stands for bf16 where that was measured, which is where it is used, else for fp32. Returns: rows of results/bench.json.
    """
    found = read_json(results / BENCH) if (results / BENCH).is_file() else {}
    if not found or any(found["hardware"].get(key) != value for key, value in hardware().items() if key != "system"):
        return []
    rows = [row for row in found["rows"] if setup_of(experiment).items() <= row["setup"].items()]
    measured = {row["setup"]["precision"] for row in rows}
    precision = experiment.train.precision if experiment.train.precision != "auto" else "bf16" if "bf16" in measured else "fp32"
    made = f"{found['date']}, commit {short_commit(found['commit'])}"
    rows = [row | {"made": made} for row in rows if row["setup"]["precision"] == precision]
    return sorted(rows, key=lambda row: (abs(row["setup"]["batch_size"] - experiment.train.batch_size), row["rate"]))


def planned_dataset(experiment: Experiment, report: Callable[[str], None]) -> tuple[int, int]:
    """Numbers of training videos and classes, from the manifest or else the official list. Raises: UserError when neither is known."""
    if made_from(experiment.prepared):
        manifest = load_manifest(experiment)
        return len(manifest.split("train")), len(manifest.class_names)
    if experiment.data.layout not in OFFICIAL:
        raise UserError(f"plan: no manifest in {experiment.prepared}; make it with: m2clip prepare {experiment.name}; or give --videos N")
    videos, classes = OFFICIAL[experiment.data.layout]
    report(f"no manifest yet: about {videos:,} training videos and {classes} classes, as in the official list")
    return videos, classes


def validation_videos(experiment: Experiment, videos: int) -> int:
    """How many videos the validation after every epoch scores: of the manifest, the official list, or the part that is held out."""
    if made_from(experiment.prepared):
        table = load_manifest(experiment).table
        return int(((table.split == "val") & (table.status == "ok")).sum())
    return OFFICIAL_VALIDATION.get(experiment.data.layout, round(experiment.data.hold_out * videos))


def plan_lines(
    experiment: Experiment, videos: int, classes: int, rate: float, source: str, gpus: Sequence[int], measured: Sequence[dict] = ()
) -> list[str]:
    """The plan as text.

    videos: in the training split. rate: measured clips/s of one process on this machine, 0: not measured. measured: see measured_steps.
    """
    settings = experiment.train
    classes = classes or ASSUMED_CLASSES
    cost = step_cost(experiment, classes)
    clips = videos * settings.epochs
    flop = cost.clip_flop + cost.text_flop / settings.batch_size
    memory = cost.fixed_bytes + cost.clip_bytes * settings.batch_size
    lines = [
        f"{experiment.name}: {videos:,} training videos x {settings.epochs} epochs = {clips:,} clips; batch {settings.batch_size}, "
        f"{settings.precision}, activation checkpointing {'on' if settings.activation_checkpointing else 'off'}",
        f"counted: {digits(flop / 1e9)} GFLOP per clip, forward and backward ({digits(cost.clip_flop / 1e9)} in the video tower, "
        f"{digits(cost.text_flop / 1e9)} per step for the texts of {classes} classes); 2 per multiply-add, less than a full pass, as the "
        "last block computes the class token alone",
        f"computed, not measured: {size(memory)} per step ({size(cost.fixed_bytes)} for weights, gradients and moments, "
        f"{size(cost.clip_bytes)} per clip kept for the backward pass); add 1 to 2 GiB for work space",
    ]
    for row in measured:
        computed = size(cost.fixed_bytes + cost.clip_bytes * row["setup"]["batch_size"])
        same = (row["setup"]["precision"] == "fp32") == (settings.precision == "fp32")  # as what is computed
        lines.append(
            f"measured by m2clip bench train ({row['made']}): {row['what']}, {row['contestant']}: {digits(row['rate'])} clips/s, "
            f"{size(row['peak_mib'] * 2**20)} at the peak" + (f" ({computed} computed)" if same else "")
        )
    if not measured:
        lines.append("measured by m2clip bench train: nothing here for this model and precision")
    validation = validation_videos(experiment, videos)
    every = settings.validate_every
    share = validation * cost.view_flop / (validation * cost.view_flop + every * videos * flop)
    when = "every epoch" if every == 1 else f"every {every} epochs"
    lines.append(f"validation after {when}: {validation:,} videos, one view each: {100 * share:.1f} % of all operations")
    if rate:
        lines.append(f"measured: {digits(rate)} clips/s in one process ({source})")
        for count in gpus:
            time = f"{duration(clips / rate / count)}, if {count} scale(s) evenly"
            lines.append(f"  {count} x this device: {time}; the loader must give {digits(rate * count)} clips/s")
    else:
        lines.append("no speed measured yet; give --clips-per-s, run m2clip bench train, or train for one epoch (metrics.csv is read)")
    lines.append(f"on paper, at {100 * ASSUMED_SHARE:.0f} % of the stated peak (a guess), without validation:")
    for card in CARDS:
        reached = ASSUMED_SHARE * card.peak * card.count / flop
        fits = "fits" if memory / GIB + 2 <= card.memory else "does not fit: activation_checkpointing, or a smaller batch with accumulate"
        lines.append(
            f"  {card.name} (assumed {card.peak / 1e12:,.0f} TFLOP/s, {card.memory} GB): {duration(clips / reached)} at "
            f"{reached:,.0f} clips/s, which the loader must give; memory {fits}"
        )
    return lines


def digits(number: float) -> str:
    """A number with three digits."""
    return f"{float(f'{number:.3g}'):,g}"


def size(count: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Hours, minutes or seconds, whichever reads well."""
    limits = ((3600, "h"), (60, "min"))
    return next((f"{seconds / unit:,.1f} {name}" for unit, name in limits if seconds >= unit), f"{seconds:.2g} s")


def architecture(experiment: Experiment) -> torch.nn.Module:
    """The CLIP of an experiment, with arbitrary weights."""
    name = _architecture_name(experiment)
    if name == "demo":
        return new_clip(MODEL_CONFIG)
    if not name:
        source = experiment.backbone.source
        raise UserError(f"plan: backbone.source {source!r} does not name its architecture; add -o backbone.model_name=ViT-B-16-quickgelu")
    sizes = get_model_config(name)
    if sizes is None:
        raise UserError(f"plan: open_clip has no architecture {name!r}; set backbone.model_name")
    refuse_unfit(sizes, name)
    return new_clip(sizes)


def _architecture_name(experiment: Experiment) -> str:
    source, name = experiment.backbone.source, experiment.backbone.model_name
    return "demo" if source == "demo" else name or (source.partition("/")[0] if "/" in source and not Path(source).suffix else "")
