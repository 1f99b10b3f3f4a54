"""ST-Adapter and AIM against their authors' computation; LoRA, frozen CLIP and trained parts of CLIP on the same path."""

import json
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch.nn import functional as F

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, load_peer
from m2clip_lib.models.adapters import LoRA
from m2clip_lib.models.foreign import AIM, ST_ADAPTER, published_name
from m2clip_lib.models.mix import mixed_with_frozen

GOLDEN = Path(__file__).parents[1] / "golden" / "peers"
CASES = {"st_adapter_12": (ST_ADAPTER, ""), "aim_1t": (AIM, "backbone.")}
TOLERANCE = 1e-5


def published(case: str) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(GOLDEN / f"{case}.state.safetensors").items()}


def small_backbone(case: str) -> Backbone:
    """The case's CLIP; text tower and projection are random, its authors use neither."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=16, image_size=48)
    text = CLIPTextCfg(context_length=16, vocab_size=100, width=32, heads=1, layers=1)
    clip = CLIP(64, vision, text, quick_gelu=True).eval()
    state, prefix = published(case), CASES[case][1]
    own = {name: state[prefix + name] for name in clip.visual.state_dict() if prefix + name in state}
    clip.visual.load_state_dict(own, strict=False)
    return Backbone(clip.requires_grad_(False), SimpleTokenizer(context_length=16), case, "none", 48)


def write(case: str, folder: Path, **changed: torch.Tensor | None) -> Path:
    """A file as its authors publish it: ST-Adapter's with the trained tensors alone."""
    state = published(case) | changed
    if case.startswith("st"):
        trained = json.loads((GOLDEN / f"{case}.json").read_text())["tensors_trained"]
        state = {name: value for name, value in state.items() if name in trained or name in changed}
    path = folder / f"{case}.pth"
    content = {name: value for name, value in state.items() if value is not None}
    torch.save({"model" if case.startswith("st") else "state_dict": content, "epoch": 3}, path)
    return path


@pytest.fixture(params=CASES)
def case(request) -> str:
    return request.param


@pytest.mark.parametrize("shortcuts", [True, False])
def test_scores_and_gradients_equal_those_of_the_authors(case, shortcuts, tmp_path):
    model, io = load_peer(write(case, tmp_path), small_backbone(case), 4), load_file(GOLDEN / f"{case}.io.safetensors")
    about, grads = json.loads((GOLDEN / f"{case}.json").read_text()), load_file(GOLDEN / f"{case}.grads.safetensors")
    model.shortcuts = shortcuts
    logits = model.encode_video(io["in.video"]).fc_logits
    torch.testing.assert_close(logits, io["out.logits"], atol=TOLERANCE, rtol=TOLERANCE)
    loss = F.cross_entropy(logits, torch.tensor(about["labels"]))
    assert loss.item() == pytest.approx(about["loss"], abs=1e-5)
    loss.backward()
    own, dead = dict(model.named_parameters()), model.dead_parameters()
    renamed = _names(model, case)
    assert set(renamed.values()) >= set(about["tensors_trained"])
    for name, theirs in renamed.items():
        if theirs not in about["tensors_trained"]:
            continue
        found, expected = own[name].grad, grads.get(theirs)
        if name in dead:
            assert found is None or not found.any(), name
            assert expected is None or not expected.any(), name
        else:
            torch.testing.assert_close(found, expected.float().reshape(found.shape), atol=TOLERANCE, rtol=1e-4, msg=name)


def _names(model: M2CLIP, case: str) -> dict[str, str]:
    pairs = {name: published_name(name, 1, CASES[case][0]) for name, _ in model.named_parameters()}
    return {name: theirs for name, theirs in pairs.items() if theirs}


