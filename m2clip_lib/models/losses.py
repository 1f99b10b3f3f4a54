"""The multi-task loss. Source: M2-CLIP, section 3.4; the published reductions, checked against golden values."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.models.text import NOT_A_TARGET, text_length

TARGET_SHARPNESS = 10.0  # of the soft targets of the contrastive loss
SCORE_SCALE = 100.0  # CLIP's logit scale, fixed, for the cross-modal scores


@dataclass(frozen=True)
class LossWeights:
    """Weight of each head's loss in the total; the defaults are the published ones."""

    contrastive: float = 0.5
    cross_modal: float = 0.5
    classification: float = 1.0
    mlm: float = 0.1


@dataclass(frozen=True)
class MultiTaskLoss:
    """Scalars with gradient: the total and its four unweighted terms."""

    total: Tensor
    contrastive: Tensor
    cross_modal: Tensor
    classification: Tensor
    mlm: Tensor


def contrastive_loss(
    logits_per_image: Float[Tensor, "b b2"], logits_per_text: Float[Tensor, "b2 b"], labels: Int[Tensor, "b"]
) -> Float[Tensor, ""]:
    """Mean of both directions of KL(softmax(10 * same label) || softmax(scores)), summed over a row, averaged over rows."""
    target = F.softmax(TARGET_SHARPNESS * (labels[:, None] == labels[None, :]).float(), dim=-1)
    image, text = (F.kl_div(F.log_softmax(x.float(), dim=-1), target, reduction="batchmean") for x in (logits_per_image, logits_per_text))
    return (image + text) / 2


def masked_word_loss(logits: Float[Tensor, "b l v"], targets: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Cross entropy averaged over the masked words; 0 (not NaN) where no word is masked."""
    masked = targets != NOT_A_TARGET
    if not masked.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[masked].float(), targets[masked])


def multi_task_loss(
    model,
    video: Float[Tensor, "b 3 t h w"],
    labels: Int[Tensor, "b"],
    class_tokens: Int[Tensor, "k l"],
    caption_tokens: Int[Tensor, "b l"] | None = None,
    masked_tokens: Int[Tensor, "b l"] | None = None,
    masked_targets: Int[Tensor, "b l"] | None = None,
    cross_modal_ce: Literal["on_scores", "on_probabilities"] = "on_scores",
    weights: LossWeights | None = None,
) -> MultiTaskLoss:
    """The four losses of one batch.

    Args:
        video: CLIP-normalised clips. labels: class indices in [0, k). class_tokens: the prompt of every class.
        caption_tokens: the clean caption of each clip; by default the prompt of its class (then encoded once, and gathered).
        masked_tokens, masked_targets: captions with masked words and their targets; without them the mlm loss is 0.
        cross_modal_ce: "on_probabilities" is the published loss (softmax twice: it can hardly move), "on_scores" the default.
    """
    weights = weights or LossWeights()
    seen = model.encode_video(video)
    classes = model.encode_text(class_tokens, fixed=True).text_features
    captions = classes[labels] if caption_tokens is None else model.encode_text(caption_tokens).text_features

    image = F.normalize(seen.image_features, dim=-1)
    logits_per_image = model.clip.logit_scale.exp() * image @ F.normalize(captions, dim=-1).T
    contrastive = contrastive_loss(logits_per_image, logits_per_image.T, labels)

    scores = SCORE_SCALE * image @ F.normalize(classes, dim=-1).T
    if cross_modal_ce == "on_probabilities":
        scores = scores.softmax(dim=-1)
    elif cross_modal_ce != "on_scores":
        raise ValueError(f"cross_modal_ce = {cross_modal_ce!r}: give 'on_scores' or 'on_probabilities'")
    cross_modal = F.cross_entropy(scores.float(), labels)
    classification = F.cross_entropy(seen.fc_logits.float(), labels)

    mlm = torch.zeros((), device=video.device)
    if masked_tokens is not None:
        length = _computed_length(masked_tokens, masked_targets) if model.shortcuts else masked_tokens.shape[1]
        hidden = model.encode_text(masked_tokens, length=length).text_hidden
        mlm = masked_word_loss(model.mlm_logits(hidden, seen.frame_features), masked_targets[:, :length])

    total = (
        weights.contrastive * contrastive + weights.cross_modal * cross_modal + weights.classification * classification + weights.mlm * mlm
    )
    return MultiTaskLoss(total, contrastive, cross_modal, classification, mlm)


def _computed_length(tokens: Tensor, targets: Tensor) -> int:
    """Cut at the longest end-of-text, but never before a target."""
    last_target = int(((targets != NOT_A_TARGET).any(dim=0).nonzero().flatten()[-1:] + 1).sum())
    return max(text_length(tokens), last_target)
