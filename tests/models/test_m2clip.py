"""The model against the authors' published computation: golden outputs, losses and gradients, and the properties that define it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from m2clip_lib.errors import UserError
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, multi_task_loss
from m2clip_lib.models.foreign import published_name

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ("a_12style", "d_12b32", "e_mixed")
TOLERANCE = 1e-5


def golden_model(case: str) -> tuple[M2CLIP, dict, dict]:
    """Build a case's model from its state; also return its json and its inputs and outputs."""
    about = json.loads((GOLDEN / f"{case}.json").read_text())
    sizes = about["config"]
    text_blocks = sizes["transformer_layers"] - 1  # the published count includes the MLM block
    vision = CLIPVisionCfg(
        layers=sizes["vision_layers"],
        width=sizes["vision_width"],
        patch_size=sizes["vision_patch_size"],
        image_size=sizes["image_resolution"],
    )
    text = CLIPTextCfg(
        vocab_size=sizes["vocab_size"], width=sizes["transformer_width"], heads=sizes["transformer_heads"], layers=text_blocks
    )
    clip = CLIP(sizes["embed_dim"], vision, text, quick_gelu=True).eval()
    names = [f"class {i}" for i in range(sizes["num_classes"])]
    adapters = {key: sizes[key] for key in M2CLIPConfig.__dataclass_fields__ if key in sizes}
    config = M2CLIPConfig(tuple(names), tuple(f"word{i}" for i in range(sizes["mlm_head_len"])), **adapters)
    model = M2CLIP(Backbone(clip, SimpleTokenizer(), case, "none", sizes["image_resolution"]), config).eval()
    state = load_file(GOLDEN / f"{case}.state.safetensors")
    model.load_state_dict({name: state[published_name(name, text_blocks)].float() for name in model.state_dict()})
    return model, about, load_file(GOLDEN / f"{case}.io.safetensors")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shortcuts", [True, False])
def test_outputs_equal_the_published_computation(case, shortcuts):
    model, _, io = golden_model(case)
    model.shortcuts = shortcuts
    with torch.no_grad():
        out = model(io["in.video"], io["in.tokens"])
    for name in ("image_features", "frame_features", "fc_logits", "text_features", "text_hidden", "logits_per_image", "mlm_logits"):
        torch.testing.assert_close(getattr(out, name), io[f"out.{name}"], atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shortcuts", [True, False])
def test_losses_and_gradients_equal_the_published_computation(case, shortcuts):
    model, about, io = golden_model(case)
    model.shortcuts = shortcuts
    loss = multi_task_loss(
        model,
        io["in.video"],
        io["in.labels"],
        io["in.class_tokens"],
        caption_tokens=io["in.tokens"],
        masked_tokens=io["in.tokens"],
        masked_targets=io["in.mlm_labels"],
        cross_modal_ce="on_probabilities",
    )
    expected = about["losses"]
    assert loss.total.item() == pytest.approx(expected["total_loss"], abs=TOLERANCE)
    assert loss.mlm.item() == pytest.approx(expected["mlm_loss"], abs=TOLERANCE)
    assert loss.classification.item() == pytest.approx(expected["loss_fc"], abs=TOLERANCE)
    assert loss.cross_modal.item() == pytest.approx(expected["loss_sim"], abs=TOLERANCE)
    assert loss.contrastive.item() == pytest.approx((expected["loss_imgs"] + expected["loss_txts"]) / 2, abs=TOLERANCE)
    loss.total.backward()
    gradients = load_file(GOLDEN / f"{case}.grads.safetensors")
    text_blocks = about["config"]["transformer_layers"] - 1
    for name, parameter in model.named_parameters():
        published = published_name(name, text_blocks)
        if not parameter.requires_grad:
            assert published not in about["trainable"], name
            continue
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, gradients[published].float(), atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_trainable_and_dead_parameters_are_exactly_the_published_ones(case):
    model, about, _ = golden_model(case)
    text_blocks = about["config"]["transformer_layers"] - 1
    trainable = {published_name(name, text_blocks) for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(about["trainable"])
    assert trainable == {published_name(name, text_blocks) for name in model.trainable_state()}
    assert {published_name(name, text_blocks) for name in model.dead_parameters()} == set(about["grad_exactly_zero"])


CONFIG = M2CLIPConfig(
    ("moving left", "moving right", "growing"),
    ("a", "left", "moving"),
    vision_adapter_layers=4,
    vision_adapter_width=8,
    text_adapter_layers=3,
    text_adapter_width=8,
    vision_adapter_pre_attn=True,
)


def random_video(clips: int = 2, frames: int = 3) -> torch.Tensor:
    return torch.randn(clips, 3, frames, 64, 64, generator=torch.Generator().manual_seed(0))


def test_untrained_visual_adapters_change_nothing(backbone):
    with_adapters = M2CLIP(backbone, CONFIG).eval()
    without = M2CLIP(backbone, dataclasses.replace(CONFIG, vision_adapter_layers=0, frame_adapter=False)).eval()
    with torch.no_grad():
        found, expected = (m.encode_video(random_video()).frame_features for m in (with_adapters, without))
        assert torch.equal(found, expected)
        frames = random_video().transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(found.flatten(0, 1), backbone.clip.encode_image(frames), atol=1e-5, rtol=1e-4)


def test_text_without_adapters_is_clips_own(backbone):
    model = M2CLIP(backbone, dataclasses.replace(CONFIG, text_adapter_layers=1)).eval()  # in the masked-word block only
    tokens = backbone.tokenizer(["A video of moving left", "growing"])
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(tokens).text_features, backbone.clip.encode_text(tokens), atol=1e-5, rtol=1e-4)


def test_a_step_leaves_clip_and_the_callers_video_alone(backbone):
    model = M2CLIP(backbone, CONFIG).train()
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name not in model.trainable_state()}
    video = random_video()
    before = video.clone()
    tokens = backbone.tokenizer(list(CONFIG.class_names))
    multi_task_loss(model, video, torch.tensor([0, 2]), tokens).total.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    assert torch.equal(video, before)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())
    assert not any(p.grad is not None for name, p in model.named_parameters() if not p.requires_grad)


