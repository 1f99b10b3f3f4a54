"""The losses, checked by hand arithmetic."""

import math

import pytest
import torch

from m2clip_lib.models import M2CLIP, LossWeights, M2CLIPConfig, multi_task_loss
from m2clip_lib.models.losses import class_losses, contrastive_loss, cosine_scores, masked_word_loss
from m2clip_lib.models.text import NOT_A_TARGET, build_captions, mask_batch

NAMES = ("moving left", "growing")
CONFIG = M2CLIPConfig(NAMES, ("a", "growing", "left", "moving", "of", "video"), 2, 8, text_adapter_layers=2, text_adapter_width=8)


def test_contrastive_loss_of_uniform_scores_by_hand():
    # Two clips of different classes: target softmax([10, 0]) = [p, 1 - p]; scores all equal give log q = -log 2 in every cell.
    p = 1 / (1 + math.exp(-10))
    expected = p * (math.log(p) + math.log(2)) + (1 - p) * (math.log(1 - p) + math.log(2))
    zeros = torch.zeros(2, 2)
    assert contrastive_loss(zeros, zeros, torch.tensor([0, 1])).item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_is_zero_where_scores_equal_the_targets():
    scores = 10 * torch.eye(2)
    assert contrastive_loss(scores, scores, torch.tensor([3, 5])).item() == pytest.approx(0, abs=1e-6)


def test_clips_of_one_class_are_not_negatives():
    flat = torch.zeros(2, 2)
    assert contrastive_loss(flat, flat, torch.tensor([4, 4])).item() == pytest.approx(0, abs=1e-6)


def test_masked_word_loss_averages_over_masked_words_only():
    logits = torch.zeros(1, 3, 4)
    logits[0, 2, 1] = 100.0
    targets = torch.tensor([[NOT_A_TARGET, 0, 1]])
    assert masked_word_loss(logits, targets).item() == pytest.approx((math.log(4) + 0) / 2, abs=1e-5)


def test_a_single_masked_word_counts_whole():
    targets = torch.full((2, 3), NOT_A_TARGET)
    targets[0, 1] = 2
    assert masked_word_loss(torch.zeros(2, 3, 4), targets).item() == pytest.approx(math.log(4), abs=1e-6)


def test_masked_word_loss_without_a_masked_word_is_zero_and_has_a_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = masked_word_loss(logits, torch.full((2, 3), NOT_A_TARGET))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def batch(backbone):
    torch.manual_seed(0)
    model = M2CLIP(backbone, CONFIG).eval()
    captions = build_captions([p for (p,) in CONFIG.prompts()], CONFIG.vocabulary, backbone.tokenizer)
    tokens, targets = mask_batch(captions, [0, 1], backbone.tokenizer, [(0,), (1,)])
    video = torch.randn(2, 3, 2, 64, 64)
    class_tokens = backbone.tokenizer([f"A video of {name}" for name in NAMES])
    return model, (video, torch.tensor([0, 1]), class_tokens), {"masked_tokens": tokens, "masked_targets": targets}


def test_total_is_the_weighted_sum_of_the_terms(backbone):
    model, inputs, masked = batch(backbone)
    loss = multi_task_loss(model, *inputs, **masked)
    expected = (loss.contrastive + loss.cross_modal) / 2 + loss.classification + loss.mlm / 10
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    only_mlm = multi_task_loss(model, *inputs, **masked, weights=LossWeights(0.0, 0.0, 0.0, 1.0))
    assert only_mlm.total.item() == pytest.approx(loss.mlm.item(), rel=1e-6)


def test_captions_default_to_the_prompts_of_the_labels(backbone):
    model, (video, labels, class_tokens), _ = batch(backbone)
    gathered = multi_task_loss(model, video, labels, class_tokens)
    given = multi_task_loss(model, video, labels, class_tokens, caption_tokens=class_tokens[labels])
    assert gathered.total.item() == pytest.approx(given.total.item(), rel=1e-5)
    assert gathered.mlm.item() == 0.0


