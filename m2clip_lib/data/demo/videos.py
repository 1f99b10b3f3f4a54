"""The demonstration's videos of moving shapes: drawn, written, and described by the boxes of their objects.

The twelve classes differ only in MOTION: they are six exact time-reversed pairs (class i played backwards is class i ^ 1), and every
motion is periodic with a random phase, so that no single frame, and no bag of frames, distinguishes a class from its opposite.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from m2clip_lib.data.classes import SPLITS
from m2clip_lib.data.demo import scenes
from m2clip_lib.data.demo.scenes import COLOURS, SHAPES, Scenes, random_looks, render
from m2clip_lib.data.workers import LIMIT_S, Failure, call_in_children, own
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json, write_json

CLASS_NAMES = (
    "moving left", "moving right", "moving up", "moving down", "growing", "shrinking",
    "circling clockwise", "circling anticlockwise", "fading in", "fading out", "moving together", "moving apart",
)  # fmt: skip
SHARED = CLASS_NAMES[:6]  # those of which two shapes in one video have one each
FPS = 8  # frames per second, written into the files
# One thread and no macroblock tree: otherwise x264 encodes the same frames differently from run to run, and the dataset must not vary.
ENCODER_OPTIONS = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class SyntheticConfig:
    """What to draw. The numbers of videos are totals over all classes and must be multiples of the number of classes."""

    train_videos: int = 1440
    val_videos: int = 240
    test_videos: int = 960
    num_frames: int = 16
    size: int = 80  # side, pixels
    seed: int = 0
    colours: tuple[str, ...] = ()  # with any, see class_names
    two_shapes: bool = False  # two in every video, each with a motion of its own


def class_names(colours: Sequence[str] = ()) -> list[str]:
    """The twelve motions; or every motion in each of some colours: "red moving left"."""
    return [f"{colour} {motion}" for colour in colours for motion in CLASS_NAMES] or list(CLASS_NAMES)


def draw_scenes(label: int, rng: np.random.Generator, num_frames: int, colours: Sequence[str] = ()) -> Scenes:
    """Draw the parameters of one video of a class: the scene of every frame, before rendering."""
    shape, _, colour, background = random_looks(rng, 1)
    if colours:
        colour = np.float32([COLOURS[colours[label // len(CLASS_NAMES)]]])
    cycles = rng.uniform(0.7, 1.6)  # of the motion, over the whole video
    phase = rng.uniform() + cycles * np.arange(num_frames) / num_frames
    phase = (phase if label % 2 else -phase)[:, None] % 1.0  # the even class of a pair runs backwards in time
    x, y = rng.uniform(0.2, 0.8, size=2)
    radius, alpha = rng.uniform(0.11, 0.19), 1.0
    xs, ys = np.full_like(phase, x), np.full_like(phase, y)
    radii, alphas = np.full(num_frames, radius), np.full(num_frames, alpha)
    match label % len(CLASS_NAMES) // 2:
        case 0:  # right as the phase grows
            xs = x + phase
        case 1:  # down
            ys = y + phase
        case 2:  # odd: shrinks
            radii = 0.30 - 0.22 * phase[:, 0]
        case 3:  # odd: anticlockwise as seen (y points down)
            orbit = rng.uniform(0.18, 0.28)
            x, y = rng.uniform(0.35, 0.65, size=2)
            xs, ys = x + orbit * np.cos(2 * np.pi * phase), y - orbit * np.sin(2 * np.pi * phase)
        case 4:  # odd: fades out
            radii = np.full(num_frames, rng.uniform(0.14, 0.24))
            alphas = 1.0 - 0.9 * phase[:, 0]
        case 5:  # odd: apart
            angle = rng.uniform(0, np.pi)
            half = 0.10 + 0.26 * phase
            x, y = rng.uniform(0.4, 0.6, size=2)
            steps = np.array([[-1.0, 1.0]])
            xs, ys = x + half * steps * np.cos(angle), y + half * steps * np.sin(angle)
            radii = np.full(num_frames, rng.uniform(0.08, 0.11))
    looks = (np.repeat(look, num_frames, axis=0) for look in (shape, colour, background))
    return Scenes(*map(np.float32, (xs, ys, radii, alphas)), *looks)


def draw_video(label: int, rng: np.random.Generator, num_frames: int, size: int, colours: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Draw one video of a class: (num_frames, size, size, 3) uint8 RGB."""
    return render(draw_scenes(label, rng, num_frames, colours), size)


def draw_two(labels: Sequence[int], rng: np.random.Generator, num_frames: int, size: int) -> NDArray[np.uint8]:
    """Draw one video in which something moves as in each of two classes, the second in front: (num_frames, size, size, 3) uint8 RGB."""
    behind, front = (draw_scenes(label, rng, num_frames) for label in labels)
    white, black = np.full_like(front.colour, 255), np.zeros_like(front.background)
    share = render(replace(front, colour=white, background=black), size) / 255  # of the one in front, in each pixel
    return np.rint(render(behind, size) * (1 - share) + front.colour[:, None, None] * share).astype(np.uint8)


def two_labels(seed: int, split: str, number: int) -> tuple[int, int]:
    """The motions of a video with two shapes, behind and in front: over six videos, each of SHARED is once behind."""
    behind = number % len(SHARED)
    return behind, (behind + int(np.random.default_rng([seed, SPLITS.index(split), number]).integers(1, len(SHARED)))) % len(SHARED)


def video_rng(seed: int, split: str, label: int, number: int) -> np.random.Generator:
    """Return the random generator of one video: every video has its own stream."""
    return np.random.default_rng([seed, SPLITS.index(split), label, number])