def test_static_control_cannot_see_the_order_of_frames(backbone):
    static = M2CLIP(backbone, dataclasses.replace(CONFIG, static=True)).eval()
    full = M2CLIP(backbone, CONFIG).eval()
    shapes = [{name: value.shape for name, value in model.trainable_state().items()} for model in (static, full)]
    assert shapes[0] == shapes[1]  # the control has every parameter of the model (before: 69 % of them)
    for model in (static, full):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    with torch.no_grad():
        for model, same in ((static, True), (full, False)):
            forwards, backwards = model.encode_video(random_video()), model.encode_video(random_video().flip(2))
            assert torch.allclose(forwards.image_features, backwards.image_features, atol=1e-4) is same


def test_any_clip_length_works(backbone):
    model = M2CLIP(backbone, CONFIG).eval()
    with torch.no_grad():
        assert model.encode_video(random_video(1, 1)).frame_features.shape == (1, 1, 96)
        assert model.encode_video(random_video(1, 5)).frame_features.shape == (1, 5, 96)


def test_a_video_of_the_wrong_size_is_refused(backbone):
    with pytest.raises(ValueError, match="32x32 px, the backbone reads 64x64"):
        M2CLIP(backbone, CONFIG).encode_video(torch.zeros(1, 3, 2, 32, 32))


def test_more_adapters_than_blocks_are_refused_with_the_field(backbone):
    with pytest.raises(UserError, match="vision_adapter_layers = 12: this backbone has 4"):
        M2CLIP(backbone, dataclasses.replace(CONFIG, vision_adapter_layers=12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_has_finite_gradients(backbone, dtype):
    model = M2CLIP(backbone, CONFIG).train()
    tokens = backbone.tokenizer(list(CONFIG.class_names))
    targets = torch.full_like(tokens[:2], -100)
    targets[:, 3] = 1
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = multi_task_loss(model, random_video(), torch.tensor([0, 2]), tokens, masked_tokens=tokens[[0, 2]], masked_targets=targets)
    loss.total.backward()
    live = [p for n, p in model.named_parameters() if p.requires_grad and n not in model.dead_parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in live)


@pytest.mark.parametrize("way", ["activation checkpointing", pytest.param("compile", marks=pytest.mark.slow_compile)])
def test_settings_for_memory_and_time_change_no_output_and_no_gradient(way):
    """Compiling the blocks takes a minute and a C++ compiler: make test-compile."""
    found = {}
    for changed in (False, True):
        model, _, io = golden_model("d_12b32")
        if changed and way == "compile":
            model.compile_blocks()
        model.activation_checkpointing = changed and way == "activation checkpointing"
        out = model.encode_video(io["in.video"])
        (out.image_features.square().sum() + out.fc_logits.square().sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found[changed] = {"image_features": out.image_features.detach(), "fc_logits": out.fc_logits.detach()} | gradients
    assert found[True].keys() == found[False].keys()
    for name, value in found[False].items():
        torch.testing.assert_close(found[True][name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
