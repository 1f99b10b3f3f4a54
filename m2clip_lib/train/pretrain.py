"""Train the demonstration's small CLIP on captioned stills, so that the workbook runs without a download.

The model is an ordinary open_clip CLIP made from models/demo_clip.json. With so little data, contrastive training alone does not learn
positions; an auxiliary linear head therefore predicts the attributes (x, y, radius, opacity, separation) from the image embedding
during training, and is discarded afterwards. Real CLIPs need no such head, and none is used elsewhere.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.data.demo.scenes import ATTRIBUTES, COLOURS, OPACITIES, PLACES, SHAPES, SIZES, draw_stills
from m2clip_lib.files import seal, write_atomically
from m2clip_lib.models.demo_clip import MODEL_CONFIG, pack, unpack, untrained_tokens
from m2clip_lib.models.sources import OPENAI_MEAN, OPENAI_STD
from m2clip_lib.train.optim import warmup_cosine

AUXILIARY_WEIGHT = 10.0
LABEL_WORDS = {  # attribute -> (its values, the caption that names one)
    "colour": (tuple(COLOURS), "a {} shape"),
    "place": (tuple(place for row in PLACES for place in row), "a shape at the {}"),
    "size": (SIZES, "a {} shape"),
    "shape": (SHAPES, "a {}"),
    "opacity": (OPACITIES, "a {} shape"),
}


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe of the small CLIP."""

    steps: int = 3200
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 320
    seed: int = 0


def pretrain(config: PretrainConfig, path: Path, report: Callable[[str], None] = print) -> None:
    """Train a small CLIP and save it as `path` (.safetensors), with its recipe and zero-shot table in the header."""
    torch.manual_seed(config.seed)
    clip = CLIP(**MODEL_CONFIG).train()
    tokens = clip.token_embedding.weight
    with torch.no_grad():
        tokens.copy_(untrained_tokens(*tokens.shape))
    attribute_head = nn.Linear(MODEL_CONFIG["embed_dim"], len(ATTRIBUTES))
    tokenizer = SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    parameters = [p for p in [*clip.parameters(), *attribute_head.parameters()] if p.requires_grad]
    groups = [{"params": [p for p in parameters if p is not tokens]}, {"params": [tokens], "weight_decay": 0.0}]  # unread rows stay
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warmup_cosine(step, config.steps, config.warmup_steps, config.warmup_steps)
        batch = draw_stills(np.random.default_rng([config.seed, 0, step]), config.batch_size, clip.visual.image_size[0])
        image = clip.encode_image(normalise(batch.pictures))
        text = clip.encode_text(tokenizer(batch.captions))
        scores = clip.logit_scale.exp().clamp(max=100) * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        ids = torch.from_numpy(np.unique(batch.captions, return_inverse=True)[1])
        same = (ids[:, None] == ids[None, :]).float()  # equal captions are not negatives of each other
        same = same / same.sum(dim=1, keepdim=True)
        contrastive = (_soft_cross_entropy(scores, same) + _soft_cross_entropy(scores.T, same)) / 2
        auxiliary = F.mse_loss(attribute_head(image), torch.from_numpy(batch.attributes))
        loss = contrastive + AUXILIARY_WEIGHT * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0:
            report(f"step {step + 1}/{config.steps}  contrastive {contrastive.item():.3f}  attributes {auxiliary.item():.3f}")
    packed = pack(clip.state_dict())
    clip.load_state_dict(unpack(packed, len(tokens)))  # what the file gives: rounded to half precision
    accuracy = zero_shot_on_stills(clip.eval(), tokenizer, np.random.default_rng([config.seed, 1]))
    about = {"recipe": asdict(config), "held_out_stills": accuracy}
    content = seal(packed, {"open_clip_config": json.dumps(MODEL_CONFIG), "pretraining": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_bytes(content))


def normalise(pictures: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 RGB -> (n, 3, h, w) float, normalised with CLIP's mean and std."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(OPENAI_MEAN)[:, None, None]) / torch.tensor(OPENAI_STD)[:, None, None]


@torch.no_grad()
def zero_shot_on_stills(clip: nn.Module, tokenizer, rng: np.random.Generator, n: int = 1024) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy and chance (percent) per attribute on n new stills, with the simple captions of LABEL_WORDS."""
    batch = draw_stills(rng, n, clip.visual.image_size[0])
    image = F.normalize(torch.cat([clip.encode_image(part) for part in normalise(batch.pictures).split(128)]), dim=-1)
    result = {}
    for attribute, (values, caption) in LABEL_WORDS.items():
        rows = [i for i, word in enumerate(batch.words) if attribute in word]
        text = F.normalize(clip.encode_text(tokenizer([caption.format(value) for value in values])), dim=-1)
        guess = (image[rows] @ text.T).argmax(dim=1)
        truth = torch.tensor([values.index(batch.words[i][attribute]) for i in rows])
        result[attribute] = {"top1": 100 * (guess == truth).float().mean().item(), "chance": 100 / len(values)}
    return result


def _soft_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(scores, dim=-1)).sum(dim=1).mean()