def write_video(path: Path, frames: NDArray[np.uint8], fps: int = FPS, codec: str = "libx264", options: dict | None = None) -> None:
    """Encode frames (t, h, w, 3) uint8 RGB with even sides (4:2:0); the file extension selects the container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = ENCODER_OPTIONS if options is None else options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def recipe_hash(config: SyntheticConfig) -> str:
    """Hash the settings and the drawing code: another recipe is another dataset."""
    code = Path(__file__).read_bytes() + Path(scenes.__file__).read_bytes()
    return hashlib.sha256(json.dumps(asdict(config)).encode() + code).hexdigest()


def make_videos(root: Path, config: SyntheticConfig, processes: int) -> bool:
    """Write root/<split>/<class name>/<number>.mp4, unless the same recipe was written there before.

    With two shapes they are root/<split>/<number>.mp4, and root/<split>.csv holds their labels as annotation rows.

    The splits are drawn from separate random streams. An unfinished earlier attempt is started again from the beginning.
    Returns: whether anything was written.
    Raises: UserError if the counts are not multiples of the number of classes, root holds files of another origin, another
        process is writing there, or encoding crashes.
    """
    done = root / "recipe.json"
    digest = recipe_hash(config)
    if _recipe(done) == digest:
        return False
    counts, names = {split: getattr(config, f"{split}_videos") for split in SPLITS}, class_names(config.colours)
    for split, count in counts.items():
        if count % len(names):
            raise UserError(f"data.{split}_videos = {count}: give a multiple of {len(names)}, the number of classes")
    with own(root.with_name(f".{root.name}.lock"), f"videos: {root}"):
        if _recipe(done) == digest:  # by another process in the meantime
            return False
        if root.is_dir() and any(root.iterdir()) and not done.is_file():
            raise UserError(f"videos: {root} holds files that this workbook did not write; move them away or set data.prepared")
        shutil.rmtree(root, ignore_errors=True)
        write_json(done, {"sha256": "unfinished"})
        groups = 1 if config.two_shapes else len(names)
        jobs = [
            (root, config, split, label, number)
            for split, count in counts.items()
            for label in range(groups)
            for number in range(count // groups)
        ]
        for place, result in call_in_children(_make_one, jobs, processes, LIMIT_S):
            if isinstance(result, Failure):
                raise UserError(f"videos: number {place} of {len(jobs)} cannot be written to {root}: {result.reason}")
        for split, count in counts.items() if config.two_shapes else ():
            rows = [f"{split}/{i:05d}.mp4,{names[label]}\n" for i in range(count) for label in two_labels(config.seed, split, i)]
            (root / f"{split}.csv").write_text("".join(["path,label\n", *rows]), encoding="utf-8")
        write_json(done, {"sha256": digest, "config": asdict(config)})
    return True


def _recipe(done: Path) -> str | None:
    return read_json(done).get("sha256") if done.is_file() else None


def _make_one(job: tuple[Path, SyntheticConfig, str, int, int]) -> None:
    root, config, split, label, number = job
    if config.two_shapes:
        labels, rng = two_labels(config.seed, split, number), video_rng(config.seed, split, len(CLASS_NAMES), number)
        write_video(root / split / f"{number:05d}.mp4", draw_two(labels, rng, config.num_frames, config.size))
        return
    path = root / split / class_names(config.colours)[label] / f"{number:04d}.mp4"
    write_video(path, draw_video(label, video_rng(config.seed, split, label, number), config.num_frames, config.size, config.colours))


HALF_SIDES = {"circle": 1.0, "square": 0.86, "diamond": 1.2, "ring": 1.03}  # of an outline's box, in radii: from scenes.OUTLINES
FINE = 32  # points per side of a cell at which the share of the boxes is sampled


def video_scenes(path: str | Path, config: SyntheticConfig) -> Scenes:
    """Draw again what a video of the demonstration shows, from its path .../<split>/<class name>/<number>.mp4 alone.

    Raises: UserError when make_videos writes no such path.
    """
    path = Path(path)
    split, name, number, names = path.parent.parent.name, path.parent.name, path.stem, class_names(config.colours)
    if split not in SPLITS or name not in names or not number.isdecimal():
        raise UserError(f"boxes: {path} is not a video of the demonstration (<split>/<class>/<number>.mp4)")
    label = names.index(name)
    return draw_scenes(label, video_rng(config.seed, split, label, int(number)), config.num_frames, config.colours)


def box_shares(scenes: Scenes, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of each grid cell that the boxes of the objects cover: (n, rows, columns), from 0 to 1.

    A box that leaves the picture re-enters at the opposite side, as its object does; where two boxes overlap, the area counts once.
    """
    half = np.array([HALF_SIDES[name] for name in SHAPES])[scenes.shape] * scenes.radius  # (n,) shares of the side
    pixels = [(np.arange(cells * FINE) + 0.5) / (cells * FINE) for cells in grid]
    inside = np.zeros((len(half), grid[0] * FINE, grid[1] * FINE), bool)
    for o in range(scenes.x.shape[1]):
        rows = _near(pixels[0], scenes.y[:, o, None], half[:, None])
        columns = _near(pixels[1], scenes.x[:, o, None], half[:, None])
        inside |= rows[:, :, None] & columns[:, None, :]
    return inside.reshape(len(half), grid[0], FINE, grid[1], FINE).mean(axis=(2, 4))


def _near(points: NDArray, centre: NDArray, half: NDArray) -> NDArray[np.bool_]:
    return np.abs((points[None, :] - centre + 0.5) % 1.0 - 0.5) <= half
