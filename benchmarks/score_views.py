"""Time to score a video of 12 views at the size of Kinetics-400: together with texts encoded once, or one by one as published.

ViT-B/16 12x384, 400 class prompts, 8 frames at 224 px, random weights and clips. The slow ways are timed on one view, and count 12 times.
"""

import torch
from timing import interleaved, table
from train_step import FRAMES, SIDE, kinetics_model

from m2clip_lib.experiment import pick_device
from m2clip_lib.models.losses import cosine_scores
from m2clip_lib.models.text import class_features, unit

VIEWS, ROUNDS = 12, 2


def compare() -> list[dict]:
    """Return one row per way: videos per second, speed relative to the published way."""
    device = pick_device()
    model = kinetics_model().to(device).eval()
    prompts = model.config.prompts()
    clips = torch.randn(VIEWS, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.inference_mode()
    def score(views: int, texts: torch.Tensor | None, half: bool = False) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            texts = class_features(model, prompts, device) if texts is None else texts
            seen = model.encode_video(clips[:views])
        scores = cosine_scores(unit(seen.image_features), texts).softmax(-1) + seen.fc_logits.float().softmax(-1)
        scores.mean(0).cpu()

    with torch.inference_mode():
        once = class_features(model, prompts, device)

    def as_published() -> None:
        model.shortcuts = False  # all 77 text positions, every token of the last block
        score(1, None)
        model.shortcuts = True

    ways = {
        "published: one view at a time, texts encoded again": as_published,
        "one view at a time, texts encoded once": lambda: score(1, once),
        f"{VIEWS} views at once, texts encoded once": lambda: score(VIEWS, once),
        "the same under bf16 autocast": lambda: score(1, once, half=True),
    }
    seconds = interleaved(ways, ROUNDS)
    per_video = {name: [VIEWS * s for s in values] if f"{VIEWS} views" not in name else values for name, values in seconds.items()}
    return table(per_video, VIEWS, "clips_per_s")
