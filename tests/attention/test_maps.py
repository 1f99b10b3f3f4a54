"""Maps by name, and their overlays on frames: values pass through, titles and units say what they are."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from m2clip_lib.attention.maps import METHODS, MapChoice, PatchMap, attention_rollout, branch_norms, patch_map
from m2clip_lib.attention.record import cls_attention
from m2clip_lib.attention.relevance import relevance
from m2clip_lib.data.video.probe import probe
from m2clip_lib.models import M2CLIP, M2CLIPConfig
from m2clip_lib.models.text import text_features
from m2clip_lib.viz.overlay import overlay, plot_overlay, write_film
from m2clip_lib.viz.style import new_figure

VIDEO = torch.randn(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
NAMES = ["left", "right"]


@pytest.fixture(scope="module")
def model(backbone):
    torch.manual_seed(0)
    sizes = {"vision_adapter_layers": 4, "vision_adapter_width": 8, "text_adapter_layers": 1, "text_adapter_width": 8}
    model = M2CLIP(backbone, M2CLIPConfig(("left", "right"), ("left",), **sizes)).eval()
    for parameter in model.visual_adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_map_of_its_own_function(model, method):
    texts = text_features(model, NAMES)
    expected = {
        "attention": lambda: 100 * cls_attention(model, VIDEO, 1, 2),
        "rollout": lambda: 100 * attention_rollout(model, VIDEO, 1),
        "relevance": lambda: 100 * relevance(model, VIDEO, texts, torch.tensor([1]), "classifier"),
        "enhancement": lambda: branch_norms(model, VIDEO, 1, "enhancement"),
        "difference": lambda: branch_norms(model, VIDEO, 1, "difference"),
    }[method]()
    found = patch_map(model, VIDEO, MapChoice(method, 1, 2, 1, "classifier"), texts, NAMES)
    np.testing.assert_allclose(found.values, expected[0].numpy(), rtol=1e-5)
    assert found.unit == METHODS[method]
    place = {"attention": "Block 2, head 3", "rollout": "Blocks 1 to 2", "relevance": "“right” by classifier"}.get(method, "Block 2")
    assert found.title.startswith(f"{place}: ")


def spot(t: int = 2) -> PatchMap:
    """A map with all its mass on row 1, column 2 of a 4 x 4 grid."""
    values = np.zeros((t, 4, 4), np.float32)
    values[:, 1, 2] = 50
    return PatchMap(values, "a spot", "% of a frame's attention")


def test_the_overlay_is_brightest_where_the_map_is_greatest():
    frames = np.full((2, 64, 64, 3), 90, np.uint8)
    laid = overlay(frames, spot().values).astype(int).sum(axis=3)
    assert laid.shape == (2, 64, 64)
    row, column = np.unravel_index(laid[1].argmax(), (64, 64))
    assert 16 <= row < 32
    assert 32 <= column < 48
    assert laid[0, 50, 5] < laid[0, row, column] / 3


def test_an_overlay_of_nothing_is_the_frame_in_grey():
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    laid = overlay(frames, np.zeros((1, 2, 2), np.float32))
    grey = 0.4 * frames.mean(axis=3)
    assert np.abs(laid.mean(axis=3) - grey).max() < 3  # the darkest colour of the scale is nearly black


def test_the_picture_says_that_it_is_interpolated_and_when_frames_were_taken():
    _, axes = new_figure(rows=2)
    upper, lower = plot_overlay(tuple(axes), np.zeros((2, 64, 64, 3), np.uint8), spot(), [0.5, 1.25])
    assert upper.get_title(loc="left") == "a spot"
    assert lower.get_xlabel() == "time in the video  (4 x 4 patches, interpolated)"
    assert [label.get_text() for label in lower.get_xticklabels()] == ["0.50 s", "1.25 s"]
    assert lower.figure.axes[-1].get_ylabel() == "% of a\nframe's attention"
    plt.close("all")


def test_a_film_shows_every_frame_beside_its_map(tmp_path):
    write_film(tmp_path / "film.mp4", np.zeros((5, 64, 64, 3), np.uint8), spot(5))
    info = probe(tmp_path / "film.mp4")
    assert (info.num_frames, info.width, info.height, info.codec) == (5, 512, 256, "h264")
