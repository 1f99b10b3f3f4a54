"""Train the demonstration's small CLIP on captioned stills, so that the workbook runs without a download.

The model is an ordinary open_clip CLIP made from models/demo_clip.json. With so little data, contrastive training alone does not learn
positions; an auxiliary linear head therefore predicts the attributes (x, y, radius, opacity, separation) from the image embedding
during training, and is discarded afterwards. Real CLIPs need no such head, and none is used elsewhere.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.data.demo.scenes import ATTRIBUTES, COLOURS, OPACITIES, PLACES, SHAPES, SIZES, draw_stills
from m2clip_lib.files import write_atomically, write_json
from m2clip_lib.models.backbone import state_sha256
from m2clip_lib.models.demo_clip import MODEL_CONFIG, PretrainConfig, demo_clip_path
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


def train_demo_clip(config: PretrainConfig | None = None, report: Callable[[str], None] = print) -> tuple[Path, bool]:
    """Train and save the small CLIP unless this recipe's file exists. Returns: its path, and whether this call trained it.

    When several processes ask for the same file, the first one trains it and the others wait for it.
    """
    config = config or PretrainConfig()
    path = demo_clip_path(config)
    if path.is_file():
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        report(f"small CLIP: another process is training it; waiting for {path}")
        held = lock.acquire()
    with held:
        if path.is_file():  # the other process has made it
            return path, False
        _train(config, path, report)
    return path, True


def _train(config: PretrainConfig, path: Path, report: Callable[[str], None]) -> None:
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    model_config = json.loads(MODEL_CONFIG.read_text())
    clip = CLIP(**model_config).train()
    attribute_head = nn.Linear(model_config["embed_dim"], len(ATTRIBUTES))
    tokenizer = SimpleTokenizer(context_length=model_config["text_cfg"]["context_length"])
    parameters = [p for p in [*clip.parameters(), *attribute_head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True)
    history = []
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.lr * warmup_cosine(step, config.steps, config.warmup_steps, config.warmup_steps)
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
        if (step + 1) % 50 == 0:
            history.append({"step": step + 1, "contrastive": contrastive.item(), "auxiliary": auxiliary.item()})
            report(f"step {step + 1}/{config.steps}  contrastive {contrastive.item():.3f}  attributes {auxiliary.item():.3f}")
    clip.eval()
    accuracy = zero_shot_on_stills(clip, tokenizer, np.random.default_rng([config.seed, 1]))
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    side = {"sha256": state_sha256(state), "recipe": asdict(config), "seconds": round(time.perf_counter() - start, 1)}
    write_json(path.with_suffix(".json"), side | {"held_out_stills": accuracy, "history": history})
    # The weights come last: whoever finds them finds the side file too.
    write_atomically(path, lambda file: save_file(state, file, metadata={"open_clip_config": json.dumps(model_config)}))


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
