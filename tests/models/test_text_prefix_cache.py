"""The cache of frozen text blocks: exact, and recomputed whenever something it depends on changes."""

import copy
import dataclasses

import pytest
import torch

from m2clip_lib.models import M2CLIP, M2CLIPConfig, text

CONFIG = M2CLIPConfig(("one", "two"), ("a", "one"), 1, 8, text_adapter_layers=2, text_adapter_width=8)


@pytest.fixture
def model(backbone):
    """A model with its own copy of the backbone, as the tests write into its weights. One text block is frozen."""
    torch.manual_seed(0)
    return M2CLIP(dataclasses.replace(backbone, clip=copy.deepcopy(backbone.clip)), CONFIG).eval()


@pytest.fixture
def calls(model, monkeypatch):
    """One entry per computation of the prefix."""
    counted = []
    compute = model.text_prefix
    monkeypatch.setattr(model, "text_prefix", lambda *a: counted.append(1) or compute(*a))
    return counted


def tokens_of(model, *texts):
    return model.backbone.tokenizer(list(texts))


def test_cached_and_computed_features_are_equal(model):
    tokens = tokens_of(model, "A video of one", "A video of two")
    assert model.frozen_text_blocks == 1
    with torch.no_grad():
        plain = model.encode_text(tokens)
        for _ in range(2):
            cached = model.encode_text(tokens, fixed=True)
            assert torch.equal(cached.text_features, plain.text_features)
            assert torch.equal(cached.text_hidden, plain.text_hidden)


def test_the_prefix_is_computed_once_for_the_same_tokens(model, calls):
    tokens = tokens_of(model, "one", "two")
    for _ in range(3):
        model.encode_text(tokens, fixed=True)
    assert len(calls) == 1


def test_other_tokens_of_the_same_shape_are_recomputed(model):
    first, second = tokens_of(model, "one", "two"), tokens_of(model, "two", "one")
    with torch.no_grad():
        model.encode_text(first, fixed=True)
        assert torch.equal(model.encode_text(second, fixed=True).text_features, model.encode_text(second).text_features)


def test_tokens_written_in_place_are_recomputed(model):
    tokens = tokens_of(model, "one", "two")
    with torch.no_grad():
        model.encode_text(tokens, fixed=True)
        tokens.copy_(tokens_of(model, "two", "two"))
        assert torch.equal(model.encode_text(tokens, fixed=True).text_features, model.encode_text(tokens).text_features)


def test_new_weights_are_recomputed(model):
    tokens = tokens_of(model, "one", "two")
    with torch.no_grad():
        model.encode_text(tokens, fixed=True)
        model.clip.transformer.resblocks[0].mlp.c_fc.weight.mul_(1.5)
        assert torch.equal(model.encode_text(tokens, fixed=True).text_features, model.encode_text(tokens).text_features)


def test_another_dtype_is_recomputed(model):
    tokens = tokens_of(model, "one", "two")
    with torch.no_grad():
        model.encode_text(tokens, fixed=True)
        model.double()
        assert model.encode_text(tokens, fixed=True).text_features.dtype == torch.float64
        model.float()
        with torch.autocast("cpu", torch.bfloat16):
            cached = model.encode_text(tokens, fixed=True).text_features
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(cached, model.encode_text(tokens).text_features)


def test_a_prefix_first_computed_in_evaluation_serves_training(model):
    tokens = tokens_of(model, "one", "two")
    with torch.inference_mode():
        model.encode_text(tokens, fixed=True)
    model.train()
    model.encode_text(tokens, fixed=True).text_features.sum().backward()
    assert model.text_adapters[1]["pre_mlp"].fc1.weight.grad is not None


def test_trained_adapters_are_not_frozen_into_the_cache(model):
    tokens = tokens_of(model, "one", "two")
    with torch.no_grad():
        before = model.encode_text(tokens, fixed=True).text_features
        model.text_adapters[1]["pre_mlp"].fc2.bias.add_(1.0)
        assert not torch.allclose(model.encode_text(tokens, fixed=True).text_features, before)


def test_a_limited_number_of_token_tensors_is_kept(model, calls, monkeypatch):
    monkeypatch.setattr(text, "LARGEST", 3)
    sets = [tokens_of(model, f"{i}", "two") for i in range(4)]
    for tokens in sets[:3] * 2:
        model.encode_text(tokens, fixed=True)
    assert len(calls) == 3
    model.encode_text(sets[3], fixed=True)  # evicts the least recently used
    model.encode_text(sets[1], fixed=True)
    assert len(calls) == 4
    model.encode_text(sets[0], fixed=True)
    assert len(calls) == 5
    assert len(model._prefix_cache._entries) == 3
