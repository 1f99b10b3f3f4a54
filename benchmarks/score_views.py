"""Time to score a video of 12 views at the size of Kinetics-400: together with texts encoded once, or one by one as published.

ViT-B/16 12x384, 400 class prompts, 8 frames at 224 px, random weights and clips; a CPU uses one thread. Ways that take one view at a time
are timed on one view, and count 12 times.
"""

import torch
from timing import Row, compared, interleaved
from ways import random_model

from m2clip_lib.experiment import device_precision, pick_device
from m2clip_lib.models.losses import cosine_scores
from m2clip_lib.models.text import class_features, unit

VIEWS, ROUNDS = 12, 2


def bench_views() -> list[Row]:
    """Return one row per way: clips per second, speed relative to the published way."""
    torch.set_num_threads(1)
    device = pick_device()
    model = random_model().to(device).eval()
    prompts, side = model.config.prompts(), model.backbone.image_size
    clips = torch.randn(VIEWS, 3, model.config.num_frames, side, side, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.inference_mode()
    def score(views: int, texts: torch.Tensor | None, precision: str = "fp32") -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
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

    one_by_one = {"published: texts encoded again for each view": as_published, "one view at a time": lambda: score(1, once)}
    together = {f"{VIEWS} views at once": lambda: score(VIEWS, once)}
    if device_precision("auto", model.backbone, device) == "bf16":  # what eval.precision = auto then means
        one_by_one["one view at a time, bf16"] = lambda: score(1, once, "bf16")
        together[f"{VIEWS} views at once, bf16"] = lambda: score(VIEWS, once, "bf16")
    seconds = interleaved(one_by_one | together, ROUNDS)
    per_video = {name: [s * (VIEWS if name in one_by_one else 1) for s in values] for name, values in seconds.items()}
    return compared(f"scoring a video of {VIEWS} views", per_video, VIEWS, "clips/s")
