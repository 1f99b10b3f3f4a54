"""Exported graphs: they give the model's values for any number of clips, or no file is kept."""

import sys

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from open_clip.model import CLIP

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predict import open_checkpoint
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.files import file_sha256
from m2clip_lib.models import M2CLIP, load_backbone
from m2clip_lib.models.backbone import M2CLIPConfig
from m2clip_lib.models.text import text_features, tokenize
from m2clip_lib.presets import PRESETS
from m2clip_lib.ship.graphs import Graph, compared, text_graph, traced, video_graph, write_onnx, write_pt2

pytestmark = pytest.mark.xdist_group("exported")
NAMES, WORDS = ("opening door", "closing door", "waving"), ("a", "closing", "door", "of", "opening", "video", "waving")


@pytest.fixture(scope="module")
def demo(demo_file):
    return open_checkpoint(demo_file)


def changed(model, seed=0):
    """Random values in every trained tensor, so that no adapter is the identity."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def test_onnxruntime_gives_the_values_of_torch_for_one_clip_and_for_several(demo, exported):
    model, protocol = demo
    session, texts = onnxruntime.InferenceSession(exported[0] / "video.onnx"), protocol.class_texts(model)
    for count in (1, 2, 5):
        frames = torch.randint(0, 256, (count, 8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
        scores, similarity, classifier, features = session.run(None, {"frames": frames.numpy()})
        with torch.inference_mode():
            seen = model.encode_video(model.backbone.video(frames, torch.device("cpu")))
        cosines = torch.nn.functional.normalize(seen.image_features, dim=-1) @ texts.T
        half = (100 * cosines).softmax(-1) / 2 + seen.fc_logits.softmax(-1) / 2
        np.testing.assert_allclose(scores, half, atol=1e-4)
        np.testing.assert_allclose(similarity, 100 * cosines, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(classifier, seen.fc_logits, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
        assert scores.shape == (count, 12)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_the_differences_of_every_output_are_reported(exported):
    assert list(exported[1]["video.onnx"]) == ["scores", "similarity", "classifier", "features"]
    assert list(exported[1]["text.onnx"]) == ["features"]
    assert all(0 <= value < 1e-4 for found in exported[1].values() for value in found.values())


@pytest.mark.slow
def test_an_export_is_the_same_file_twice_and_names_no_folder_of_this_machine(demo, exported, tmp_path):
    write_onnx(text_graph(demo[0]), tmp_path / "again.onnx")
    assert file_sha256(tmp_path / "again.onnx") == file_sha256(exported[0] / "text.onnx")
    assert not any(str(paths.ROOT).encode() in (exported[0] / name).read_bytes() for name in exported[1])


def test_text_encoder_gives_the_texts_that_the_video_graph_holds(demo, exported):
    model, (folder, _) = demo[0], exported
    tokens = tokenize(model.backbone.tokenizer, [prompt.text for (prompt,) in model.config.prompts()])
    (texts,) = onnxruntime.InferenceSession(folder / "text.onnx").run(None, {"tokens": tokens.numpy()})
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 3, 64, 64), dtype=np.uint8)
    similarity, features = onnxruntime.InferenceSession(folder / "video.onnx").run(["similarity", "features"], {"frames": frames})
    np.testing.assert_allclose(100 * features @ texts.T, similarity, atol=1e-3)
    np.testing.assert_allclose(texts, text_features(model, model.config.class_names), atol=1e-5)


@pytest.mark.slow
def test_an_exported_program_is_kept_when_it_gives_the_same_values(demo, tmp_path):
    assert set(write_pt2(text_graph(demo[0]), tmp_path / "text.pt2").values()) == {0.0}
    assert [file.name for file in tmp_path.iterdir()] == ["text.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["st_adapter", "aim", "lora", "none"])
def test_every_kind_of_adapter_can_be_traced_for_any_number_of_clips(backbone, kind):
    sizes = {"vision_adapter_layers": 2, "vision_adapter_width": 8, "text_adapter_layers": 0}
    model = changed(M2CLIP(backbone, M2CLIPConfig(NAMES, WORDS, num_frames=4, visual_adapter=kind, **sizes)))
    graph = video_graph(model, Protocol("", 4, 0))
    assert max(compared(graph, traced(graph).module(), kind).values()) < 1e-5


class Changing(torch.nn.Module):
    """Gives other values once it is exported."""

    outputs = ("doubled",)

    def __init__(self, exported: float):
        super().__init__()
        self.exported = exported

    def forward(self, x):
        return (x * (self.exported if torch.compiler.is_exporting() else 2.0),)


@pytest.mark.parametrize(("write", "factor"), [(write_onnx, 2.01), (write_pt2, 2.01), (write_pt2, float("nan"))])
def test_a_graph_that_gives_other_values_is_not_kept(tmp_path, write, factor):
    file = tmp_path / "graph"
    with pytest.raises(UserError, match=r"differs from torch by .* in 'doubled', 0.0001 is allowed; nothing was kept"):
        write(Graph(Changing(factor), "x", torch.ones(3, 2)), file)
    assert list(tmp_path.iterdir()) == []
    assert write(Graph(Changing(2.0), "x", torch.ones(3, 2)), file) == {"doubled": 0.0}


def test_differences_are_relative_to_values_above_one():
    graph = Graph(Changing(0), "x", torch.tensor([[50.0], [0.1], [2.0]]))  # doubled: 100, 0.2, 4
    found = compared(graph, lambda rows: (rows * 2 + 0.005,), "another")  # 0.005 of 100
    assert found == {"doubled": pytest.approx(5e-5, rel=1e-2)}
    with pytest.raises(UserError, match=r"another differs from torch by 0.005 in 'doubled'"):
        compared(Graph(Changing(0), "x", torch.full((3, 1), 0.1)), lambda rows: (rows * 2 + 0.005,), "another")


def test_a_missing_package_is_one_line(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed; pip install onnx onnxruntime onnxscript"):
        write_onnx(text_graph(demo[0]), tmp_path / "text.onnx")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", ["video", "text"])
def test_full_size_b16_gives_the_values_of_torch(tmp_path, capsys, part):
    """Random weights, with the published adapters: 150 M weights, 8 frames of 224 x 224. Takes about a minute."""
    torch.manual_seed(0)
    torch.save(CLIP(**open_clip.get_model_config("ViT-B-16-quickgelu")).state_dict(), tmp_path / "clip.pt")
    model = changed(M2CLIP(load_backbone(tmp_path / "clip.pt"), M2CLIPConfig(NAMES, WORDS, **PRESETS["B/16 12x384"].model)))
    file = tmp_path / f"{part}.onnx"
    found = write_onnx(video_graph(model, Protocol("", 8, 0)) if part == "video" else text_graph(model), file)
    with capsys.disabled():
        print(f"\nViT-B/16, {part}: {found}, {file.stat().st_size / 2**20:.0f} MB")
    assert max(found.values()) < 1e-4
