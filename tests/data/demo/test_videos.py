"""The demonstration's videos: motions, boxes of the drawn objects, and files that never vary."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.classes import SPLITS
from m2clip_lib.data.demo import videos
from m2clip_lib.data.demo.scenes import SHAPES, Scenes, render
from m2clip_lib.data.demo.videos import (
    CLASS_NAMES,
    SyntheticConfig,
    box_shares,
    draw_scenes,
    draw_two,
    draw_video,
    make_videos,
    recipe_hash,
    two_labels,
    video_scenes,
    write_video,
)
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import probe
from m2clip_lib.data.workers import Failure
from m2clip_lib.errors import UserError


def scenes(x: list[float], y: list[float], radius: float, shape: int) -> Scenes:
    """One picture with objects of full red on black."""
    place = np.array([x], np.float32), np.array([y], np.float32)
    red, black = np.array([[255.0, 0, 0]]), np.zeros((1, 3))
    return Scenes(*place, np.array([radius], np.float32), np.ones(1, np.float32), np.array([shape]), red, black)


def test_a_box_covers_its_cells_by_hand():
    # a circle of radius 1/8 around the corner of four cells of a 4 x 4 grid covers a quarter of each
    shares = box_shares(scenes([0.5], [0.25], 0.125, SHAPES.index("circle")), (4, 4))[0]
    expected = np.zeros((4, 4))
    expected[0:2, 1:3] = 0.25
    np.testing.assert_allclose(shares, expected)


def test_a_box_that_leaves_at_one_side_comes_in_at_the_other():
    shares = box_shares(scenes([0.0], [0.5], 0.25, SHAPES.index("circle")), (1, 4))[0]
    np.testing.assert_allclose(shares, [[0.5, 0, 0, 0.5]])


def test_where_boxes_overlap_the_share_counts_once():
    shares = box_shares(scenes([0.5, 0.5], [0.5, 0.5], 0.25, SHAPES.index("circle")), (2, 2))[0]
    np.testing.assert_allclose(shares, np.full((2, 2), 0.25))


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0.125, 0.25, width=32), st.sampled_from(range(len(SHAPES))))
def test_the_box_is_as_tight_as_the_drawn_object(x, y, radius, shape):
    """Every clearly painted pixel lies inside; the box is at most two pixels larger than the painted rows and columns."""
    size = 64
    picture = scenes([x], [y], radius, shape)
    painted = render(picture, size)[0, :, :, 0] > 140  # more than half covered
    inside = box_shares(picture, (size, size))[0] > 0
    assert inside[painted].all()
    for axis in (0, 1):
        assert 0 <= inside.any(axis=axis).sum() - painted.any(axis=axis).sum() <= 3


def test_the_box_of_a_written_video_is_where_its_pixels_change(tmp_path):
    config = SyntheticConfig(train_videos=12, val_videos=12, test_videos=12, num_frames=6, size=64, seed=5)
    make_videos(tmp_path / "videos", config, 1)
    for name in CLASS_NAMES:
        path = tmp_path / "videos" / "test" / name / "0000.mp4"
        frames, _ = read_frames(path, range(6))
        found = video_scenes(path, config)
        inside = box_shares(found, (64, 64)) > 0
        drawn = render(found, 64)
        assert np.abs(frames.astype(float) - drawn).mean() < 6  # the very video, but for its compression
        strange = np.abs(drawn.astype(float) - found.background[:, None, None]).sum(axis=3) > 60
        assert inside[strange].mean() > 0.99, name


@pytest.mark.parametrize("path", ["/videos/clip.mp4", "/videos/test/dancing/0001.mp4", "/videos/test/growing/first.mp4"])
def test_a_video_of_another_origin_has_no_boxes(path):
    with pytest.raises(UserError, match="not a video of the demonstration"):
        video_scenes(Path(path), SyntheticConfig())


SMALL = SyntheticConfig(train_videos=24, val_videos=12, test_videos=12, num_frames=6, size=32, seed=3)
VIDEOS = 12  # drawn per class


def foreground(video: np.ndarray) -> np.ndarray:
    """How much of a pixel is object: (t, h, w), the distance from the ground's colour, which is the commonest."""
    codes, counts = np.unique(video.astype(np.int64) @ (65536, 256, 1), return_counts=True)
    ground = [codes[counts.argmax()] // scale % 256 for scale in (65536, 256, 1)]
    return np.abs(video.astype(float) - ground).sum(axis=3)


def track(video: np.ndarray) -> np.ndarray:
    """Steps (dx, dy) of the object's centre from frame to frame, in shares of the side; the picture wraps around: (t - 1, 2)."""
    mass = foreground(video)
    angles = np.exp(2j * np.pi * (np.arange(video.shape[1]) + 0.5) / video.shape[1])
    centre = np.stack([np.angle((mass.sum(axis=1) * angles).sum(axis=1)), np.angle((mass.sum(axis=2) * angles).sum(axis=1))], axis=1)
    steps = np.diff(centre, axis=0) / (2 * np.pi)
    return (steps + 0.5) % 1 - 0.5


def spread(video: np.ndarray) -> np.ndarray:
    """Mean squared distance of the objects' pixels from their common centre: (t,)."""
    mass = foreground(video)
    y, x = np.mgrid[: video.shape[1], : video.shape[2]]
    total = mass.sum(axis=(1, 2))
    mx, my = (mass * x).sum(axis=(1, 2)) / total, (mass * y).sum(axis=(1, 2)) / total
    return (mass * ((x - mx[:, None, None]) ** 2 + (y - my[:, None, None]) ** 2)).sum(axis=(1, 2)) / total


def measured_class(video: np.ndarray, label: int) -> int:
    """The class of label's pair that the video shows, read off its pixels; motions are saw-tooth, so the median step decides."""
    steps = track(video)
    match CLASS_NAMES[label // 2 * 2]:
        case "moving left":
            sign = -np.median(steps[:, 0])
        case "moving up":  # y grows downwards
            sign = -np.median(steps[:, 1])
        case "growing":
            sign = np.median(np.diff((foreground(video) > 60).sum(axis=(1, 2))))
        case "circling clockwise":  # with y downwards a positive turn is clockwise to the eye
            sign = np.median(steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0])
        case "fading in":
            sign = np.median(np.diff(foreground(video).max(axis=(1, 2))))
        case "moving together":
            sign = -np.median(np.diff(spread(video)))
    assert sign != 0
    return label // 2 * 2 + int(sign < 0)


@pytest.mark.parametrize("label", range(12), ids=CLASS_NAMES)
def test_motion_is_what_the_class_name_says_and_backwards_it_is_the_opposite(label):
    for number in range(VIDEOS):
        video = draw_video(label, np.random.default_rng([label, number]), 16, 64)
        assert measured_class(video, label) == label, number
        assert measured_class(video[::-1], label) == label ^ 1, number


def test_opposites_are_pairs_of_names():
    pairs = {(CLASS_NAMES[label], CLASS_NAMES[label ^ 1]) for label in range(0, 12, 2)}
    assert pairs == {
        ("moving left", "moving right"),
        ("moving up", "moving down"),
        ("growing", "shrinking"),
        ("circling clockwise", "circling anticlockwise"),
        ("fading in", "fading out"),
        ("moving together", "moving apart"),
    }


@pytest.mark.parametrize("pair", range(6), ids=CLASS_NAMES[::2])
def test_a_single_frame_does_not_tell_a_class_from_its_opposite(pair):
    # what one frame shows (amount, strength, area, spread and place of the object) in 150 videos of either class: means
    # within four standard errors of each other. One-way motion from a fixed phase would leak the direction.
    looks = []
    for label in (2 * pair, 2 * pair + 1):
        rows = []
        for number in range(150):
            video, angles, row = (
                draw_video(label, np.random.default_rng([label, number]), 16, 24),
                np.exp(2j * np.pi * np.arange(24) / 24),
                [],
            )
            for frame in (0, 7, 15):
                mass = foreground(video[frame : frame + 1])
                x, y = ((mass.sum(axis=axis)[0] * angles).sum() / mass.sum() for axis in (1, 2))
                row += [mass.sum(), mass.max(), (mass > 60).sum(), spread_of(mass), x.real, x.imag, y.real, y.imag]
            rows.append(row)
        looks.append(np.array(rows))
    one, other = looks
    error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other))
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4 * error).all()


