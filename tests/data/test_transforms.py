"""Augmentation draws once per clip; evaluation crops and normalisation match hand arithmetic and the published preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from m2clip_lib.data import transforms
from m2clip_lib.data.sampling import test_indices as evaluation_indices
from m2clip_lib.data.transforms import Augmentation, augment, frames_to_clip, to_model_input
from m2clip_lib.data.video.decode import read_frames
from m2clip_lib.data.video.probe import probe

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HOW = {
    "crop": Augmentation((40, 40)),
    "mirror": Augmentation((40, 40), mirror=True),
    "resized crop": Augmentation((40, 40), random_resized_crop=True),
    "RandAugment": Augmentation((40, 40), random_resized_crop=True, rand_augment=True),
    "everything": Augmentation((40, 40), random_resized_crop=True, rand_augment=True, mirror=True),
}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", HOW)
def test_every_frame_of_a_clip_is_augmented_the_same_way(how):
    still = noise(1, 3, 40, 56).expand(6, 3, 40, 56).clone()
    for seed in range(20):
        out = augment(still, 32, HOW[how], seed)
        assert out.shape == (6, 3, 32, 32)
        assert out.dtype == torch.uint8
        assert (out == out[:1]).all()


@pytest.mark.parametrize("how", HOW)
def test_augmentation_depends_on_its_seed_alone_and_leaves_the_global_generator(how):
    clip = noise(4, 3, 40, 56)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(clip, 32, HOW[how], 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(clip, 32, HOW[how], 7), first)
    assert any(not torch.equal(augment(clip, 32, HOW[how], seed), first) for seed in range(8, 12))


def test_crop_is_a_part_of_the_frame_and_every_place_is_drawn():
    # pixel (y, x) holds 10 * y + x: a 4 x 4 crop of 5 x 6 says where it was cut
    clip = (10 * torch.arange(5)[:, None] + torch.arange(6)).to(torch.uint8).expand(2, 3, 5, 6)
    corners = set()
    for seed in range(200):
        out = augment(clip, 4, Augmentation((5, 5)), seed)
        y, x = divmod(int(out[0, 0, 0, 0]), 10)
        assert torch.equal(out, clip[:, :, y : y + 4, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in (0, 1) for x in (0, 1, 2)}


def test_mirror_flips_about_half_of_the_clips_and_only_when_asked():
    clip = torch.arange(8, dtype=torch.uint8).expand(2, 3, 8, 8)  # brighter to the right
    flipped = [torch.equal(augment(clip, 8, Augmentation((8, 8), mirror=True), seed), clip.flip(3)) for seed in range(400)]
    assert 150 < sum(flipped) < 250  # five standard deviations around 200
    for seed in range(50):
        assert torch.equal(augment(clip, 8, Augmentation((8, 8)), seed), clip)


def test_frames_become_channels_first_without_moving_a_pixel():
    frames = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    clip = frames_to_clip(frames[::-1])  # a view with negative strides, as slicing makes them
    assert clip.shape == (2, 3, 4, 5)
    assert clip.is_contiguous()
    for t, c, y, x in ((0, 0, 0, 0), (0, 2, 1, 4), (1, 1, 3, 2)):
        assert clip[t, c, y, x] == frames[1 - t, y, x, c]


def test_evaluation_crops_are_cut_along_the_long_side():
    wide = torch.arange(10, dtype=torch.uint8).expand(2, 3, 4, 10)  # pixel value = column; 6 columns of room
    assert [int(crop[0, 0, 0, 0]) for crop in transforms.test_crops(wide, 4, 3)] == [0, 3, 6]
    assert [int(crop[0, 0, 0, 0]) for crop in transforms.test_crops(wide, 4, 4)] == [0, 1, 3, 6]
    tall = wide.transpose(2, 3)
    assert [int(crop[0, 0, 0, 0]) for crop in transforms.test_crops(tall, 4, 3)] == [0, 3, 6]
    assert transforms.test_crops(tall, 4, 3).shape == (3, 2, 3, 4, 4)


def test_normalisation_by_hand():
    # 0.5 * 255 = 127.5 has no byte; with mean 0.5 and std 0.25: 0 -> -2, 255 -> 2, 51 = 0.2 -> -1.2
    clips = torch.zeros(1, 2, 3, 1, 1, dtype=torch.uint8)
    clips[0, 0, 0], clips[0, 1, 1], clips[0, 0, 2] = 255, 51, 255
    out = to_model_input(clips, (0.5, 0.5, 0.2), (0.25, 0.25, 0.4))
    assert out.shape == (1, 3, 2, 1, 1)  # channels before time
    expected = [[2.0, -2.0], [-2.0, -1.2], [2.0, -0.5]]  # channel, frame
    torch.testing.assert_close(out[0, :, :, 0, 0], torch.tensor(expected))


def test_normalisation_of_clip_equals_the_formula_for_every_byte():
    clips = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 16, 16).expand(1, 1, 3, 16, 16)
    out = to_model_input(clips, MEAN, STD)
    for channel in range(3):
        expected = (torch.arange(256) / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(out[0, channel, 0].flatten(), expected, atol=1e-6, rtol=0)


def test_exact_resize_of_every_golden_key_is_tested():
    assert set(load_file(GOLDEN / "preprocess.safetensors")) == {"1x1_r16", "3x1_r0", "4x3_r8"}


@pytest.mark.parametrize(("size", "side", "resized"), [((72, 104), 32, (32, 46)), ((104, 72), 32, (46, 32)), ((40, 40), 32, (32, 32))])
def test_exact_resize_rounds_the_long_side_down(size, side, resized):
    assert transforms.exact_resize(noise(2, 3, *size), side, MEAN, STD).shape[2:] == resized  # 104 * 32 / 72 = 46.2


@pytest.mark.parametrize(("key", "spatial", "temporal", "stride"), [("1x1_r16", 1, 1, 16), ("3x1_r0", 3, 1, 0), ("4x3_r8", 4, 3, 8)])
def test_views_are_those_of_the_published_preprocessing(key, spatial, temporal, stride):
    """The golden views were resized without antialias and after normalisation, ours in the decoder: equal up to that, and nearest.

    tests/golden/preprocess.safetensors is shared/golden's, rounded to fp16.
    """
    golden = load_file(GOLDEN / "preprocess.safetensors")[key].float()  # [views, 3, 4, 32, 32], spatial-major
    path = GOLDEN / "preprocess.mp4"
    info = probe(path)
    assert (info.num_frames, info.width, info.height) == (48, 104, 72)
    clips = []
    for indices in evaluation_indices(48, 4, stride, temporal):
        frames, _ = read_frames(path, indices, (46, 32))  # 104 * 32 / 72 = 46.2
        clips.append(to_model_input(transforms.test_crops(frames_to_clip(frames), 32, spatial), MEAN, STD))
    ours = torch.stack(clips, dim=1).flatten(0, 1)  # temporal views inside spatial ones, as in the golden file
    assert ours.shape == golden.shape
    distance = (ours[:, None] - golden[None]).abs().mean(dim=(2, 3, 4, 5))
    assert distance.diagonal().max() < 0.2  # standard deviations of a pixel; different views are at 1.0, overlapping ones at 0.25
    assert distance.argmin(dim=1).tolist() == list(range(len(golden)))
