"""Towers of other CLIPs: small random ones equal open_clip's own encoders, and adapters train on them."""

import copy
import json
import sys
import warnings
from types import SimpleNamespace
from typing import ClassVar

import pytest
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

from m2clip_lib.attention.maps import attention_rollout
from m2clip_lib.attention.record import cls_attention, record_attention, word_attention
from m2clip_lib.attention.relevance import relevance
from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, load_backbone, multi_task_loss
from m2clip_lib.models.sources import new_clip, refuse_unfit
from m2clip_lib.models.text import build_captions, mask_batch, tokenize, unit
from m2clip_lib.models.text_tower import around, make_tokenizer
from m2clip_lib.ship.graphs import compared, text_graph, traced

NAMES, WORDS = ("moving left", "growing"), ("a", "growing", "left", "moving", "of", "video")
CONFIG = M2CLIPConfig(NAMES, WORDS, 2, 8, text_adapter_layers=2, text_adapter_width=8, num_frames=3, dropout=0.0)
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "act_kwargs": {"approximate": "tanh"}}
VIT = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 3, "head_width": 32}
TRUNKS = {  # timm's own builders, at a small size
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 2, "global_pool": "map"}, 0),
    "pe": (
        "vit_pe_core_base_patch16_224",
        {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 2, "ref_feat_shape": (4, 4), "attn_pool_num_heads": 2},
        48,
    ),
    "mobileclip": ("vit_base_mci_224", {"img_size": 64, "depth": 2, "global_pool": "token"}, 48),  # its stem's width is fixed
}
CONFIGS = {
    "clip": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "clipa": {
        "embed_dim": 48,
        "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT | {"pool_type": "last", "no_causal_mask": True},
    },
    "average": {"embed_dim": 48, "vision_cfg": VIT | {"pool_type": "avg"}, "text_cfg": TEXT},
    "layer scale": {"embed_dim": 48, "vision_cfg": VIT | {"ls_init_value": 0.3}, "text_cfg": TEXT},
    "wider text": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT | {"width": 64}},
    "siglip": {"embed_dim": 64, "custom_text": True, "init_logit_bias": -10, "text_cfg": SIGLIP_TEXT | {"width": 64}},
    "pe": {"embed_dim": 48, "custom_text": True, "text_cfg": TEXT},
    "mobileclip": {"embed_dim": 48, "custom_text": True, "text_cfg": TEXT},
}
REAL = {  # of open_clip's configurations, what people ask for: parameters of the visual tower, and of all
    "ViT-B-16": (86_192_640, 149_620_737),
    "ViT-L-14": (303_966_208, 427_616_513),
    "ViT-L-14-CLIPA": (303_964_160, 414_210_561),
    "ViT-B-16-SigLIP": (92_884_224, 203_155_970),
    "ViT-B-16-SigLIP2": (92_884_224, 375_187_970),
    "ViT-SO400M-14-SigLIP2": (427_680_704, 1_135_463_602),
    "PE-Core-B-16": (93_673_984, 447_660_545),
    "PE-Core-L-14-336": (317_152_256, 671_138_817),
    "MobileCLIP2-B": (86_349_056, 149_777_153),
    "MobileCLIP2-L-14": (303_966_976, 427_617_281),
}


def random_clip(kind: str) -> torch.nn.Module:
    """A small CLIP with random weights, also where open_clip starts at zeros or ones."""
    torch.manual_seed(0)
    config = CONFIGS[kind]
    clip = new_clip({"vision_cfg": VIT} | config)
    if kind in TRUNKS:
        name, sizes, classes = TRUNKS[kind]
        small = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"}
        visual = new_clip({"embed_dim": 48, "vision_cfg": small, "text_cfg": TEXT}).visual
        visual.trunk = timm.create_model(name, num_classes=classes, **sizes)
        visual.head, visual.image_size = torch.nn.Sequential(), (64, 64)
        clip.visual = visual
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.dim():
                parameter += 0.05 * torch.randn_like(parameter)
    return clip.eval().requires_grad_(False)


