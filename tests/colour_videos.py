"""A made data set with known faults: demonstration videos sorted by colour, some in the wrong folder, some copied to another split."""

from pathlib import Path

import numpy as np

from m2clip_lib.data.demo.videos import CLASS_NAMES, class_names, draw_video, write_video

COLOURS = ("blue", "green", "red", "yellow")
LARGE = "red"  # has half of the videos
COPIES = [  # how a copy is encoded: ending, codec, options, side in pixels
    (".mp4", "libx264", {"crf": "38"}, 80),
    (".avi", "mpeg4", {"qscale:v": "8"}, 96),
    (".mkv", "libx264", {"crf": "26"}, 64),
]


def make_colour_set(root: Path, videos: int, wrong: int, copied: int, size: int = 80) -> tuple[dict[str, str], dict[str, str]]:
    """Write root/<split>/<colour>/<number>.mp4; two thirds of the videos are for training, a sixth each for validation and test.

    Returns: path below root -> true colour of the videos in a wrong folder; copy -> original of the copies, which are in another split.
    """
    rng = np.random.default_rng(3)  # a seed with wrong labels in every split
    others = [colour for colour in COLOURS if colour != LARGE]
    true = [LARGE if number % 2 else others[number // 2 % 3] for number in range(videos)]
    mistaken = dict.fromkeys(rng.choice(videos, wrong, replace=False).tolist())
    names, misplaced, copies = class_names(COLOURS), {}, {}
    for number, colour in enumerate(true):
        listed = str(rng.choice([other for other in COLOURS if other != colour])) if number in mistaken else colour
        split = ("train", "train", "val", "train", "train", "test")[number // 6 % 6]
        label = names.index(f"{colour} {CLASS_NAMES[number % len(CLASS_NAMES)]}")
        frames = draw_video(label, np.random.default_rng([1, number]), 16, size, COLOURS)
        path = Path(split, listed, f"{number:04d}.mp4")
        write_video(root / path, frames)
        if number in mistaken:
            misplaced[path.as_posix()] = colour
        elif split == "train" and len(copies) < copied:
            ending, codec, options, side = COPIES[len(copies) % len(COPIES)]
            copy = Path(("val", "test")[len(copies) % 2], listed, f"again_{chr(97 + len(copies))}{ending}")
            write_video(root / copy, resized(frames, side), codec=codec, options=options)
            copies[copy.as_posix()] = path.as_posix()
    return misplaced, copies


def resized(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (t, h, w, 3) at another size, by the nearest pixel."""
    places = (np.arange(side) + 0.5) * frames.shape[1] / side
    return frames[:, places.astype(int)][:, :, places.astype(int)]
