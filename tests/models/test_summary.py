"""Tables of parameter counts and shapes."""

import torch

from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.summary import count_table, trace_shapes

CONFIG = M2CLIPConfig(("one", "two", "three"), ("a", "one"), 2, 8, text_adapter_layers=2, text_adapter_width=8)


def test_counts_add_up_to_the_model(backbone):
    model = M2CLIP(backbone, CONFIG)
    table = count_table(model)
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    trainable = table.loc[table.state == "trainable", "parameters"].sum()
    assert trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert table.part.str.contains("dead").sum() == 1


def test_traced_shapes_are_those_of_the_model(backbone):
    model = M2CLIP(backbone, CONFIG).eval()
    table = trace_shapes(model, torch.zeros(2, 3, 5, 64, 64), backbone.tokenizer(["one", "two"])).set_index("step")
    assert table.loc["clip.visual.conv1", "shape"] == (10, 96, 4, 4)
    assert table.loc["visual_adapters.2.pre_mlp", "shape"] == (2, 5, 17, 96)
    assert table.loc["visual_adapters.2.pre_mlp.difference.fc1", "shape"] == (2, 5, 16, 8)
    assert table.loc["clip.visual.transformer.resblocks.3.ln_2", "shape"] == (2, 5, 1, 96)
    assert table.loc["frame_features", "shape"] == (2, 5, 96)
    assert table.loc["fc_logits", "shape"] == (2, 3)
    assert not any(module._forward_hooks for module in model.modules())
