"""The published adapter configurations by name, for the model section of an experiment. Imports no torch, because configs import it.

trainable: scalars trained for 400 classes and 520 words (Kinetics-400), including the unused difference branch of the last block.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A published configuration: open_clip's architecture, the model section's fields, the number of trainable parameters."""

    architecture: str
    model: dict
    trainable: int
    source: str


_TED_12 = {"vision_adapter_layers": 12, "vision_adapter_width": 384, "text_adapter_width": 384}
_TED_L = _TED_12 | {"vision_adapter_layers": 24, "text_adapter_layers": 2}
_TED_24 = _TED_12 | {"vision_adapter_pre_attn": True, "text_adapter_layers": 13}

PRESETS = {
    "B/16 12x384": Preset("ViT-B-16-quickgelu", _TED_12 | {"text_adapter_layers": 2}, 16_138_136, "Kinetics-400 script"),
    "B/16 24x384": Preset("ViT-B-16-quickgelu", _TED_24 | {"text_adapter_pre_attn": True}, 39_844_760, "Something-Something v2 script"),
    "B/32 12x384": Preset("ViT-B-32-quickgelu", _TED_12 | {"text_adapter_layers": 1}, 15_744_024, "the replicate"),
    "B/32 24x384": Preset("ViT-B-32-quickgelu", _TED_24, 34_721_304, "script"),
    "L/14 24x384": Preset("ViT-L-14-quickgelu", _TED_L, 41_121_816, "not published: 12x384 carried over to the 24 blocks of L/14"),
}
