"""`m2clip bench train`: time and memory of updates of the weights; ways.py says what is compared.

Each contestant is a process of its own, so that peak memory is its own. They take turns, one at a time, and give back memory in between.
"""

import ctypes
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from data_loading import make_videos
from timing import Row, compared
from torch.utils.flop_counter import FlopCounterMode
from ways import Comparison, Way, comparisons, random_model

from m2clip_lib.data.dataset import Batch
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.experiment import keep_freed_memory, pick_device
from m2clip_lib.models import multi_task_loss
from m2clip_lib.train.plan import setup_of
from m2clip_lib.train.record import TERMS, Tally
from m2clip_lib.train.step import TrainingSteps

WARM = 3  # updates in which torch.compile meets all that it compiles


class PublishedSteps(TrainingSteps):
    """The same updates in the published way; the loss is equal."""

    def _loss(self, part, tokens, classes, share):
        labels, masked = part.batch.labels, {"masked_tokens": part.tokens, "masked_targets": part.targets}
        with self.autocast():
            return multi_task_loss(
                self.model, self._video(part), labels, tokens, tokens[labels], **masked, class_features=classes, part=share
            )


class Contestant:
    """The updates of one way, on this process's device; clips are in the device's memory unless they come from files."""

    def __init__(self, way: Way, comparison: Comparison, videos: pd.DataFrame | None = None):
        experiment, self.way, self.count = comparison.settings(way), way, comparison.steps
        processes = Processes()
        self.device, classes = processes.device, list(comparison.classes)
        model = random_model(experiment, comparison.classes).to(self.device).train()
        model.shortcuts = not way.published
        rows = 4 * max(1, experiment.data.workers) * comparison.batch  # of an epoch from files: some batches for each process
        table = pd.DataFrame({"path": "", "num_frames": 300, "width": 340, "height": 256}, range(1)) if videos is None else videos
        table = table.iloc[np.arange(rows) % len(table)].assign(label=np.arange(rows) % len(classes), split="train", status="ok")
        steps = PublishedSteps if way.published else TrainingSteps
        self.steps = steps(experiment, Manifest(table, classes, Path(), ""), model.backbone, model, processes)
        rng, side, frames = np.random.default_rng(0), model.backbone.image_size, experiment.data.num_frames
        clips = torch.from_numpy(rng.integers(256, size=(comparison.batch, frames, 3, side, side), dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(len(classes), size=comparison.batch))
        self.part = self.steps.prepare(Batch(clips, labels, list(range(comparison.batch)), [], Counter()), 1, 0)
        if way.kept:
            with self.steps.autocast():
                clips = model.trunk(model.backbone.video(clips, self.device)).half()
        on_device = replace(self.part.batch, clips=clips.to(self.device), labels=labels.to(self.device))
        self.part = replace(self.part, batch=on_device)
        tally = Tally(torch.zeros(len(TERMS), device=self.device))
        with FlopCounterMode(display=False) as counter:
            self.steps.update([self.part], 1, 0, tally)
        self.flop, self.first_loss = counter.get_total_flops(), float(tally.sums[0]) / comparison.batch
        if experiment.train.compile:
            model.compile_blocks()
            self.update(WARM)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # the update that was counted is not compiled

    def update(self, count: int) -> float:
        """Take updates. Returns: seconds."""
        start = time.perf_counter()
        for _ in range(count):
            self.steps.update([self.part], 1, 0)
        self.steps.finite.check()  # waits for the device
        return time.perf_counter() - start

    def turn(self) -> tuple[float, float]:
        """Take a turn. Returns: seconds per update, and the share of them spent waiting for clips."""
        if not self.way.from_files:
            if self.device.type == "cuda" or not self.way.published:  # it gave back, at the end of its last turn, the memory that it keeps
                self.update(1)
            return self.update(self.count) / self.count, 0.0
        tally, ahead, done = Tally(torch.zeros(len(TERMS), device=self.device)), max(1, self.steps.loader.num_workers), 0
        for done in self.steps.epoch(1, 0, tally):
            if done == ahead:  # the first batch of each process comes late, which counts little in an epoch of the usual length
                self.steps.finite.check()
                tally.waited, start = 0.0, time.perf_counter()
        self.steps.finite.check()  # waits for the device
        seconds = time.perf_counter() - start
        return seconds / (done - ahead), tally.waited / seconds

    def peak_mib(self) -> float:
        """Peak memory so far: of the device, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def rest(self) -> None:
        """Give freed memory back, so that the contestants need not fit into memory together."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


def matrix_peak(device: torch.device, precision: str) -> float:
    """Measure the floating-point operations per second of a large matrix product."""
    n, rounds = (8192, 20) if device.type == "cuda" else (2048, 2)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a, seconds = torch.randn(n, n, device=device).to(kind), []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(rounds):
            b = a @ a
        b[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 * rounds / min(seconds)


def play(connection: Connection, way: Way, comparison: Comparison, videos: pd.DataFrame | None) -> None:
    """Be a contestant, in a process of its own, so that peak memory is its own: on each request take a turn and send what it took."""
    torch.set_num_threads(1)
    if not way.published:
        keep_freed_memory()  # as m2clip train does
    try:
        libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        contestant, precision = Contestant(way, comparison, videos), comparison.settings(way).train.precision
        contestant.rest()
        connection.send(None)
        while connection.recv():
            seconds, waited = contestant.turn()
            peak = contestant.peak_mib() - (libraries if contestant.device.type == "cpu" else 0)
            share = contestant.flop / seconds / matrix_peak(contestant.device, precision)
            contestant.rest()
            connection.send((seconds, waited, peak, share, contestant.first_loss))
    except (EOFError, KeyboardInterrupt):  # the other end is closed: it is over
        return
    except Exception as error:  # out of memory, no compiler, ...: the others go on
        connection.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


@contextmanager
def player(*arguments: object) -> Iterator[Connection]:
    """Start a contestant, and end it. Yields: the connection to it."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    child = context.Process(target=play, args=(there, *arguments))
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        child.join()


def compare(comparison: Comparison) -> list[Row]:
    """Let the contestants take turns. One that fails has a row with the reason."""
    ends: dict[str, Connection] = {}
    turns: dict[str, list[tuple]] = {way.name: [] for way in comparison.ways}
    failed: dict[str, str] = {}

    def listen(name: str, ask: bool = False) -> None:
        try:
            if ask:
                ends[name].send(True)
            answer = ends[name].recv()
        except (EOFError, OSError):
            answer = "its process was killed; most often memory ran out"
        if isinstance(answer, str):
            failed[name] = answer
        elif answer is not None:
            turns[name].append(answer)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        videos = make_videos(folder)[1] if any(way.from_files for way in comparison.ways) else None
        for way in comparison.ways:
            ends[way.name] = stack.enter_context(player(way, comparison, videos))
            listen(way.name)
        for _ in range(comparison.rounds):
            for name in [name for name in turns if name not in failed]:
                listen(name, ask=True)
    seconds = {name: [turn[0] for turn in of_one] for name, of_one in turns.items() if name not in failed}
    rows = {row.contestant: row for row in compared(comparison.what, seconds, comparison.batch, "clips/s")} if seconds else {}
    return [
        Row(comparison.what, way.name, more={"not measured": failed[way.name]})
        if way.name in failed
        else described(rows[way.name], way, comparison, turns[way.name], comparison.ways[0].name not in failed)
        for way in comparison.ways
    ]


def described(row: Row, way: Way, comparison: Comparison, turns: list[tuple], relative: bool) -> Row:
    """The row with peak memory, shares, and the settings by which `m2clip plan` finds it; relative: there is a first one to relate to."""
    _, waited, peak, share, loss = (statistics.median(values) for values in zip(*turns, strict=True))
    more: dict[str, object] = {"% of the matrix peak": round(100 * share)}
    if way.from_files:
        more["% of the time waiting for clips"] = round(100 * waited)
    more["first loss"] = round(loss, 4)
    settings = comparison.settings(way)
    setup = setup_of(settings) | {"precision": settings.train.precision, "batch_size": comparison.batch, "classes": len(comparison.classes)}
    setup = {} if way.published or way.kept else setup
    return replace(row, relative=row.relative if relative else None, peak_mib=round(peak), more=more, setup=setup)


def bench_train(report: Callable[[str], None]) -> list[Row]:
    """Time updates of B/16 12x384, 400 classes, 8 frames at 224 px: on the CPU with one thread, or on the GPU."""
    rows = []
    for comparison in comparisons(pick_device()):
        report(f"measuring {comparison.what} ...")
        rows += compare(comparison)
    return rows