@pytest.fixture(params=list(CONFIGS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def backbone(kind) -> Backbone:
    return Backbone(random_clip(kind), SimpleTokenizer(context_length=24), kind, "", 64)


@pytest.mark.parametrize("kind", ["siglip"])
def test_texts_of_a_tower_that_reads_their_last_position_are_exported_for_any_number(backbone):
    graph = text_graph(M2CLIP(backbone, CONFIG).eval())
    assert set(compared(graph, traced(graph).module(), "texts").values()) == {0.0}


@torch.inference_mode()
def test_at_the_start_frames_and_texts_are_encoded_as_by_open_clip(backbone):
    model = M2CLIP(backbone, CONFIG).eval()
    assert model.text_adapters[0].keys() == set()
    frames = torch.randn(2, 3, 3, 64, 64)  # (b, 3, t, h, w)
    seen = model.encode_video(frames)
    own = backbone.clip.encode_image(frames.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(seen.frame_features, own, rtol=1e-5, atol=1e-5)

    plain = M2CLIP(backbone, CONFIG.__class__(NAMES, WORDS, text_side="frozen", visual_adapter="none", num_frames=3)).eval()
    tokens = tokenize(backbone.tokenizer, ["a video of moving left", "growing"])
    texts = backbone.clip.encode_text(tokens)
    torch.testing.assert_close(plain.encode_text(tokens).text_features, texts, rtol=1e-5, atol=1e-5)
    scores = backbone.clip.logit_scale.exp() * unit(own.mean(1)) @ unit(texts).T
    scores = scores if backbone.clip.logit_bias is None else scores + backbone.clip.logit_bias
    torch.testing.assert_close(plain(frames, tokens).logits_per_image, scores, rtol=1e-5, atol=1e-4)


def test_texts_are_computed_up_to_their_latest_end_where_the_rest_has_no_effect(backbone, kind):
    """A tower that is not causal, or reads its last position, reads the padding, too."""
    tokens = tokenize(backbone.tokenizer, ["one", "one two three"])
    assert backbone.text.length(tokens) == (24 if kind in ("clipa", "siglip") else 5)  # start, three words, end
    assert backbone.text.end(tokens).tolist() == ([23, 23] if kind in ("clipa", "siglip") else [2, 4])


class Sentences:
    """A tokenizer like SigLIP's: nothing before a text, an end that is also the padding."""

    context_length = 6

    def encode(self, text: str) -> list[int]:
        return [10 + len(word) for word in text.split()]

    def __call__(self, texts) -> torch.Tensor:
        return torch.tensor([[*self.encode(text), 1, 1, 1, 1, 1, 1][:6] for text in texts])


def test_masked_captions_of_another_tokenizer_are_laid_out_as_it_does():
    (caption,) = build_captions([of_class[0] for of_class in M2CLIPConfig(("moving",), ("moving",)).prompts()], ("moving",), Sentences())
    tokens, targets = mask_batch([caption], [0], Sentences(), [(0,)])
    assert tokens.tolist() == [[11, 15, 12, 14, 1, 1]]  # a, video, of, mask
    assert targets.tolist() == [[-100, -100, -100, 0, -100, -100]]
    assert tokens.equal(Sentences()(["a video of mask"]))
    with pytest.raises(UserError, match="needs 7 tokens, this backbone reads 6"):
        tokenize(Sentences(), ["a b c d e f"])


def test_a_tokenizer_of_the_hub_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"tokenizer some/name: needs transformers; install it: pip install transformers sentencepiece"):
        make_tokenizer({"hf_tokenizer_name": "some/name"}, 8)


class Inner:
    """Stands for open_clip's HFTokenizer around one of the hub, with word pieces as BERT and sentence pieces as SigLIP mark them."""

    vocabulary: ClassVar = {"[CLS]": 2, "▁moving": 3, "left": 4, "##ing": 5}

    def __init__(self, name, context_length, **settings):
        if name == "absent":
            raise OSError("offline")
        self.settings = settings
        self.clean_fn = str.lower
        self.tokenizer = SimpleNamespace(get_vocab=lambda: self.vocabulary, encode=self.encode)

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [3 + number for number, _ in enumerate(text.split())]

    def __call__(self, texts, context_length):
        rows = [[2, *self.encode(text, add_special_tokens=False)] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


def test_a_tokenizer_of_the_hub_is_asked_as_clips_own(monkeypatch):
    monkeypatch.setattr("open_clip.tokenizer.HFTokenizer", Inner)
    tokenizer = make_tokenizer({"hf_tokenizer_name": "bert", "tokenizer_kwargs": {"strip_sep_token": True}}, 6)
    assert tokenizer.inner.settings == {"strip_sep_token": True}
    assert around(tokenizer) == ((2,), (0,) * 5)
    assert tokenizer.encode("Moving left") == [3, 4]
    assert tokenize(tokenizer, ["Moving left"]).tolist() == [[2, 3, 4, 0, 0, 0]]
    assert tokenizer.encoder == {"[CLS]</w>": 2, "moving</w>": 3, "left</w>": 4}
    with pytest.raises(UserError, match=r"tokenizer absent: neither in the local cache nor downloaded \(OSError\); connect once"):
        make_tokenizer({"hf_tokenizer_name": "absent"}, 6)


def test_a_training_step_changes_adapters_and_heads_alone(backbone):
    model = M2CLIP(backbone, CONFIG).train()
    before = copy.deepcopy(model.state_dict())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    captions = build_captions([of_class[0] for of_class in model.config.prompts()], WORDS, backbone.tokenizer)
    masked, targets = mask_batch(captions, [0, 1], backbone.tokenizer, [(0,), (1,)])
    assert (targets >= 0).any(dim=1).all()
    tokens = tokenize(backbone.tokenizer, [f"A video of {name}" for name in NAMES])
    losses = []
    video, labels = torch.randn(2, 3, 3, 64, 64), torch.tensor([0, 1])
    for _ in range(8):
        loss = multi_task_loss(model, video, labels, tokens, masked_tokens=masked, masked_targets=targets)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < losses[0]
    after = model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    dead = model.dead_parameters()
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in dead}
    assert not any(name.startswith(("clip.", "mlm_block.")) for name in changed)


def test_shortcuts_compute_the_same(backbone):
    model = M2CLIP(backbone, CONFIG)
    for parameter in model.parameters():  # so that adapters do something
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    model.eval()
    video, tokens = torch.randn(2, 3, 3, 64, 64), tokenize(backbone.tokenizer, ["a video of moving left", "growing"])
    with torch.inference_mode():
        short = model(video, tokens)
        model.shortcuts = False
        long = model(video, tokens)
    for name in ("image_features", "fc_logits", "text_features", "logits_per_image"):
        torch.testing.assert_close(getattr(short, name), getattr(long, name), rtol=1e-4, atol=1e-4)


def test_attention_of_every_tower_adds_up_to_one(backbone):
    """Where there is no class token, a patch's share is the mean over all tokens: what pooling reads."""
    model = M2CLIP(backbone, CONFIG).eval()
    video = torch.randn(1, 3, 3, 64, 64)
    for found in record_attention(model, video, range(len(model.visual.blocks))):
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    texts = unit(model.encode_text(tokenize(backbone.tokenizer, list(NAMES))).text_features)
    maps = [cls_attention(model, video, 0), attention_rollout(model, video, 1)]
    assert all(found.shape == (1, 3, *model.visual.grid) for found in maps)
    for found in maps:
        torch.testing.assert_close(found.sum((-2, -1)), torch.ones(1, 3))
    spoken = relevance(model, video, texts.detach(), torch.tensor([1]))
    torch.testing.assert_close(spoken.sum(), torch.tensor(1.0))
    words, shares = word_attention(model, model.encode_video(video).frame_features.detach(), "a video of growing")
    assert words == ["a", "video", "of", "growing"]
    torch.testing.assert_close(shares.sum(-1), torch.ones(4))


@pytest.mark.parametrize("adapter", ["st_adapter", "aim", "lora", "none"])
def test_other_adapters_start_as_frozen_towers_or_say_why_not(backbone, kind, adapter):
    config = M2CLIPConfig(NAMES, WORDS, 2, 8, visual_adapter=adapter, text_side="frozen", num_frames=3)
    if (kind, adapter) == ("pe", "aim"):
        with pytest.raises(UserError, match=r"aim: backbone 'pe' rotates by place, so its attention cannot run over time"):
            M2CLIP(backbone, config)
        return
    video = torch.randn(1, 3, 3, 64, 64)
    with torch.inference_mode():
        own = backbone.clip.encode_image(video[0].transpose(0, 1))
        seen = M2CLIP(backbone, config).eval().encode_video(video)
    torch.testing.assert_close(seen.frame_features[0], own, rtol=1e-5, atol=1e-5)


def test_the_last_block_and_what_follows_it_are_unfrozen_by_name(backbone):
    model = M2CLIP(backbone, M2CLIPConfig(NAMES, WORDS, visual_adapter="none", text_side="frozen", unfreeze=1))
    last = len(model.visual.blocks) - 1
    blocks = {name for name in model.unfrozen if "blocks." in name}
    assert all(f"blocks.{last}." in name for name in blocks)
    assert len(blocks) == sum(f"blocks.{last}." in name for name, _ in model.clip.visual.named_parameters())
    assert len(model.unfrozen) > len(blocks)


def test_a_file_with_other_towers_is_loaded_by_its_side_file(tmp_path):
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "image_size": 224}
    config = {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT | {"width": 32, "vocab_size": 49408}}
    torch.manual_seed(0)
    clip = new_clip(config).eval()
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    side = {"model_cfg": config, "preprocess_cfg": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(side))
    backbone = load_backbone(tmp_path / "open_clip_model.safetensors")
    assert (backbone.mean, backbone.std, backbone.context_length, backbone.image_size) == ((0, 0, 0), (1, 1, 1), 24, 224)
    model = M2CLIP(backbone, CONFIG).eval()
    video = torch.randn(1, 3, 2, 224, 224)
    with torch.inference_mode():
        own, found = clip.encode_image(video[0].transpose(0, 1)), model.encode_video(video).frame_features[0]
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "trained.safetensors")
    again = M2CLIP.from_checkpoint(tmp_path / "trained.safetensors", backbone)
    assert all(value.equal(model.trainable_state()[name]) for name, value in again.trainable_state().items())


