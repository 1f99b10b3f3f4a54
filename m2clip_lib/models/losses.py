"""The multi-task loss with the published reductions. Source: M2-CLIP, section 3.4; checked against golden values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.models.text import NOT_A_TARGET, unit
from m2clip_lib.models.visual_tower import Clips
from m2clip_lib.sections import LossWeights

TARGET_SHARPNESS = 10.0  # of the soft targets of the contrastive loss
SCORE_SCALE = 100.0  # fixed logit scale of the cross-modal scores (CLIP's own)


def cosine_scores(images: Float[Tensor, "b e"], texts: Float[Tensor, "n e"], scale: float | Tensor = SCORE_SCALE) -> Float[Tensor, "b n"]:
    """scale x cosine of features of length 1, in fp32 also under autocast: bf16 leaves 33 values in a row of 400."""
    with torch.autocast(images.device.type, enabled=False):
        return scale * images.float() @ texts.float().T


@dataclass(frozen=True)
class MultiTaskLoss:
    """Scalars with gradient: the total and its four unweighted terms."""

    total: Tensor
    contrastive: Tensor
    cross_modal: Tensor
    classification: Tensor
    mlm: Tensor


def contrastive_loss(
    logits_per_image: Float[Tensor, "b b2"],
    logits_per_text: Float[Tensor, "b2 b"],
    labels: Int[Tensor, "b"],
    targets: Shaped[Tensor, "b k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of both directions of KL(softmax(10 * same label) || softmax(scores)), summed over a row, averaged over rows.

    targets: all labels of each clip, as zeros and ones; `labels` are then those of the captions, and "same label" means that the clip
        has the caption's.
    """
    same = (labels[:, None] == labels[None, :]).float() if targets is None else targets[:, labels].float()  # (b, b2)
    both = (logits_per_image, same), (logits_per_text, same if targets is None else same.T)
    wanted = [(F.log_softmax(x.float(), dim=-1), F.softmax(TARGET_SHARPNESS * positive, dim=-1)) for x, positive in both]
    image, text = (F.kl_div(x, target, reduction="batchmean") for x, target in wanted)
    return (image + text) / 2