def test_shortcuts_change_neither_loss_nor_gradient(backbone):
    model, inputs, masked = batch(backbone)
    found = []
    for model.shortcuts in (True, False):
        model.zero_grad()
        loss = multi_task_loss(model, *inputs, **masked)
        loss.total.backward()
        found.append((loss.total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert set(found[1][1]) - set(found[0][1]) <= model.dead_parameters()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-4)


def test_an_unknown_cross_modal_setting_is_refused(backbone):
    model, inputs, _ = batch(backbone)
    with pytest.raises(Exception, match="cross_modal_ce"):
        multi_task_loss(model, *inputs, cross_modal_ce="on_nothing")


def test_published_cross_modal_loss_hardly_moves(backbone):
    """Softmax twice: for K classes the loss stays between log(e + K - 1) - 1 and log(e + K - 1), whatever the scores."""
    model, inputs, _ = batch(backbone)
    loss = multi_task_loss(model, *inputs, cross_modal_ce="on_probabilities").cross_modal.item()
    top = math.log(math.e + len(NAMES) - 1)
    assert top - 1 <= loss <= top


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("run", "jump"), None),  # one-word classes
        (("push pull", "pull push"), None),  # the same words in every class
        (("run", "jump"), ("video",)),  # no word of any class is known: nothing is masked
        (("run", "jump fast"), ("fast",)),  # known in one class only
    ],
)
def test_masked_word_loss_is_finite_whatever_the_names_are(backbone, names, words):
    vocabulary = words or tuple(sorted({word for name in names for word in name.split()}))
    config = M2CLIPConfig(names, vocabulary, 1, 8, text_adapter_layers=1, text_adapter_width=8)
    model = M2CLIP(backbone, config)
    captions = build_captions([p for (p,) in config.prompts()], vocabulary, backbone.tokenizer)
    tokens, targets = mask_batch(captions, [0, 1], backbone.tokenizer, [(0,), (1,)])
    class_tokens = backbone.tokenizer([f"A video of {name}" for name in names])
    loss = multi_task_loss(
        model, torch.randn(2, 3, 2, 64, 64), torch.tensor([0, 1]), class_tokens, masked_tokens=tokens, masked_targets=targets
    )
    loss.total.backward()
    assert torch.isfinite(loss.mlm)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_scores_are_fp32_under_autocast():
    """Cosines between 0.25 and 0.35, as CLIP gives: in bf16 a row of 400 had 33 values."""
    angles = torch.linspace(math.acos(0.35), math.acos(0.25), 400, dtype=torch.float64)
    texts = torch.stack([angles.cos(), angles.sin()], dim=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert len((100 * torch.tensor([[1.0, 0.0]]) @ texts.T).unique()) < 60  # what was computed
        found = cosine_scores(torch.tensor([[1.0, 0.0]]), texts)
    assert found.dtype == torch.float32
    assert len(found.unique()) == 400
    torch.testing.assert_close(found[0], (100 * angles.cos()).float(), atol=1e-5, rtol=1e-6)


def test_the_score_losses_are_those_of_fp32_products_under_autocast(backbone):
    model, (video, labels, class_tokens), _ = batch(backbone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = multi_task_loss(model, video, labels, class_tokens)
        image, text = model.encode_video(video).image_features, model.encode_text(class_tokens, fixed=True).text_features
        scores = model(video, class_tokens).logits_per_image
    with torch.no_grad():
        image, text = (x.double() / x.double().norm(dim=-1, keepdim=True) for x in (image, text))
        expected = image @ text.T
        cross_modal = torch.nn.functional.cross_entropy(100 * expected, labels)
        logits = model.clip.logit_scale.exp() * expected  # labels 0 and 1: each clip's caption is its class's prompt
        contrastive = contrastive_loss(logits, logits.T, labels)
    assert loss.cross_modal.item() == pytest.approx(cross_modal.item(), abs=1e-4)
    assert loss.contrastive.item() == pytest.approx(contrastive.item(), abs=1e-4)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, logits.float(), atol=1e-4, rtol=1e-4)


def test_a_clip_is_contrasted_with_the_captions_of_none_of_its_labels():
    # Clip 0 has labels 0 and 1, clip 1 has label 1; the captions name labels 0 and 1. Clip 0 has both captions: its target is (1/2, 1/2),
    # which uniform scores meet. Clip 1 has the second alone: (1 - p, p). Seen from the captions: (p, 1 - p) and (1/2, 1/2).
    p = 1 / (1 + math.exp(-10))
    one = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    flat, targets = torch.zeros(2, 2), torch.tensor([[True, True, False], [False, True, False]])
    assert contrastive_loss(flat, flat, torch.tensor([0, 1]), targets).item() == pytest.approx((one / 2 + one / 2) / 2, abs=1e-6)
    scores = 10 * torch.tensor([[1.0, 1.0], [0.0, 1.0]])  # rows are clips, columns captions
    assert contrastive_loss(scores, scores.T, torch.tensor([0, 1]), targets).item() == pytest.approx(0, abs=1e-6)


def test_losses_of_several_labels_by_hand():
    scores, logits = torch.tensor([[math.log(2), math.log(2), 0.0]]), torch.tensor([[0.0, math.log(3), -math.log(3)]])
    targets = torch.tensor([[True, True, False]])
    cross_modal, classification = class_losses(scores, logits, torch.tensor([0]), targets)
    # softmax is (2/5, 2/5, 1/5), the target (1/2, 1/2, 0); the sigmoids are 1/2, 3/4 and 1/4
    assert cross_modal.item() == pytest.approx(-math.log(2 / 5), abs=1e-6)
    assert classification.item() == pytest.approx(-math.log(1 / 2) - 2 * math.log(3 / 4), abs=1e-6)


def test_losses_with_clip_weights_are_means_of_weighted_losses():
    scores, labels = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    weights = torch.tensor([0.5, 1.5])
    expected = (0.5 * -math.log(3 / 4) + 1.5 * math.log(2)) / 2
    for loss in class_losses(scores, scores, labels, clip_weights=weights):
        assert loss.item() == pytest.approx(expected, abs=1e-6)
    one_hot = torch.eye(2, dtype=torch.bool)
    binary = (0.5 * (-math.log(3 / 4) + math.log(2)) + 1.5 * 2 * math.log(2)) / 2
    cross_modal, classification = class_losses(scores, scores, labels, one_hot, weights)
    assert (cross_modal.item(), classification.item()) == pytest.approx((expected, binary), abs=1e-6)


def test_one_label_per_clip_gives_the_same_contrastive_and_cross_modal_loss_either_way(backbone):
    model, inputs, _ = batch(backbone)
    plain, several = (multi_task_loss(model, *inputs, targets=targets) for targets in (None, torch.eye(2, dtype=torch.bool)))
    for term in ("contrastive", "cross_modal"):
        assert getattr(plain, term).item() == pytest.approx(getattr(several, term).item(), abs=1e-6)
    assert plain.classification.item() != pytest.approx(several.classification.item(), abs=1e-3)  # binary cross entropies
