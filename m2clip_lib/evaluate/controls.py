"""Controls that cannot see the order of frames, for comparison on the same videos; and an untrained model, to compare its maps."""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.evaluate.predictions import Predictions, predict_split
from m2clip_lib.evaluate.protocol import Protocol, TestViews, evaluation_views
from m2clip_lib.experiment import build_model, model_config
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.backbone import state_sha256

UNRELATED_NAMES = 300  # at least; twice as many as there are classes
PROBE_STEPS, PROBE_LR = 300, 1e-2
PROBE_WEIGHT_DECAYS = (1e-4, 1e-2, 1.0)  # the best on validation is used; without a validation split, the middle one


def frozen_clip(experiment: Experiment, backbone: Backbone, class_names: list[str]) -> M2CLIP:
    """The same model without adapters: image features are the mean of CLIP's own frame embeddings."""
    config = dataclasses.replace(model_config(experiment, class_names), vision_adapter_layers=0, text_adapter_layers=0, frame_adapter=False)
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


def frame_mean_probe(experiment: Experiment, manifest: Manifest, backbone: Backbone, device: torch.device) -> Predictions:
    """A linear classifier on the mean of frozen frame features of one view, trained on the training split."""
    protocol = Protocol.of_experiment(experiment).one_view()
    model = frozen_clip(experiment, backbone, manifest.class_names).to(device)
    has_val = (manifest.table.split == "val").any()
    features = {}
    for split in sorted({"train", *(["val"] if has_val else []), protocol.split}):
        views = evaluation_views(experiment, manifest, backbone, dataclasses.replace(protocol, split=split))
        features[split] = clip_features(model, views, experiment, device)
    mean, std = features["train"][0].mean(0), features["train"][0].std(0) + 1e-6
    scaled = {split: ((x - mean) / std, *rest) for split, (x, *rest) in features.items()}
    probes = [_fit(*scaled["train"][:2], len(manifest.class_names), decay, experiment.train.seed) for decay in PROBE_WEIGHT_DECAYS]
    best = probes[len(probes) // 2]
    if has_val:
        x, y, *_ = scaled["val"]
        best = max(probes, key=lambda probe: (probe(x).argmax(1) == y).sum().item())
    x, y, rows, failed = scaled[protocol.split]
    with torch.inference_mode():
        scores = best(x).softmax(-1).numpy()
    return Predictions(scores, None, y.numpy(), rows, manifest.class_names, failed, protocol=protocol)


@torch.inference_mode()
def clip_features(
    model: M2CLIP, dataset: TestViews, experiment: Experiment, device: torch.device
) -> tuple[Tensor, Tensor, list[int], list[tuple[int, str]]]:
    """Image features (length 1) of each readable video's first view, the labels, the rows, and (row, reason) of unreadable videos."""
    features, labels, rows, failed = [], [], [], []
    for batch in batches(make_loader(dataset, in_order(len(dataset), experiment.eval.batch_size), experiment.data.workers)):
        failed += batch.failed
        if batch.indices:
            seen = model.encode_video(model.backbone.video(batch.clips[:, 0], device))
            features.append(F.normalize(seen.image_features, dim=-1).cpu())
            labels.append(batch.labels)
            rows += batch.indices
    return torch.cat(features), torch.cat(labels), rows, failed


def _fit(x: Tensor, y: Tensor, classes: int, weight_decay: float, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    x, y = x.clone(), y.clone()  # made under inference_mode: training needs plain tensors
    probe = nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=PROBE_LR, weight_decay=weight_decay)
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(probe(x), y).backward()
        optimizer.step()
    return probe


def untrained(experiment: Experiment, backbone: Backbone, class_names: list[str]) -> M2CLIP:
    """The same model with random weights everywhere, CLIP included: its maps show what the architecture alone produces."""
    clip = copy.deepcopy(backbone.clip)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.train.seed)
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