def test_a_tensor_that_is_missing_foreign_or_of_another_size_is_named(case, tmp_path):
    head = "fc.weight" if case.startswith("st") else "cls_head.fc_cls.weight"
    backbone = small_backbone(case)
    with pytest.raises(UserError, match=r"neither a checkpoint of this workbook nor of M2-CLIP, the replicate, ST-Adapter or AIM"):
        M2CLIP.from_checkpoint(write(case, tmp_path, **{head: None}), backbone, 4)
    with pytest.raises(UserError, match=r"is missing; the file is incomplete"):
        M2CLIP.from_checkpoint(write(case, tmp_path, **{head.replace("weight", "bias"): None}), backbone, 4)
    with pytest.raises(UserError, match=r"tensor adapter\.new does not exist on backbone"):
        M2CLIP.from_checkpoint(write(case, tmp_path, **{"adapter.new": torch.ones(1)}), backbone, 4)
    with pytest.raises(UserError, match=r"is \(5, 99\) in the file and \(5, 128\) on backbone"):
        M2CLIP.from_checkpoint(write(case, tmp_path, **{head: torch.ones(5, 99)}), backbone, 4)
    with pytest.raises(UserError, match="not finite"):
        M2CLIP.from_checkpoint(write(case, tmp_path, **{head: torch.full((5, 128), float("nan"))}), backbone, 4)


def test_a_file_of_another_clip_or_clip_length_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"backbone\.conv1\.weight \(128, 3, 16, 16\) differs in its values from backbone 'aim_1t'"):
        M2CLIP.from_checkpoint(
            write("aim_1t", tmp_path, **{"backbone.conv1.weight": torch.zeros(128, 3, 16, 16)}), small_backbone("aim_1t")
        )
    with pytest.raises(UserError, match="made for clips of 4 frames, not of 8"):
        M2CLIP.from_checkpoint(write("aim_1t", tmp_path), small_backbone("aim_1t"), 8)


PUBLISHED = [  # trainable parameters on ViT-B/16, by their authors
    (7_417_744, 400, {"visual_adapter": "st_adapter"}),
    (14_354_094, 174, {"visual_adapter": "st_adapter", "vision_adapter_pre_attn": True}),
    (10_966_672, 400, {"visual_adapter": "aim", "vision_adapter_width": 192}),
    (14_343_342, 174, {"visual_adapter": "aim", "vision_adapter_width": 192, "aim_inner": True, "aim_scale": 1.0}),
]


@pytest.mark.parametrize(("expected", "classes", "fields"), PUBLISHED)
def test_published_sizes_have_the_published_number_of_trained_parameters(expected, classes, fields):
    with torch.device("meta"):
        clip = CLIP(512, CLIPVisionCfg(layers=12, width=768, head_width=64, patch_size=16, image_size=224), CLIPTextCfg(), quick_gelu=True)
        names = tuple(f"class {i}" for i in range(classes))
        model = M2CLIP(Backbone(clip, SimpleTokenizer(), "b16", "none", 224), M2CLIPConfig(names, ("word",), text_side="frozen", **fields))
    own = ("visual_adapters.", "classifier.", "time_embedding", "video_norm.")
    assert sum(p.numel() for name, p in model.named_parameters() if name.startswith(own)) == expected


# --- on the small CLIP of the tests ---


def build(backbone, **fields: object) -> M2CLIP:
    torch.manual_seed(1)
    layers = len(backbone.clip.visual.transformer.resblocks)
    fields = {"vision_adapter_layers": layers, "vision_adapter_width": 8, "text_side": "frozen", "num_frames": 3} | fields
    return M2CLIP(backbone, M2CLIPConfig(("run", "walk"), ("run", "walk"), **fields)).eval()


