"""Choice of frames: 400 golden cases of the published code, and the definitions of DATA.md as properties."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data import sampling
from m2clip_lib.data.sampling import spatial_offsets, train_indices

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "test_sampling.json").read_text())
frames = st.integers(1, 400)
clip_lens = st.integers(1, 40)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32)


def evaluation_indices(*args: int) -> list[list[int]]:
    """Under its own name pytest would collect it as a test."""
    return sampling.test_indices(*args)


def test_evaluation_indices_equal_the_400_published_cases():
    assert len(GOLDEN) == 400
    for case in GOLDEN:
        found = evaluation_indices(case["num_frames"], case["clip_len"], case["stride"], case["views"])
        assert found == case["indices"], case


@given(frames, clip_lens, st.integers(0, 40), st.integers(1, 10))
def test_evaluation_clips_are_whole_ascending_and_inside_the_video(n, t, r, v):
    clips = evaluation_indices(n, t, r, v)
    assert len(clips) == (v if r else 1)
    for clip in clips:
        assert len(clip) == t
        assert clip == sorted(clip)
        assert clip[0] >= 0
        assert clip[-1] < n


@given(frames, clip_lens, strides, st.integers(2, 10))
def test_evaluation_views_run_from_the_first_to_the_last_possible_start(n, t, r, v):
    clips = evaluation_indices(n, t, r, v)
    starts = [clip[0] for clip in clips]
    assert starts[0] == 0
    assert starts[-1] == max(0, n - r * (t - 1) - 1)
    assert starts == sorted(starts)
    steps = np.diff(starts)
    assert steps.max() - steps.min() <= 2  # even but for the rounding of both ends


@given(frames, clip_lens, strides)
def test_a_single_evaluation_view_is_the_middle_of_the_video(n, t, r):
    (clip,) = evaluation_indices(n, t, r)
    left, right = clip[0], n - 1 - clip[-1]  # frames left over on either side
    if n > r * (t - 1):
        assert 0 <= right - left <= 1
    else:
        assert clip == [min(i * r, n - 1) for i in range(t)]  # short: the last FRAME is repeated


@given(frames, clip_lens, strides, seeds)
def test_training_clip_of_a_long_video_keeps_the_stride_and_starts_anywhere_in_range(n, t, r, seed):
    clip = train_indices(n + r * (t - 1), t, r, np.random.default_rng(seed))
    assert np.diff(clip).tolist() == [r] * (t - 1)
    assert 0 <= clip[0] < n


@given(clip_lens, strides, seeds, st.data())
def test_short_training_video_repeats_the_last_picked_frame(t, r, seed, data):
    n = data.draw(st.integers(1, max(1, r * (t - 1))))
    clip = train_indices(n, t, r, np.random.default_rng(seed))
    picked = [i * r for i in range(t) if i * r < n]
    assert clip == picked + [picked[-1]] * (t - len(picked))


def test_every_possible_start_of_a_training_clip_is_drawn_and_no_other():
    # 20 frames, 4 picks 5 apart: the last pick is start + 15, so the start is 0, 1, 2, 3 or 4
    starts = [train_indices(20, 4, 5, np.random.default_rng(seed))[0] for seed in range(500)]
    counts = np.bincount(starts)
    assert len(counts) == 5
    assert counts.min() > 60  # 100 expected each; 60 is 4.5 standard deviations below


@given(frames, clip_lens, seeds)
def test_spread_training_clip_takes_one_frame_of_each_segment(n, t, seed):
    clip = train_indices(n, t, 0, np.random.default_rng(seed))
    segment = (n - 1) / t
    assert len(clip) == t
    for i, index in enumerate(clip):
        assert round(segment * i) <= index <= round(segment * (i + 1))


def test_both_ends_of_a_segment_are_drawn():
    # 9 frames, 2 segments: [0, 4] and [4, 8]
    clips = [train_indices(9, 2, 0, np.random.default_rng(seed)) for seed in range(200)]
    assert {clip[0] for clip in clips} == {0, 1, 2, 3, 4}
    assert {clip[1] for clip in clips} == {4, 5, 6, 7, 8}


@given(frames, clip_lens, st.integers(0, 40), seeds)
def test_training_clip_depends_on_the_generator_alone(n, t, r, seed):
    clips = [train_indices(n, t, r, np.random.default_rng(seed)) for _ in range(2)]
    assert clips[0] == clips[1]
    assert clips[0] == sorted(clips[0])
    assert all(type(index) is int for index in clips[0])


def test_spatial_offsets_by_hand():
    # 100 x 64, side 64: 36 pixels of room along the width
    assert spatial_offsets(64, 100, 64, 1) == [(0, 18)]
    assert spatial_offsets(64, 100, 64, 3) == [(0, 0), (0, 18), (0, 36)]
    assert spatial_offsets(64, 100, 64, 4) == [(0, 0), (0, 9), (0, 18), (0, 36)]
    assert spatial_offsets(100, 64, 64, 3) == [(0, 0), (18, 0), (36, 0)]
    assert spatial_offsets(64, 67, 64, 4) == [(0, 0), (0, 0), (0, 1), (0, 3)]


@given(st.integers(8, 300), st.integers(0, 300), st.booleans(), st.sampled_from([1, 3, 4]))
def test_spatial_crops_lie_inside_the_frame_along_its_long_side(side, room, upright, views):
    height, width = (side + room, side) if upright else (side, side + room)
    corners = spatial_offsets(height, width, side, views)
    assert len(corners) == views
    for y, x in corners:
        assert 0 <= y <= height - side
        assert 0 <= x <= width - side


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 8, 1), "num_frames = 0"), ((10, 0, 1), "clip_len = 0"), ((10, 8, -1), "stride = -1"), ((10, 8, 1, 0), "views = 0")],
)
def test_bad_argument_is_named_with_its_value(arguments, named):
    with pytest.raises(ValueError, match=named):
        evaluation_indices(*arguments)
    if named != "views = 0":
        with pytest.raises(ValueError, match=named):
            train_indices(*arguments, np.random.default_rng(0))


def test_unknown_number_of_spatial_views_is_named():
    with pytest.raises(ValueError, match="spatial views = 2"):
        spatial_offsets(64, 100, 64, 2)
