"""One optimizer step at the size of Kinetics-400, with the model's exact shortcuts and without: time and memory.

ViT-B/16, 12 TED-Adapters of 384 channels, 400 class prompts, 8 frames at 224 px, random weights, made-up clips: nothing to download.
"Without" is the plain published way: all 77 text positions, every class prompt through every block at every step, the batch's own
prompts encoded again, the last visual block for every token.
"""

import numpy as np
import torch
from open_clip import create_model
from open_clip.tokenizer import SimpleTokenizer
from torchvision.models.video import MViT_V2_S_Weights

from m2clip_lib.data.labels import build_prompts, build_vocabulary
from m2clip_lib.engine.parameters import parameter_groups
from m2clip_lib.models import M2CLIP, Backbone, M2CLIPConfig, multi_task_loss
from m2clip_lib.models.text import build_captions, mask_batch, tokenize
from m2clip_lib.presets import PRESETS

PRESET = PRESETS["B/16 12x384"]
FRAMES, SIDE = 8, 224


def kinetics_model(num_frames: int = FRAMES) -> M2CLIP:
    """The published B/16 12x384 for Kinetics-400, random weights."""
    torch.manual_seed(0)
    clip = create_model(PRESET.architecture, pretrained=None).eval().requires_grad_(False)
    backbone = Backbone(clip, SimpleTokenizer(), "random", "", SIDE)
    names = MViT_V2_S_Weights.KINETICS400_V1.meta["categories"]
    prompt = "A video of {}"
    words = build_vocabulary(build_prompts(names, prompt))
    return M2CLIP(backbone, M2CLIPConfig(tuple(names), tuple(words), num_frames=num_frames, **PRESET.model))


class KineticsStep:
    """A whole step on made-up clips: forward, backward, AdamW. precision: fp32, or bf16 autocast."""

    def __init__(self, model: M2CLIP, batch_size: int, device: torch.device, precision: str = "fp32"):
        self.model, self.device, self.precision = model.to(device).train(), device, precision
        names, config, tokenizer = model.config.class_names, model.config, model.backbone.tokenizer
        rng = np.random.default_rng(0)
        labels = rng.integers(len(names), size=batch_size)
        captions = build_captions(names, config.prompt, config.vocabulary, tokenizer)
        self.masked = mask_batch(captions, labels.tolist(), tokenizer, [(i,) for i in range(batch_size)])
        self.video = torch.from_numpy(rng.standard_normal((batch_size, 3, config.num_frames, SIDE, SIDE), np.float32)).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.class_tokens = tokenize(tokenizer, build_prompts(names, config.prompt)).to(device)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, 1e-4, 0.01), fused=True)

    def loss(self, shortcuts: bool) -> torch.Tensor:
        """The total loss, with its graph."""
        self.model.shortcuts = shortcuts
        tokens, targets = self.masked
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return multi_task_loss(
                self.model,
                self.video,
                self.labels,
                self.class_tokens,
                caption_tokens=None if shortcuts else self.class_tokens[self.labels],
                masked_tokens=tokens.to(self.device),
                masked_targets=targets.to(self.device),
            ).total

    def __call__(self, shortcuts: bool) -> None:
        """One step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(shortcuts).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
