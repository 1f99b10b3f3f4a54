"""Time and memory of one optimizer step at the size of Kinetics-400, with and without the model's exact shortcuts.

ViT-B/16, 12 TED-Adapters of 384 channels, 400 class prompts, 8 frames at 224 px, random weights, random clips: nothing to download.
"Without" is the plain published way: all 77 text positions, every class prompt through every block at every step, the batch's own
prompts encoded again, the last visual block for every token.
"""

import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torchvision.models.video import MViT_V2_S_Weights

from m2clip_lib.data.prompts import build_prompts, build_vocabulary
from m2clip_lib.experiment import keep_freed_memory
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, multi_task_loss
from m2clip_lib.models.text import TrainingTexts, mask_batch
from m2clip_lib.presets import PRESETS
from m2clip_lib.train.optim import parameter_groups

PRESET = PRESETS["B/16 12x384"]
FRAMES, SIDE = 8, 224


def kinetics_model(num_frames: int = FRAMES) -> M2CLIP:
    """Build the published B/16 12x384 for Kinetics-400 with random weights."""
    torch.manual_seed(0)
    clip = CLIP(**get_model_config(PRESET.architecture)).eval().requires_grad_(False)
    backbone = Backbone(clip, SimpleTokenizer(), "random", "", SIDE)
    names = MViT_V2_S_Weights.KINETICS400_V1.meta["categories"]
    prompt = "A video of {}"
    words = build_vocabulary(build_prompts(names, prompt))
    return M2CLIP(backbone, M2CLIPConfig(tuple(names), tuple(words), num_frames=num_frames, **PRESET.model))


class KineticsStep:
    """A complete training step on random clips: forward, backward, AdamW. precision: "fp32", or "bf16" for autocast."""

    def __init__(self, model: M2CLIP, batch_size: int, device: torch.device, precision: str = "fp32"):
        self.model, self.device, self.precision = model.to(device).train(), device, precision
        names, config, tokenizer = model.config.class_names, model.config, model.backbone.tokenizer
        rng = np.random.default_rng(0)
        labels = rng.integers(len(names), size=batch_size)
        captions, self.class_tokens = TrainingTexts(model, device, seed=0).of_step(0)
        self.masked = mask_batch(captions, labels.tolist(), tokenizer, [(i,) for i in range(batch_size)])
        self.video = torch.from_numpy(rng.standard_normal((batch_size, 3, config.num_frames, SIDE, SIDE), np.float32)).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, 1e-4, 0.01), fused=True)

    def loss(self, shortcuts: bool) -> torch.Tensor:
        """Return the total loss with its graph."""
        self.model.shortcuts = shortcuts
        tokens, targets = self.masked
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return multi_task_loss(
                self.model,
                self.video,
                self.labels,
                self.class_tokens,
                caption_tokens=None if shortcuts else self.class_tokens[self.labels],
                masked_tokens=tokens,
                masked_targets=targets,
            ).total

    def __call__(self, shortcuts: bool) -> None:
        """Take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(shortcuts).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def contestant(connection: Connection, batch_size: int, shortcuts: bool) -> None:
    """Run in a separate process, so that peak memory is its own: on each request take a step and send (seconds, peak MiB)."""
    torch.set_num_threads(1)
    step = KineticsStep(kinetics_model(), batch_size, torch.device("cpu"))
    if shortcuts:
        keep_freed_memory()
        with torch.no_grad():
            step.model.encode_text(step.class_tokens, fixed=True)  # computed once per training, not once per step
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send("ready")
    while connection.recv():
        start = time.perf_counter()
        step(shortcuts)
        seconds = time.perf_counter() - start
        connection.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def compare_on_cpu(batch_size: int, rounds: int) -> list[dict]:
    """Time both ways in turn, with one thread, in fp32."""
    context = multiprocessing.get_context("spawn")
    names = {"without shortcuts": False, "with shortcuts": True}
    ends, children = {}, []
    for name, shortcuts in names.items():
        ends[name], there = context.Pipe()
        children.append(context.Process(target=contestant, args=(there, batch_size, shortcuts), daemon=True))
        children[-1].start()
        assert ends[name].recv() == "ready"
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for _ in range(rounds):
        for name, end in ends.items():
            end.send(True)
            took, memory[name] = end.recv()
            seconds[name].append(took)
    for end, child in zip(ends.values(), children, strict=True):
        end.send(False)
        child.join()
    plain = seconds["without shortcuts"]
    return [
        {
            "what": f"batch {batch_size}, {name}",
            "s_a_step": round(statistics.median(seconds[name]), 2),
            "speed_relative_to_first": round(statistics.median(a / b for a, b in zip(plain, seconds[name], strict=True)), 2),
            "peak_MiB_above_the_weights": round(memory[name]),
        }
        for name in names
    ]


def compare_on_gpu(batch_size: int = 32, rounds: int = 10) -> list[dict]:
    """Measure bf16 steps: clips/s, share of the measured peak of a matrix product, peak memory. The clips are already on the device."""
    from torch.utils.flop_counter import FlopCounterMode

    device, peak = torch.device("cuda"), matmul_peak()
    rows = []
    for name, shortcuts, compiled in (("without shortcuts", False, False), ("with", True, False), ("with, compiled", True, True)):
        model = kinetics_model()
        step = KineticsStep(model, batch_size, device, "bf16")
        with FlopCounterMode(display=False) as counter:
            step(shortcuts)
        if compiled:
            model.compile_blocks()
        for _ in range(3):
            step(shortcuts)
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(rounds):
            step(shortcuts)
        seconds = (time.perf_counter() - start) / rounds
        share = counter.get_total_flops() / seconds / peak
        row = {
            "what": f"batch {batch_size}, {name}",
            "clips_per_s": round(batch_size / seconds, 1),
            "share_of_matmul_peak": round(share, 2),
        }
        rows.append(row | {"peak_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1)})
        del step, model
    return rows


def matmul_peak() -> float:
    """Measure the floating-point operations per second of a large bf16 matrix product."""
    a, n, rounds = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16), 8192, 20
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        a @ a
    torch.cuda.synchronize()
    return 2 * n**3 * rounds / (time.perf_counter() - start)


def compare() -> list[dict]:
    """Time one optimizer step of B/16 12x384, 400 classes, 8 frames at 224 px: on the CPU with one thread in fp32; on a GPU in bf16."""
    if torch.cuda.is_available():
        return compare_on_gpu()
    return compare_on_cpu(2, rounds=2) + compare_on_cpu(8, rounds=2)
