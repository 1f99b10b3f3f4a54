"""What `m2clip bench train` compares: its contestants, with the settings in which they differ.

ViT-B/16, 12 TED-Adapters of 384 channels, 400 class prompts, 8 frames at 224 px, random weights: nothing to download. The published way:
all 77 text positions, every class prompt through every block at every step, the batch's own prompts encoded again, the last visual block
for every token. Ours is the update of `m2clip train`.
"""

from dataclasses import dataclass, field

import torch
from open_clip.tokenizer import SimpleTokenizer
from torchvision.models.video import MViT_V2_S_Weights

from m2clip_lib.config import Experiment
from m2clip_lib.data.workers import cores
from m2clip_lib.experiment import build_model, device_precision
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.presets import PRESETS
from m2clip_lib.train.plan import architecture

PRESET = PRESETS["B/16 12x384"]
KINETICS = Experiment(
    backbone={"source": "random", "model_name": PRESET.architecture}, model=PRESET.model, data={"workers": 0}, train={"precision": "fp32"}
)
CLASSES = MViT_V2_S_Weights.KINETICS400_V1.meta["categories"]
ROUNDS_ON_CPU = {2: 3, 8: 2}  # by batch
GPU_BATCH, GPU_STEPS = 32, 10  # steps are timed together


@dataclass(frozen=True)
class Way:
    """A contestant: its name, the settings in which it differs from its comparison's experiment, and what no setting says.

    changes: section -> field -> value. published: take the published way. from_files: clips come from a loader of real files.
    kept: in place of clips, the kept tokens in front of the first adapter (train.saved_views).
    """

    name: str
    changes: dict[str, dict] = field(default_factory=dict)
    published: bool = False
    from_files: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Comparison:
    """What its contestants share. steps: timed together, in each turn; the first contestant is the one that ratios refer to."""

    what: str
    ways: tuple[Way, ...]
    batch: int
    rounds: int = 3
    steps: int = 1
    experiment: Experiment = KINETICS
    classes: tuple[str, ...] = tuple(CLASSES)

    def settings(self, way: Way) -> Experiment:
        """The experiment of one contestant."""
        values = self.experiment.model_dump()
        for section, fields in (("train", {"batch_size": self.batch}), *way.changes.items()):
            values[section] |= fields
        return Experiment(**values)


def comparisons(device: torch.device) -> list[Comparison]:
    """What `m2clip bench train` compares on this device. To add a contestant, add a Way; to add a comparison, a Comparison."""
    with torch.device("meta"):
        half = device_precision("auto", random_backbone(KINETICS), device)
    if device.type == "cpu":
        ways = [Way("published, fp32", published=True), Way("ours, fp32")]
        ways += [Way(f"ours, {half}", {"train": {"precision": half}})] if half != "fp32" else []
        found = [Comparison(f"update of batch {n}, one core", tuple(ways), n, rounds) for n, rounds in ROUNDS_ON_CPU.items()]
        return found + [in_the_last(blocks) for blocks in (4, 2)]
    half = half.replace("fp32", "fp16")  # GPUs without bf16
    plain, compiled = ({"train": {"precision": half, "compile": on}} for on in (False, True))
    files = compiled | {"data": {"workers": cores(), "short_side": (224, 258)}}
    ways = [Way(f"published, {half}", plain, published=True), Way(f"ours, {half}", plain), Way(f"ours, {half}, compiled", compiled)]
    ways += [Way(f"ours, {half}, compiled, clips from files", files, from_files=True)]
    ways += [Way("ours, fp16", {"train": {"precision": "fp16"}})] if half != "fp16" else []
    return [Comparison(f"update of batch {GPU_BATCH}, one GPU", tuple(ways), GPU_BATCH, steps=GPU_STEPS)]


def in_the_last(blocks: int) -> Comparison:
    """What it is worth to keep the tokens in front of the first adapter, where adapters stand in the last blocks only."""
    changes = {"model": {"vision_adapter_layers": blocks}}
    ways = (Way("clips through all blocks", changes), Way("from kept tokens", changes, kept=True))
    return Comparison(f"update of batch 8, adapters in the last {blocks} of 12 blocks, one core", ways, 8, 2)


def random_backbone(experiment: Experiment) -> Backbone:
    """The experiment's CLIP with random weights."""
    torch.manual_seed(0)
    clip = architecture(experiment).eval().requires_grad_(False)
    return Backbone(clip, SimpleTokenizer(context_length=clip.context_length), "random", "", clip.visual.image_size[0])


def random_model(experiment: Experiment = KINETICS, classes: tuple[str, ...] = tuple(CLASSES)) -> M2CLIP:
    """The experiment's model with random weights."""
    return build_model(experiment, random_backbone(experiment), list(classes))
