"""Text adapters, and the head that names masked words.

Source: M2-CLIP (AAAI 2024), section 3.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m2clip_lib.models.adapters.ted import zero_biases_and_convs


class TextAdapter(nn.Module):
    """x + W8 GELU(W7 x + b7) + b8. W7 and W8 are not zero-initialised, so an untrained adapter is not the identity."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.fc1 = nn.Linear(width, bottleneck)
        self.fc2 = nn.Linear(bottleneck, width)
        zero_biases_and_convs(self.fc1, self.fc2)

    def forward(self, x: Float[Tensor, "*batch l c"]) -> Float[Tensor, "*batch l c"]:
        """x: one vector per token."""
        return x + self.fc2(F.gelu(self.fc1(x)))


class MaskedWordHead(nn.Module):
    """logits = decoder(LN(GELU(dense x))) + bias over the vocabulary. LN eps 1e-12 as in BERT."""

    def __init__(self, width: int, num_words: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.decoder = nn.Linear(width, num_words)
        zero_biases_and_convs(self.dense, self.decoder)

    def forward(self, x: Float[Tensor, "*batch l c"]) -> Float[Tensor, "*batch l v"]:
        """Score every vocabulary word at every position."""
        return self.decoder(self.norm(F.gelu(self.dense(x))))
