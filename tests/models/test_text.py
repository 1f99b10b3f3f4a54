"""Tokens and masking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from m2clip_lib.data.prompts import build_prompts, build_vocabulary, class_prompts
from m2clip_lib.errors import UserError
from m2clip_lib.models.text import MASK_WORD, NOT_A_TARGET, build_captions, mask_caption, tokenize

TOKENIZER = SimpleTokenizer(context_length=77)
TEMPLATE = "A video of {} outside."
WORDS = st.sampled_from(["brushing", "hair", "playing", "the", "trombone", "walking", "dog's", "tai-chi", "a", "of"])
NAMES = st.lists(st.lists(WORDS, min_size=1, max_size=7).map(" ".join), min_size=1, max_size=5, unique=True)


def captions_of(names, vocabulary):
    return build_captions([prompt for (prompt,) in class_prompts(names, TEMPLATE)], vocabulary, TOKENIZER)


@settings(max_examples=60, deadline=None)
@given(NAMES, st.integers(0, 2**31))
def test_masking_hides_words_of_the_class_name_only(names, seed):
    prompts = build_prompts(names, TEMPLATE)
    vocabulary = build_vocabulary(prompts)
    for name, prompt, caption in zip(names, prompts, captions_of(names, vocabulary), strict=True):
        tokens, targets = mask_caption(caption, TOKENIZER, np.random.default_rng(seed))
        masked = [vocabulary[i] for i in targets.tolist() if i != NOT_A_TARGET]
        assert 1 <= len(masked) == max(1, round(0.2 * len(name.split())))
        assert set(masked) <= set(name.lower().split())
        mask_id = TOKENIZER.encode(MASK_WORD)[0]
        assert (tokens == mask_id).tolist() == (targets != NOT_A_TARGET).tolist()  # a target sits on the mask's one token
        words = TOKENIZER.decode(tokens[1 : int(tokens.argmax())].tolist()).split()
        assert words.count(MASK_WORD) == len(masked)
        assert prompt.lower().split()[0] == "a"


def test_nothing_masked_leaves_the_prompts_own_tokens():
    caption = captions_of(["brushing hair"], ["unrelated"])[0]
    tokens, targets = mask_caption(caption, TOKENIZER, np.random.default_rng(0))
    assert torch.equal(tokens, TOKENIZER(["A video of brushing hair outside."])[0])
    assert (targets == NOT_A_TARGET).all()  # a word unknown to the vocabulary is never a target


def test_the_mask_word_is_one_token():
    assert len(TOKENIZER.encode(MASK_WORD)) == 1


def test_masking_depends_on_its_seed_alone():
    caption = captions_of(["playing the trombone loudly"], build_vocabulary(["playing the trombone loudly"]))[0]
    draws = [mask_caption(caption, TOKENIZER, np.random.default_rng([3, 1, 7]))[0] for _ in range(2)]
    assert torch.equal(*draws)
    others = [mask_caption(caption, TOKENIZER, np.random.default_rng([3, 1, i]))[0] for i in range(20)]
    assert any(not torch.equal(draws[0], other) for other in others)


def test_a_text_that_does_not_fit_is_refused_not_cut():
    short = SimpleTokenizer(context_length=8)
    with pytest.raises(UserError, match=r"needs 10 tokens, this backbone reads 8"):
        tokenize(short, ["a b c d e f g h"])