def class_losses(
    scores: Float[Tensor, "b k"],
    logits: Float[Tensor, "b k"],
    labels: Int[Tensor, "b"],
    targets: Shaped[Tensor, "b k"] | None = None,
    clip_weights: Float[Tensor, "b"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The cross-modal loss of the scores and the classification loss of the logits, means over clips of loss x weight.

    targets: all labels of each clip, as zeros and ones. The cross entropy of the scores then has a target that is uniform over them; the
        loss of the logits is binary cross entropy, summed over the classes.
    """
    how = "mean" if clip_weights is None else "none"
    if targets is None:
        both = (F.cross_entropy(values.float(), labels, reduction=how) for values in (scores, logits))
    else:
        uniform = targets / targets.sum(dim=1, keepdim=True)
        binary = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").sum(dim=1)
        both = F.cross_entropy(scores.float(), uniform, reduction=how), binary.mean() if clip_weights is None else binary
    cross_modal, classification = both if clip_weights is None else ((clip_weights * loss).mean() for loss in both)
    return cross_modal, classification


def masked_word_loss(logits: Float[Tensor, "b l v"], targets: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Cross entropy averaged over the masked words; 0 (not NaN) when no word is masked."""
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NOT_A_TARGET, reduction="sum")
    return total / (targets != NOT_A_TARGET).sum().clamp(min=1)  # selecting them first would sync with the device


@dataclass(frozen=True)
class PartOfUpdate:
    """A batch's share of an update made of several batches, so that their gradients add up to those of one large batch.

    Attributes:
        clip_share, word_share: its clips / all clips, and its masked words / all masked words.
        images: maps this batch's normalised image features (b, e) to those of all n clips that serve as contrastive negatives,
            without gradient; None: the batch alone.
        labels, start: labels of those n clips, and the row at which this batch starts among them. targets: all their labels (n, k).
    """

    clip_share: float = 1.0
    word_share: float = 1.0
    images: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None
    start: int = 0
    targets: Tensor | None = None


def multi_task_loss(
    model,
    video: Clips,
    labels: Int[Tensor, "b"],
    class_tokens: Int[Tensor, "k l"],
    caption_tokens: Int[Tensor, "b l"] | None = None,
    masked_tokens: Int[Tensor, "b l"] | None = None,
    masked_targets: Int[Tensor, "b l"] | None = None,
    cross_modal_ce: Literal["on_scores", "on_probabilities"] = "on_scores",
    weights: LossWeights | None = None,
    class_features: Float[Tensor, "k e"] | None = None,
    part: PartOfUpdate | None = None,
    targets: Shaped[Tensor, "b k"] | None = None,
    clip_weights: Float[Tensor, "b"] | None = None,
) -> MultiTaskLoss:
    """The four losses of one batch.

    Args:
        video: see encode_video. labels: class indices in [0, k). class_tokens: the prompt of every class.
        caption_tokens: the clean caption of each clip; by default its class's prompt (encoded once per class and gathered).
        masked_tokens, masked_targets: captions with masked words and their targets, best on the CPU, as their values are read;
            without them the mlm loss is 0.
        cross_modal_ce: "on_probabilities" is the published loss (softmax twice, hardly any gradient), "on_scores" the default.
        class_features: text features of class_tokens, if already computed.
        part: this batch's share of a larger update; the terms are then shares that add up to the update's terms.
        targets, clip_weights: see class_losses; `labels` are then those that the captions name.
    """
    w, part = weights or LossWeights(), part or PartOfUpdate()
    seen = model.encode_video(video)
    classes = model.encode_text(class_tokens, fixed=True).text_features if class_features is None else class_features
    captions = classes[labels] if caption_tokens is None else model.encode_text(caption_tokens).text_features

    image, text = unit(seen.image_features), unit(captions)
    contrastive = _contrastive_part(model, image, text, labels, classes, part, targets)

    scores = cosine_scores(image, unit(classes))
    if cross_modal_ce == "on_probabilities":
        scores = scores.softmax(dim=-1)
    elif cross_modal_ce != "on_scores":
        raise ValueError(f"cross_modal_ce = {cross_modal_ce!r}: give 'on_scores' or 'on_probabilities'")
    of_classes = class_losses(scores, seen.fc_logits, labels, targets, clip_weights)
    cross_modal, classification = (part.clip_share * loss for loss in of_classes)

    mlm = torch.zeros((), device=video.device)
    if masked_tokens is not None:
        length = masked_tokens.shape[1]
        if model.shortcuts:  # up to the latest end-of-text or target, whichever is later
            length = max([model.text.length(masked_tokens), *((masked_targets != NOT_A_TARGET).any(dim=0).nonzero()[:, 0] + 1).tolist()])
        hidden = model.encode_text(masked_tokens.to(video.device, non_blocking=True), length=length).text_hidden
        targets = masked_targets[:, :length].to(video.device, non_blocking=True)
        mlm = part.word_share * masked_word_loss(model.mlm_logits(hidden, seen.frame_features), targets)

    total = w.contrastive * contrastive + w.cross_modal * cross_modal + w.classification * classification + w.mlm * mlm
    return MultiTaskLoss(total, contrastive, cross_modal, classification, mlm)


def _contrastive_part(
    model,
    image: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    labels: Tensor,
    classes: Float[Tensor, "k e"],
    part: PartOfUpdate,
    targets: Tensor | None,
) -> Float[Tensor, ""]:
    """The contrastive loss among the clips of `part`; the captions of other batches are their classes' prompts."""
    scale = model.clip.logit_scale.exp()
    if part.images is None:
        logits = cosine_scores(image, text, scale)
        return part.clip_share * contrastive_loss(logits, logits.T, labels, targets)
    others, stop = unit(classes.detach()[part.labels]), part.start + len(labels)
    images = part.images(image)
    image = torch.cat([images[: part.start], image, images[stop:]])
    text = torch.cat([others[: part.start], text, others[stop:]])
    logits = cosine_scores(image, text, scale)
    full = contrastive_loss(logits, logits.T, part.labels, part.targets)
    # Every batch computes the full loss with gradient to its own rows only: gradients add up unscaled, values by share.
    return full - (1 - part.clip_share) * full.detach()
