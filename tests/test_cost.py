"""Operations counted, and published numbers converted to the same count."""

import pandas as pd
import pytest

from m2clip_lib.engine.cost import published_costs, video_gflops
from m2clip_lib.models import M2CLIP, M2CLIPConfig


def test_published_multiply_adds_of_a_view_become_operations_of_a_video():
    table = published_costs("Kinetics-400").set_index(["model", "frames", "views"])
    assert table.loc[("M2-CLIP B/16", 8, 12), "gflops"].item() == 2 * 214 * 12  # printed as "4x3" views
    assert table.loc[("AIM B/16", 8, 3), "gflops"].item() == 2 * 202 * 3
    assert table.loc[("Vita-CLIP B/16", 8, 1), "top1"].item() == 80.5


def test_what_a_source_does_not_say_stays_unknown():
    table = published_costs("Kinetics-400")
    assert pd.isna(table.loc[table.model == "BIKE B/16", "gflops"].item())
    assert pd.isna(table.loc[table.model.str.startswith("MSTA"), "views"].item())


def test_a_number_that_is_no_baseline_is_not_one():
    assert not published_costs("Kinetics-400").model.str.contains("Replicate").any()


def test_a_dataset_that_nobody_reports_has_no_rows():
    assert published_costs("").empty


def test_operations_of_a_frozen_clip_by_hand(backbone):
    config = M2CLIPConfig(("a", "b"), ("a",), vision_adapter_layers=0, text_adapter_layers=0, frame_adapter=False)
    model = M2CLIP(backbone, config).eval()
    n, c, patches, embed, classes = 17, 96, 16, 96, 2
    block = 12 * n * c * c + 2 * n * n * c  # query, key, value and output 4, MLP 8; attention 2
    last = (2 * n + 2 + 8) * c * c + 2 * n * c  # keys and values of all tokens, the rest of CLS alone
    frame = patches * 16 * 16 * 3 * c + 3 * block + last + c * embed
    for frames in (1, 3):
        assert video_gflops(model, frames) == pytest.approx(2e-9 * (frames * frame + c * classes), rel=1e-6)
