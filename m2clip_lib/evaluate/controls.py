"""Controls that cannot see the order of frames, for comparison on the same videos; and an untrained model, to compare its maps."""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import Batch, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.seeds import Purpose, torch_seed
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol, TestViews
from m2clip_lib.evaluate.scoring import Found, predict_split, refuse_infinite_scores, score_all
from m2clip_lib.experiment import build_model, model_config
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.backbone import state_sha256
from m2clip_lib.models.text import unit

UNRELATED_NAMES = 300  # at least; twice as many as there are classes


def frozen_clip(experiment: Experiment, backbone: Backbone, class_names: list[str]) -> M2CLIP:
    """The same model without adapters: image features are the mean of CLIP's own frame embeddings."""
    config = dataclasses.replace(model_config(experiment, class_names), visual_adapter="none", text_side="frozen", unfreeze="nothing")
    return M2CLIP(backbone, config).eval()


def zero_shot(
    experiment: Experiment, manifest: Manifest, backbone: Backbone, device: torch.device, protocol: Protocol | None = None
) -> Predictions:
    """Frozen CLIP, frames averaged, against the class prompts; similarity only. protocol: the experiment's by default.

    Unrelated names are scored too, for the label check.
    """
    model, names = frozen_clip(experiment, backbone, manifest.class_names).to(device), manifest.class_names
    protocol, unrelated = protocol or Protocol.of_experiment(experiment), unrelated_names(names, backbone.tokenizer)
    return predict_split(experiment, manifest, model, protocol, class_names=names, unrelated=unrelated)


def unrelated_names(class_names: Sequence[str], tokenizer: Callable[..., Tensor]) -> list[str]:
    """Names made of random words of CLIP's vocabulary, as many tokens long as the class names in turn (up to 8); always the same ones."""
    words = np.array([word.removesuffix("</w>") for word in tokenizer.encoder if re.fullmatch("[a-z]{4,}</w>", word)])
    rng, lengths = np.random.default_rng(0), [min(8, len(tokenizer.encode(name))) for name in class_names]
    count = max(UNRELATED_NAMES, 2 * len(lengths))
    return [" ".join(rng.choice(words, length)) for length in islice(cycle(lengths), count)]


def encoded(model: M2CLIP, views: TestViews, experiment: Experiment, device: torch.device, read: Callable[[Tensor], Tensor]) -> Found:
    """What `read` makes of clips (b, 3, t, h, w), as scores["encoded"] (n, v, ...): of all views v of each readable video."""

    def encode(batch: Batch, _: bool) -> Found:
        parts = {}
        if batch.indices:
            seen = read(model.backbone.video(batch.clips.flatten(0, 1), device))
            parts["encoded"] = seen.unflatten(0, batch.clips.shape[:2]).cpu().numpy()
            refuse_infinite_scores(parts["encoded"], batch.indices, views, model)
        return Found(np.array(batch.indices, np.int64), batch.labels.numpy(), parts, batch.failed, batch.decoders)

    size = experiment.eval.batch_size
    return score_all(encode, make_loader(views, in_order(len(views), size), experiment.data.workers), size)


def clip_features(
    model: M2CLIP, views: TestViews, experiment: Experiment, device: torch.device
) -> tuple[Float[ndarray, "n e"], Int[ndarray, "n"]]:
    """Image features (length 1) of the readable videos, mean over each one's views; and their labels."""
    found = encoded(model, views, experiment, device, lambda video: unit(model.encode_video(video).image_features))
    return found.scores["encoded"].mean(axis=1), found.labels


def untrained(experiment: Experiment, backbone: Backbone, class_names: list[str]) -> M2CLIP:
    """The same model with random weights everywhere, CLIP included: its maps show what the architecture alone produces."""
    clip = copy.deepcopy(backbone.clip)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(experiment.train.seed, Purpose.WEIGHTS))
        for module in clip.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
                continue
            for parameter in filter(Tensor.dim, module.parameters(recurse=False)):  # class token, positions, projections
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    clip.requires_grad_(False)
    fresh = dataclasses.replace(backbone, clip=clip, source="untrained", sha256=state_sha256(clip.state_dict()))
    return build_model(experiment, fresh, class_names).eval()