@pytest.mark.parametrize("name", REAL)
def test_real_configurations_are_built_without_weights(name):
    """On the meta device: sizes alone."""
    import open_clip

    config = open_clip.get_model_config(name)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        clip = refuse_unfit(config, name)
        side = clip.visual.image_size[0]
        assert tuple(sum(p.numel() for p in part.parameters()) for part in (clip.visual, clip)) == REAL[name]
        model = M2CLIP(Backbone(clip, SimpleTokenizer(), name, "", side), CONFIG)
        assert model.encode_video(torch.zeros(1, 3, 2, side, side)).frame_features.shape == (1, 2, model.visual.embed_dim)
        assert model.encode_text(torch.zeros(2, model.text.context_length, dtype=torch.long), length=4).text_hidden.shape[1] == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "a ModifiedResNet vision tower"),
        ("coca_ViT-B-32", "a CoCa text tower"),
        ("MobileCLIP2-S0", "a FastVit vision tower, which has no fixed grid of patches"),
        ("convnext_base", "a ConvNeXt vision tower"),
        ("roberta-ViT-B-32", "a text tower of the hub"),
        ("EVA02-B-16", r"attention that computes something else than CLIP's \(norm\)"),
    ],
)
def test_what_the_adapters_do_not_fit_is_refused_by_name(name, reason):
    import open_clip

    with pytest.raises(UserError, match=f"backbone '{name}' has {reason}"):
        refuse_unfit(open_clip.get_model_config(name), name)
