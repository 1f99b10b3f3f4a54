"""No two kinds of draws of a training follow the same stream."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer

from m2clip_lib.data.dataset import Batch, EpochSampler, TrainClips
from m2clip_lib.data.prompts import class_prompts, prompt_number
from m2clip_lib.data.seeds import Purpose, stream, torch_seed
from m2clip_lib.data.transforms import Augmentation
from m2clip_lib.models.text import NOT_A_TARGET, build_captions
from m2clip_lib.train.step import TrainingSteps

VIDEOS, EPOCHS = 500, 2


def clip_starts(seed: int) -> np.ndarray:
    """First frame of every training clip of videos of 100 frames: (epochs, videos)."""
    starts = []

    def reader(row, indices, short_side):
        starts.append(indices[0])
        return np.zeros((len(indices), 8, 8, 3), np.uint8), "none"

    table = SimpleNamespace(num_frames=np.full(VIDEOS, 100), label=np.zeros(VIDEOS, int))
    clips = TrainClips(table, reader, 2, 8, 8, Augmentation((8, 8)), seed)
    for epoch in range(1, EPOCHS + 1):
        for row in range(VIDEOS):
            clips[epoch, row]
    return np.array(starts).reshape(EPOCHS, VIDEOS)


def hidden_words(seed: int) -> np.ndarray:
    """Which word of a two-word name is hidden for every clip, 0 or 1: (epochs, videos)."""
    tokenizer = SimpleTokenizer(context_length=16)
    captions = build_captions([of_class[0] for of_class in class_prompts(["moving left"], "A video of {}")], ["left", "moving"], tokenizer)
    steps = SimpleNamespace(
        settings=SimpleNamespace(seed=seed, masked_share=0.2),
        targets=None,
        backbone=SimpleNamespace(tokenizer=tokenizer),
        texts=SimpleNamespace(of_step=lambda step: (captions, None)),
    )
    labels = torch.zeros(VIDEOS, dtype=torch.int64)
    batch = Batch(torch.empty(0), labels, list(range(VIDEOS)), [], {})
    found = []
    for epoch in range(1, EPOCHS + 1):
        targets = TrainingSteps.prepare(steps, batch, epoch, 0).targets
        found.append(targets[targets != NOT_A_TARGET].numpy())
    return np.array(found)


def test_the_hidden_word_says_nothing_about_the_start_of_the_clip():
    """Both were drawn from (seed, epoch, row): r was 0.86. Of 1000 independent pairs r exceeds 0.13 once in 25,000."""
    starts, words = clip_starts(5), hidden_words(5)
    assert starts.min() == 0
    assert starts.max() == 91
    assert words.mean() == np.float64(words.mean()).clip(0.45, 0.55)
    assert abs(np.corrcoef(starts.ravel(), words.ravel())[0, 1]) < 0.13


def test_the_order_of_an_epoch_is_not_the_stream_of_its_first_clip():
    """numpy pads a key with zeros: (seed, epoch) and (seed, epoch, 0) were one stream."""
    sampler = EpochSampler(VIDEOS, 5, VIDEOS)
    sampler.epoch = 1
    order = [row for _, row in next(iter(sampler))]
    assert order == stream(5, Purpose.ORDER, 1).permutation(VIDEOS).tolist()
    assert order != stream(5, Purpose.CLIP, 1, 0).permutation(VIDEOS).tolist()
    assert sorted(order) == list(range(VIDEOS))


def test_one_key_for_two_purposes_gives_unrelated_numbers():
    draws = {purpose: [stream(0, purpose, i, 7).random() for i in range(2000)] for purpose in Purpose}
    for one, other in combinations(draws, 2):
        assert abs(np.corrcoef(draws[one], draws[other])[0, 1]) < 0.1, (one, other)
    assert len({torch_seed(0, purpose, 1, 2) for purpose in Purpose}) == len(Purpose)
    assert [prompt_number(5, step, 7) for step in range(50)] == [int(stream(5, Purpose.PROMPT, step, 7).integers(7)) for step in range(50)]