def shake(model: M2CLIP) -> M2CLIP:
    """Move everything that is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def video() -> torch.Tensor:
    return torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


KINDS = {
    "none": {"visual_adapter": "none"},
    "st_adapter": {"visual_adapter": "st_adapter"},
    "aim": {"visual_adapter": "aim"},
    "lora": {"visual_adapter": "lora"},
    "last block": {"visual_adapter": "none", "unfreeze": 1},
    "norms": {"visual_adapter": "none", "unfreeze": "biases_and_norms"},
    "all": {"visual_adapter": "none", "unfreeze": "all"},
}


@torch.no_grad()
def frozen_frames(backbone, video: torch.Tensor) -> torch.Tensor:
    b, _, t, h, w = video.shape
    return backbone.clip.encode_image(video.transpose(1, 2).reshape(b * t, 3, h, w)).unflatten(0, (b, t))


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_is_frozen_clip_and_so_it_is_when_the_dial_is_at_0(backbone, video, kind):
    model = build(backbone, **KINDS[kind])
    with torch.no_grad():
        start = model.encode_video(video)
        torch.testing.assert_close(start.frame_features, frozen_frames(backbone, video), atol=1e-5, rtol=1e-5)
        if kind == "none":
            return
        moved = shake(model).encode_video(video)
        assert not torch.allclose(moved.frame_features, start.frame_features, atol=1e-3)
        with mixed_with_frozen(model, 0.0):
            torch.testing.assert_close(model.encode_video(video).frame_features, start.frame_features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.encode_video(video).frame_features, moved.frame_features, atol=0, rtol=0)


def test_none_is_frozen_clip_to_the_bit_on_the_same_path(backbone, video):
    without = build(backbone, visual_adapter="ted", vision_adapter_layers=0, frame_adapter=False)
    with torch.no_grad():
        found, expected = build(backbone, visual_adapter="none").encode_video(video), without.encode_video(video)
    assert torch.equal(found.frame_features, expected.frame_features)
    assert torch.equal(found.image_features, expected.image_features)


def test_lora_merged_equals_lora_beside_the_weights(backbone, video):
    model = shake(build(backbone, visual_adapter="lora"))
    plain = build(backbone, visual_adapter="none", unfreeze="all")  # a CLIP of its own
    plain.classifier.load_state_dict(model.classifier.state_dict())
    for adapters, block in zip(model.visual_adapters, plain.clip.visual.transformer.resblocks, strict=True):
        assert isinstance(adapters["weights"], LoRA)
        with torch.no_grad():
            in_proj, out_proj = adapters["weights"].weights(block.attn)
            block.attn.in_proj_weight.copy_(in_proj)
            block.attn.out_proj.weight.copy_(out_proj)
    with torch.no_grad():
        for name in ("frame_features", "fc_logits"):
            found, expected = (getattr(each.encode_video(video), name) for each in (plain, model))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_trains_what_it_should_and_never_the_backbone(backbone, video, kind):
    before = {name: value.clone() for name, value in backbone.clip.state_dict().items()}
    model = build(backbone, **KINDS[kind]).train()
    trained = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    out = model.encode_video(video)
    (out.fc_logits.square().mean() + out.image_features.square().mean()).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    moved = {name for name, p in model.named_parameters() if p.requires_grad and not torch.equal(p, trained[name])}
    last = ("clip.visual.transformer.resblocks.3.", "clip.visual.ln_post.", "clip.visual.proj")
    own = {"none": (), "st_adapter": ("visual_adapters.",), "aim": ("visual_adapters.", "time_embedding", "video_norm.")}
    own |= {"lora": ("visual_adapters.",), "last block": last}
    own |= {"norms": ("clip.visual.",), "all": ("clip.visual.",)}
    assert all(name.startswith((*own[kind], "classifier.")) for name in moved)
    assert all(any(name.startswith(part) for name in moved) for part in own[kind])
    if kind == "norms":
        assert all(name.endswith("bias") or "ln_" in name or name.startswith("classifier") for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in backbone.clip.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_back_the_same_model(backbone, video, kind, tmp_path):
    model = shake(build(backbone, **KINDS[kind]))
    model.save(tmp_path / "best.safetensors")
    again = M2CLIP.from_checkpoint(tmp_path / "best.safetensors", backbone)
    with torch.no_grad():
        assert torch.equal(again.encode_video(video).fc_logits, model.encode_video(video).fc_logits)


def test_aim_reads_clips_of_another_length_with_interpolated_positions(backbone):
    model = shake(build(backbone, visual_adapter="aim"))
    with torch.no_grad():
        positions = model._frame_positions(5)[0, :, 0]
    assert torch.allclose(positions[[0, 2, 4]], model.time_embedding[0], atol=1e-6)
