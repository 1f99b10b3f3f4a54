"""Controls that cannot see the order of frames, for comparison on the same videos; and an untrained model, to compare its maps."""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.config import Experiment
from m2clip_lib.data.dataset import batches, in_order, make_loader
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.seeds import Purpose, torch_seed
from m2clip_lib.evaluate.predictions import Predictions
from m2clip_lib.evaluate.protocol import Protocol, TestViews, evaluation_views
from m2clip_lib.evaluate.scoring import predict_split, refuse_infinite_scores, with_list
from m2clip_lib.experiment import EVALUATION_ADVICE, build_model, model_config, out_of_memory_explained
from m2clip_lib.models import M2CLIP, Backbone
from m2clip_lib.models.backbone import state_sha256
from m2clip_lib.models.text import unit

UNRELATED_NAMES = 300  # at least; twice as many as there are classes
PROBE_STEPS, PROBE_LR = 300, 1e-2
PROBE_WEIGHT_DECAYS = (1e-4, 1e-2, 1.0)  # the best on validation is used, unless validation is missing or reported: then the middle one


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


def frame_mean_probe(experiment: Experiment, manifest: Manifest, backbone: Backbone, device: torch.device) -> Predictions:
    """A linear classifier on the mean of frozen frame features, trained on one view of every training video.

    Like the model, which reads one clip per step in training, it is scored on all views: the mean of their softmax scores.
    """
    protocol = Protocol.of_experiment(experiment)
    model = frozen_clip(experiment, backbone, manifest.class_names).to(device)
    has_val = (manifest.table.split == "val").any()
    features = {}
    for split in sorted({"train", *(["val"] if has_val else []), protocol.split}):
        asked = protocol.one_view() if split == "train" else protocol
        views = evaluation_views(experiment, manifest, backbone, dataclasses.replace(asked, split=split))
        features[split] = view_features(model, views, experiment, device)
    seen, labels = features["train"][0][:, 0], features["train"][1]
    mean, std = seen.mean(0), seen.std(0) + 1e-6
    scaled = {split: ((x - mean) / std, *rest) for split, (x, *rest) in features.items()}
    classes, seed = len(manifest.class_names), experiment.train.seed
    probes = [_fit((seen - mean) / std, labels, classes, decay, seed) for decay in PROBE_WEIGHT_DECAYS]
    best = probes[len(probes) // 2]
    if has_val and protocol.split != "val":  # the reported split chooses nothing
        x, y, *_ = scaled["val"]
        best = max(probes, key=lambda probe: (_scores(probe, x).argmax(1) == y).sum().item())
    x, y, rows, failed = scaled[protocol.split]
    found = Predictions(_scores(best, x).numpy(), None, y.numpy(), rows, manifest.class_names, failed, protocol=protocol)
    return with_list(found, experiment, manifest)


@torch.inference_mode()
def view_features(
    model: M2CLIP, dataset: TestViews, experiment: Experiment, device: torch.device
) -> tuple[Float[Tensor, "n v e"], Int[Tensor, "n"], list[int], list[tuple[int, str]]]:
    """Image features (length 1) of all views of each readable video, the labels, the rows, and (row, reason) of unreadable videos."""
    features, labels, rows, failed = [], [], [], []
    batch_size = experiment.eval.batch_size
    with out_of_memory_explained(EVALUATION_ADVICE.format(batch_size)):
        for batch in batches(make_loader(dataset, in_order(len(dataset), batch_size), experiment.data.workers)):
            failed += batch.failed
            if batch.indices:
                seen = model.encode_video(model.backbone.video(batch.clips.flatten(0, 1), device))
                features.append(unit(seen.image_features).unflatten(0, batch.clips.shape[:2]).cpu())
                refuse_infinite_scores(features[-1].numpy(), batch.indices, dataset, model)
                labels.append(batch.labels)
                rows += batch.indices
    return torch.cat(features), torch.cat(labels), rows, failed


def clip_features(
    model: M2CLIP, dataset: TestViews, experiment: Experiment, device: torch.device
) -> tuple[Float[Tensor, "n e"], Int[Tensor, "n"], list[int], list[tuple[int, str]]]:
    """As view_features, with the mean over each video's views (of length 1 where there is one view)."""
    features, *rest = view_features(model, dataset, experiment, device)
    return features.mean(dim=1), *rest


@torch.inference_mode()
def _scores(probe: nn.Linear, x: Float[Tensor, "n v e"]) -> Float[Tensor, "n k"]:
    return probe(x).softmax(-1).mean(1)


def _fit(x: Tensor, y: Tensor, classes: int, weight_decay: float, seed: int) -> nn.Linear:
    torch.manual_seed(torch_seed(seed, Purpose.WEIGHTS))
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
