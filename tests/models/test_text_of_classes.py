"""Several prompts per class: one per step in training, the mean of all in evaluation; with one prompt nothing changes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2clip_lib.data.prompts import class_prompts
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.text import NOT_A_TARGET, TrainingTexts, class_features, mask_caption

CPU = torch.device("cpu")
NAMES = ("moving left", "growing")


def model_of(backbone, **fields) -> M2CLIP:
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 1, "vision_adapter_width": 4, "text_adapter_layers": 2, "text_adapter_width": 4}
    return M2CLIP(backbone, M2CLIPConfig(NAMES, ("growing", "left", "moving"), **sizes, **fields)).eval()


@torch.no_grad()
def normal(model, text: str) -> torch.Tensor:
    return F.normalize(model.encode_text(model.backbone.tokenizer([text])).text_features, dim=-1)[0]


@torch.no_grad()
def test_one_prompt_gives_exactly_its_own_features(backbone):
    model = model_of(backbone)
    plain = F.normalize(model.encode_text(backbone.tokenizer([f"A video of {name}" for name in NAMES])).text_features, dim=-1)
    assert torch.equal(class_features(model, model.config.prompts(), CPU), plain)


@torch.no_grad()
def test_several_prompts_give_the_normalised_mean_of_normalised_features(backbone):
    own = (("it moves", "moving left, slowly", "left"), ("growing",))
    model = model_of(backbone, own_prompts=own)
    found = class_features(model, model.config.prompts(), CPU)
    for row, texts in zip(found, own, strict=True):
        mean = torch.stack([normal(model, text) for text in texts]).mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=2e-6, rtol=0)


def test_a_step_reads_one_prompt_for_texts_and_masked_captions_alike(backbone):
    model = model_of(backbone, prompt=("A video of {}", "{} on film"))
    texts = TrainingTexts(model, CPU, seed=5)
    sets = {}
    for step in range(30):
        captions, tokens = texts.of_step(step)
        form = backbone.tokenizer.decode(tokens[1][tokens[1] > 0].tolist())
        sets[form] = tokens
        words = ["a", "video", "of", "growing"] if "video" in form else ["growing", "on", "film"]
        assert [backbone.tokenizer.decode(list(word)).strip() for word in captions[1].words] == words
        _, targets = mask_caption(captions[1], backbone.tokenizer, np.random.default_rng(0))
        assert targets[targets != NOT_A_TARGET].tolist() == [0]  # "growing" is the first word of the vocabulary
    assert len(sets) == 2
    again = TrainingTexts(model, CPU, seed=5)
    assert all(torch.equal(texts.of_step(step)[1], again.of_step(step)[1]) for step in range(30))


def test_a_sentence_without_the_name_is_not_masked(backbone):
    model = model_of(backbone, own_prompts=(("it goes sideways",), ("growing",)))
    captions, _ = TrainingTexts(model, CPU, seed=0).of_step(0)
    assert [caption.maskable for caption in captions] == [(), (0,)]


@pytest.mark.parametrize("sets", [2, 5])
def test_frozen_text_is_computed_once_per_prompt_set(backbone, sets, monkeypatch):
    model = model_of(backbone, prompt=tuple(f"{i} {{}}" for i in range(sets)))
    texts, counted, compute = TrainingTexts(model, CPU, seed=0), [], model.text_prefix
    monkeypatch.setattr(model, "text_prefix", lambda *a: counted.append(1) or compute(*a))
    for step in range(40):
        model.encode_text(texts.of_step(step)[1], fixed=True)
    assert len(counted) == sets


@torch.no_grad()
def test_other_names_use_the_templates_when_a_model_has_its_own_sentences(backbone):
    model = model_of(backbone, prompt="see {}", own_prompts=(("x",), ("y",)))
    found = class_features(model, class_prompts(["fading"], model.config.prompt), CPU)
    assert torch.equal(found[0], normal(model, "see fading"))
