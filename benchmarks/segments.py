"""Made videos whose segments are known, and how well the timeline of a trained checkpoint finds them.

    python benchmarks/segments.py --checkpoint checkpoints/demo/best.safetensors [--minutes 10] [--seeds 10 11 12 13]

Each video is a sequence of stretches: one of the demonstration's motions for 4 to 10 seconds, then a plain background, or an object
that stands still, for 2 to 6. The threshold is chosen on the first made video, and the others are scored with it.
"""

import argparse
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from m2clip_lib.data.demo.scenes import render
from m2clip_lib.data.demo.videos import CLASS_NAMES, FPS, draw_scenes, write_video
from m2clip_lib.moments.segments import Segment, choose_threshold, segment_f1
from m2clip_lib.moments.windows import stored_timelines

SIDE = 80  # pixels, as in the demonstration
CYCLES = (0.7, 1.6)  # of a motion, in the 16 frames of a video of the demonstration


class Longer(np.random.Generator):
    """Draws what draw_scenes draws, and as many more cycles as the stretch has more frames than a video of the demonstration."""

    def __init__(self, seed: list[int], times: float):
        super().__init__(np.random.PCG64(seed))
        self.times = times

    def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> object:
        """As that of numpy."""
        drawn = super().uniform(low, high, size)
        return drawn * self.times if (low, high) == CYCLES else drawn


def made_video(path: Path, seconds: float, seed: int) -> list[Segment]:
    """Write a video and return what it shows."""
    rng, pieces, truth, now = np.random.default_rng(seed), [], [], 0
    while now < seconds * FPS:
        moving = len(pieces) % 2 == 1
        count = int(rng.integers(4 * FPS, 10 * FPS + 1) if moving else rng.integers(2 * FPS, 6 * FPS + 1))
        label = int(rng.integers(len(CLASS_NAMES)))
        scenes = draw_scenes(label, Longer([seed, len(pieces)], count / 16), count)
        if moving:
            truth.append(Segment(CLASS_NAMES[label], now / FPS, (now + count) / FPS))
        else:  # a plain background, or the first frame throughout
            still = {f.name: np.repeat(getattr(scenes, f.name)[:1], count, axis=0) for f in dataclasses.fields(scenes)}
            scenes = dataclasses.replace(scenes, **still)
            if rng.uniform() < 0.5:
                scenes = dataclasses.replace(scenes, alpha=0 * scenes.alpha)
        pieces.append(render(scenes, SIDE))
        now += count
    write_video(path, np.concatenate(pieces))
    return truth


def main() -> None:
    """Print the F1 of every made video."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13], help="the threshold is chosen on the first one's video")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between window starts")
    parser.add_argument("--least", type=float, default=2.0, help="least length of a segment and largest gap that is merged, seconds")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{seed}.mp4" for seed in asked.seeds]
        truths = [made_video(file, 60 * asked.minutes, seed) for seed, file in zip(asked.seeds, files, strict=True)]
        timelines = list(stored_timelines(files, asked.checkpoint, every_s=asked.every, folder=Path(folder)))
        threshold, own = choose_threshold([(lambda at: timelines[0].segments(at, asked.least, asked.least), truths[0])])
        print(f"threshold {threshold:.3f}, chosen on the video of seed {asked.seeds[0]} (there F1 {own:.3f})")
        for seed, timeline, truth in zip(asked.seeds[1:], timelines[1:], truths[1:], strict=True):
            found = timeline.segments(threshold, asked.least, asked.least)
            print(f"seed {seed}: {len(truth)} true segments, {len(found)} found, F1 {segment_f1([(found, truth)]):.3f} at IoU 0.5")


if __name__ == "__main__":
    main()
