"""What words read of the frames: the attention of the masked-word head, and its guesses."""

import pytest
import torch

from m2clip_lib.attention.record import guess_words, word_attention
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.text import tokenize

WORDS = ("a", "anticlockwise", "left", "moving", "of", "video")


@pytest.fixture(scope="module")
def model(backbone):
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 1, "vision_adapter_width": 8, "text_adapter_layers": 3, "text_adapter_width": 8}
    model = M2CLIP(backbone, M2CLIPConfig(("moving left", "moving anticlockwise"), WORDS, **sizes)).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("clip."):  # shared with other tests
            torch.nn.init.normal_(parameter, std=0.2)
    return model


FRAMES = torch.randn(1, 5, 96, generator=torch.Generator().manual_seed(3))


def test_a_word_has_a_row_over_the_frames_that_sums_to_one(model):
    words, rows = word_attention(model, FRAMES, "A video of moving LEFT")
    assert words == ["a", "video", "of", "moving", "left"]
    assert rows.shape == (5, 5)
    torch.testing.assert_close(rows.sum(1), torch.ones(5))
    assert rows.std() > 1e-3  # not even: there is something to see


@torch.no_grad()
def test_rows_are_softmax_of_word_queries_and_frame_keys(model):
    words, rows = word_attention(model, FRAMES, "a video of anticlockwise")
    tokens = tokenize(model.backbone.tokenizer, ["a video of anticlockwise"])
    block, adapters = model.mlm_block, model.text_adapters[-1]
    assert "pre_attn" not in adapters
    attn = block.attn
    w_q, w_k, _ = attn.in_proj_weight.chunk(3)
    b_q, b_k, _ = attn.in_proj_bias.chunk(3)
    q = block.ln_1(model.encode_text(tokens).text_hidden[0]) @ w_q.T + b_q
    k = block.ln_1(FRAMES[0]) @ w_k.T + b_k
    heads = [(q[:, h : h + 32] @ k[:, h : h + 32].T / 32**0.5).softmax(-1) for h in (0, 32, 64)]
    by_token = torch.stack(heads).mean(0)
    length = len(model.backbone.tokenizer.encode("anticlockwise"))
    assert length > 1  # a word of several tokens
    torch.testing.assert_close(rows[3], by_token[4 : 4 + length].mean(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(rows[0], by_token[1], atol=1e-6, rtol=1e-4)
    assert len(words) == 4


@torch.no_grad()
def test_guesses_are_the_best_words_at_the_hidden_place(model):
    (found,) = guess_words(model, FRAMES, "a video of moving mask", top=2)
    tokens = tokenize(model.backbone.tokenizer, ["a video of moving mask"])
    scores = model.mlm_logits(model.encode_text(tokens).text_hidden, FRAMES)[0, 5].softmax(-1)
    best = scores.argsort(descending=True)[:2]
    assert [word for word, _ in found] == [WORDS[i] for i in best]
    assert [score for _, score in found] == pytest.approx(scores[best].tolist())


def test_without_a_hidden_word_there_is_nothing_to_guess(model):
    assert guess_words(model, FRAMES, "a video of moving left") == []


def test_recording_leaves_no_hook(model):
    word_attention(model, FRAMES, "a video")
    assert not model.mlm_block.ln_1._forward_hooks


def test_an_empty_caption_is_refused(model):
    with pytest.raises(UserError, match="caption: it is empty"):
        word_attention(model, FRAMES, "  ")