def test_motion_starts_at_any_phase():
    # radius 0.30 - 0.22 * phase: the first frames of a class that grows hold nearly the largest and nearly the smallest object
    areas = [(foreground(draw_video(4, np.random.default_rng(seed), 16, 48)[:1]) > 60).sum() for seed in range(60)]
    assert min(areas) < 0.15 * max(areas)


def spread_of(mass: np.ndarray) -> float:
    """Standard deviation of the columns that hold the object, pixels."""
    columns = mass.sum(axis=1)[0] / mass.sum()
    places = np.arange(len(columns))
    return float(np.sqrt((columns * (places - (columns * places).sum()) ** 2).sum()))


def test_drawing_is_a_function_of_the_generator_and_has_the_requested_size():
    one, same, other = (draw_video(0, np.random.default_rng(seed), 7, 40) for seed in (1, 1, 2))
    assert one.shape == (7, 40, 40, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_rendered_square_by_hand_wraps_around_and_blends():
    # 20 px, a square of half side 0.86 * 0.25 = 0.215 around the corner (0, 0): 4.3 px to each side, opacity 1/2
    white = np.full((1, 3), 200, np.float32)
    corner = Scenes(
        x=np.zeros((1, 1), np.float32),
        y=np.zeros((1, 1), np.float32),
        radius=np.full(1, 0.25, np.float32),
        alpha=np.full(1, 0.5, np.float32),
        shape=np.array([SHAPES.index("square")]),
        colour=white,
        background=white * 0 + 100,
    )
    picture = render(corner, 20)[0]
    inside = np.array([True] * 4 + [False] * 12 + [True] * 4)
    edge = np.array([False] * 4 + [True] + [False] * 10 + [True] + [False] * 4)  # pixel 4 spans 4.0 to 5.0: covered up to 4.3
    assert (picture[np.ix_(inside, inside)] == 150).all()
    assert (picture[np.ix_(~inside & ~edge, ~inside & ~edge)] == 100).all()
    np.testing.assert_allclose(picture[4, 0], 100 + 0.3 * 50, atol=1)


# --- files ---


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*.mp4"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "videos"
    assert make_videos(root, SMALL, processes=2)
    return root


def test_splits_are_balanced_and_share_no_file(made):
    files = digests(made)
    per_split = {split: [name for name in files if name.startswith(f"{split}/")] for split in SPLITS}
    assert {split: len(names) for split, names in per_split.items()} == {"train": 24, "val": 12, "test": 12}
    for split, names in per_split.items():
        assert {name.split("/")[1] for name in names} == set(CLASS_NAMES), split
    assert len(set(files.values())) == 48


def test_files_are_readable_videos_of_the_requested_size(made):
    path = made / "train" / "moving left" / "0001.mp4"
    info = probe(path)
    assert (info.num_frames, info.width, info.height, info.codec, info.fps) == (6, 32, 32, "h264", 8)
    drawn = draw_video(0, np.random.default_rng([3, 0, 0, 1]), 6, 32)
    difference = np.abs(read_frames(path, range(6))[0].astype(int) - drawn)
    assert difference.mean() < 6  # H.264 with half the colour resolution


def test_same_recipe_gives_the_same_bytes_whatever_the_number_of_processes(made, tmp_path):
    make_videos(tmp_path / "v", SMALL, processes=1)
    assert digests(tmp_path / "v") == digests(made)


def test_encoding_a_video_many_times_gives_one_file(tmp_path):
    # x264's macroblock tree was seen to give several files of the same frames in about one video of ten
    for label in (4, 5, 11):
        frames = draw_video(label, np.random.default_rng([3, 0, label, 0]), 16, 80)
        found = set()
        for _ in range(25):
            write_video(tmp_path / "a.mp4", frames)
            found.add(hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest())
        assert len(found) == 1, CLASS_NAMES[label]


def test_unchanged_recipe_writes_nothing_and_another_one_remakes(tmp_path):
    root = tmp_path / "v"
    config = SyntheticConfig(12, 12, 12, num_frames=2, size=16)
    assert make_videos(root, config, 1)
    first = digests(root)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*.mp4")}
    assert not make_videos(root, config, 1)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.mp4")} == times
    assert make_videos(root, SyntheticConfig(24, 12, 12, num_frames=2, size=16, seed=1), 1)
    second = digests(root)
    assert len(second) == 48
    assert not set(first.values()) & set(second.values())


def test_unfinished_attempt_is_started_again(tmp_path, monkeypatch):
    root = tmp_path / "v"
    config = SyntheticConfig(12, 12, 12, num_frames=2, size=16)
    with monkeypatch.context() as patch:
        patch.setattr(videos, "call_in_children", lambda *arguments: [(0, Failure("the decoder crashed (SIGKILL)"))])
        with pytest.raises(UserError, match="videos: number 0 of 36 cannot be written"):
            make_videos(root, config, processes=1)
    half = root / "train" / "moving left" / "0000.mp4"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert make_videos(root, config, processes=1)
    assert len(digests(root)) == 36
    assert probe(half).num_frames == 2


def test_recipe_hash_changes_with_every_setting():
    base = {"train_videos": 24, "val_videos": 12, "test_videos": 12, "num_frames": 6, "size": 32, "seed": 3}
    hashes = {recipe_hash(SyntheticConfig(**(base | {name: value + 12}))) for name, value in base.items()}
    assert len(hashes | {recipe_hash(SMALL)}) == 7
    assert recipe_hash(SyntheticConfig(**base)) == recipe_hash(SMALL)


def test_written_video_follows_extension_and_frame_rate(tmp_path):
    frames = draw_video(3, np.random.default_rng(0), 5, 32)
    write_video(tmp_path / "new" / "a.webm", frames, fps=5, codec="libvpx-vp9", options={})
    info = probe(tmp_path / "new" / "a.webm")
    assert (info.num_frames, info.codec, info.fps) == (5, "vp9", 5)


def test_two_shapes_are_drawn_over_one_background_the_second_in_front():
    frames = draw_two((0, 4), np.random.default_rng(5), 6, 40)  # moving left, growing
    rng = np.random.default_rng(5)
    behind, front = (draw_scenes(label, rng, 6) for label in (0, 4))
    alone = render(front, 40)
    inside = (alone == np.rint(front.colour).astype(np.uint8)[:, None, None]).all(axis=3)  # fully covered by the one in front
    assert inside.any()
    np.testing.assert_allclose(frames[inside], alone[inside], atol=1)  # soft edges that are nearly covered
    outside = (alone == np.rint(front.background).astype(np.uint8)[:, None, None]).all(axis=3)
    np.testing.assert_allclose(frames[outside], render(behind, 40)[outside], atol=1)


def test_every_shared_motion_is_as_often_behind_and_the_one_in_front_is_another():
    pairs = [two_labels(0, "train", number) for number in range(240)]
    assert np.bincount([behind for behind, _ in pairs]).tolist() == [40] * 6
    assert all(behind != front < 6 for behind, front in pairs)
    assert len(set(pairs)) == 30
    assert pairs != [two_labels(0, "val", number) for number in range(240)]


def test_videos_of_two_shapes_are_written_with_annotation_rows_of_their_labels(tmp_path):
    config = SyntheticConfig(12, 0, 12, num_frames=4, size=32, two_shapes=True)
    assert make_videos(tmp_path / "videos", config, 1)
    rows = (tmp_path / "videos" / "train.csv").read_text().splitlines()
    assert len(rows) == 1 + 24
    first, second = two_labels(0, "train", 11)
    assert rows[-2:] == [f"train/00011.mp4,{CLASS_NAMES[first]}", f"train/00011.mp4,{CLASS_NAMES[second]}"]
    frames, _ = read_frames(tmp_path / "videos" / "train" / "00011.mp4", range(4))
    drawn = draw_two((first, second), videos.video_rng(0, "train", 12, 11), 4, 32)
    assert np.abs(frames.astype(int) - drawn).mean() < 8  # compression
    assert not make_videos(tmp_path / "videos", config, 1)
