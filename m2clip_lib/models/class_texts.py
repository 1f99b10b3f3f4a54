"""The class texts of a model: one prompt a class and training step, the mean of all prompts in evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from m2clip_lib.data.prompts import Prompt, nth_prompts, prompt_number
from m2clip_lib.models.text import Caption, build_captions, tokenize


class TrainingTexts:
    """Captions and tokens of every class, one set a prompt number. The same tensor comes again: its frozen part is computed once."""

    def __init__(self, model, device: torch.device, seed: int):
        prompts, tokenizer = model.config.prompts(), model.backbone.tokenizer
        self.seed = seed
        self._sets = []
        for number in range(max(len(of_class) for of_class in prompts)):
            chosen = nth_prompts(prompts, number)
            tokens = tokenize(tokenizer, [prompt.text for prompt in chosen]).to(device)
            self._sets.append((build_captions(chosen, model.config.vocabulary, tokenizer), tokens))

    def of_step(self, step: int) -> tuple[list[Caption], Tensor]:
        """Captions, and tokens (k, l), of the prompt that this step reads."""
        return self._sets[prompt_number(self.seed, step, len(self._sets))]


def class_features(model, prompts: Sequence[Sequence[Prompt]], device: torch.device) -> Tensor:
    """Text features (k, e) of length 1: of a class's one prompt, or the mean of the features of its prompts.

    One prompt of every class at a time, so that hundreds of prompts a class need no more memory than one.
    """
    total = None
    for number in range(max(len(of_class) for of_class in prompts)):
        rows = [i for i, of_class in enumerate(prompts) if number < len(of_class)]
        tokens = tokenize(model.backbone.tokenizer, [prompts[i][number].text for i in rows]).to(device)
        features = F.normalize(model.encode_text(tokens).text_features, dim=-1)
        total = features if total is None else total.index_add(0, torch.tensor(rows, device=device), features)
    return total if max(len(of_class) for of_class in prompts) == 1 else F.normalize(total, dim=-1)
