"""The protocol: its sources, its way through files and into tables, and the views of videos that it defines."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from m2clip_lib.config import DataSection, EvalSection, Experiment, load_experiment
from m2clip_lib.data.dataset import Item, VideoReader, in_order, make_loader
from m2clip_lib.data.listing.folders import list_folder
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.scan import scan
from m2clip_lib.data.transforms import frames_to_clip, to_model_input
from m2clip_lib.data.video.decode import VideoError, read_frames
from m2clip_lib.data.video.probe import probe
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.predictions import Predictions, load_predictions, save_predictions
from m2clip_lib.evaluate.protocol import Protocol, TestViews, evaluation_views, views_of_files
from m2clip_lib.models import M2CLIPConfig
from m2clip_lib.models.checkpoint import CheckpointInfo

NAMES = ("run", "walk")
PROTOCOL = Protocol("val", 8, 4, 2, 3, ("see {}", "{} here"), "", "exact", order="backwards")


def info(extra: dict, **config) -> CheckpointInfo:
    return CheckpointInfo("", M2CLIPConfig(NAMES, ("run",), **config), [], "", "", {}, extra)


def prompts_file(folder, content: dict) -> str:
    file = folder / "prompts.json"
    file.write_text(json.dumps(content))
    return str(file)


def texts(protocol: Protocol) -> list[list[str]]:
    return [[prompt.text for prompt in prompts] for prompts in protocol.class_prompts(NAMES)]


def test_an_experiment_gives_every_field_of_its_data_and_eval_sections():
    data = DataSection(num_frames=8, stride=4, prompt=("see {}", "{} here"), resize="exact")
    experiment = Experiment(name="mine", data=data, eval=EvalSection(split="val", temporal_views=2, spatial_views=3))
    assert Protocol.of_experiment(experiment, order="backwards") == PROTOCOL
    assert Protocol.of_experiment(experiment, split="train").split == "train"
    assert Protocol.of_experiment(Experiment(name="mine", data=DataSection(prompts_file="own.json"))).prompts_file == "own.json"


def test_a_checkpoint_gives_one_view_as_long_and_spread_as_its_training_clips():
    found = Protocol.of_checkpoint(info({"stride": 16}, num_frames=4, prompt="see {}"))
    assert found == Protocol("", 4, 16, prompts=("see {}",))
    assert Protocol.of_checkpoint(info({}, num_frames=4)).stride == 0  # saved by hand: the clip covers the whole video


def test_a_model_brings_the_prompts_it_was_trained_with():
    templates = dataclasses.replace(PROTOCOL, prompts_file="own.json").with_texts_of(info({}, prompt=("a {}", "b {}")).config)
    assert (templates.prompts, templates.prompts_file) == (("a {}", "b {}"), "")
    sentences = info({}, own_prompts=(("someone runs",), ("someone walks",))).config
    kept = PROTOCOL.with_texts_of(sentences)
    assert (kept.prompts, kept.prompts_file) == ((), "sentences kept in the checkpoint")
    assert dataclasses.replace(PROTOCOL, prompts_file="own.json").with_texts_of(sentences).prompts_file == "own.json"
    assert dataclasses.replace(kept, prompts=PROTOCOL.prompts, prompts_file="") == PROTOCOL  # nothing else changes


def test_the_experiment_says_whether_unreadable_videos_count_as_wrong(workspace):
    assert not Protocol.of_experiment(load_experiment("tiny")).count_unreadable_as_wrong
    assert Protocol.of_experiment(load_experiment("tiny", ["eval.count_unreadable_as_wrong=true"])).count_unreadable_as_wrong


def test_one_view_changes_nothing_but_the_views():
    one = PROTOCOL.one_view()
    assert (PROTOCOL.num_views, one.num_views) == (6, 1)
    assert dataclasses.replace(one, temporal_views=2, spatial_views=3) == PROTOCOL


def test_a_clip_that_covers_the_whole_video_has_one_temporal_view():
    whole = Protocol("test", 8, 0, temporal_views=5, spatial_views=3)
    assert (whole.temporal_views, whole.num_views) == (1, 3)
    assert dataclasses.replace(PROTOCOL, stride=0).temporal_views == 1


def test_columns_make_a_number_reproducible():
    expected = {"split": "val", "views": "3x2", "frames": 8, "stride": 4, "prompt": "see {} | {} here", "list_sha256": "0123456789ab"}
    expected |= {"mix": 1.0, "precision": "fp32"}
    assert PROTOCOL.columns("0123456789abcdef") == expected
    assert dataclasses.replace(PROTOCOL, prompts_file="own.json").columns("")["prompt"] == "own.json"


def test_templates_are_filled_with_the_class_names():
    assert texts(PROTOCOL) == [["see run", "run here"], ["see walk", "walk here"]]


def test_sentences_of_a_prompts_file_replace_the_templates(tmp_path):
    file = prompts_file(tmp_path, {"walk": ["someone walks"], "run": ["someone runs", "running"]})
    assert texts(dataclasses.replace(PROTOCOL, prompts_file=file)) == [["someone runs", "running"], ["someone walks"]]


def test_a_prompts_file_without_a_class_is_refused(tmp_path):
    file = prompts_file(tmp_path, {"walk": ["someone walks"]})
    with pytest.raises(UserError, match="no prompts for class 'run'"):
        dataclasses.replace(PROTOCOL, prompts_file=file).class_prompts(NAMES)


@pytest.mark.parametrize("protocol", [PROTOCOL, Protocol("val", 4, 0, prompts=(), prompts_file="own.json")])
def test_a_protocol_is_the_same_after_a_round_trip_through_the_files_of_predictions(tmp_path, protocol):
    table = pd.DataFrame({"path": ["a.mp4"], "label": [1], "class_name": ["walk"], "split": "val", "status": "ok"})
    predictions = Predictions(np.array([[0.2, 0.8]], np.float32), None, np.array([1]), [0], list(NAMES), protocol=protocol)
    save_predictions(predictions, Manifest(table, list(NAMES), tmp_path, "ab" * 32), tmp_path, "val")
    loaded = load_predictions(tmp_path, "val")
    assert loaded.protocol == protocol
    assert hash(loaded.protocol) == hash(protocol)  # JSON's lists are tuples again
    assert loaded.list_sha256 == "ab" * 32


def test_predictions_without_a_protocol_are_evaluated_again(tmp_path):
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(UserError, match=r"written by an older version; evaluate again \(m2clip eval"):
        load_predictions(tmp_path, "test")


def test_views_of_files_name_those_that_cannot_be_read(video_folder, tmp_path):
    files = [tmp_path / "gone.mp4", *sorted(video_folder.rglob("clip*"))[:2]]
    table, views, failed = views_of_files(files, Protocol("", 4, 2), 48)
    assert table.place.tolist() == [1, 2]
    assert failed == {0: "missing"}
    assert [views[place].clip.shape for place in range(len(views))] == [(1, 4, 3, 48, 48)] * 2
    assert views_of_files(files[:1], Protocol("", 4, 2), 48)[1] is None


def test_evaluation_views_read_the_rows_of_the_split_that_are_asked_for(video_folder, tmp_path, backbone):
    table, _, _ = views_of_files(sorted(video_folder.rglob("clip*"))[:4], Protocol("", 4, 2), 48)
    table = table.assign(split=["train", "val", "val", "val"], status="ok")
    manifest = Manifest(table, list(NAMES), tmp_path, "")
    experiment = Experiment(name="mine")
    views = evaluation_views(experiment, manifest, backbone, Protocol("val", 4, 2), rows=[0, 2])
    assert [views[place].index for place in range(len(views))] == [0, 2]
    assert len(evaluation_views(experiment, manifest, backbone, Protocol("val", 4, 2))) == 3


# --- views of a video ---

SIDE = 48
GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def table(video_folder, tmp_path_factory) -> pd.DataFrame:
    """Twelve videos; the file of row 7 was deleted after the scan."""
    table = scan(list_folder(video_folder), 1, tmp_path_factory.mktemp("journal"))
    table.loc[7, "path"] = str(video_folder / "gone.mp4")
    return table


def numbered(row: int, indices, short_side: int) -> tuple[np.ndarray, str]:
    """Return made-up frames, 40 wide and `short_side` high: green = frame number, blue = column."""
    frames = np.zeros((len(indices), short_side, 40, 3), np.uint8)
    frames[..., 1], frames[..., 2] = np.asarray(indices)[:, None, None], np.arange(40)
    return frames, "made up"


def made_up(num_frames: int) -> pd.DataFrame:
    return pd.DataFrame({"num_frames": [num_frames], "label": [0]})


def frame_numbers(clip: torch.Tensor) -> list[int]:
    return clip[..., 1, 0, 0].tolist()


def batches(views: TestViews, workers: int) -> list:
    return list(make_loader(views, in_order(len(views), 5), workers))


def test_no_worker_and_two_workers_give_bitwise_equal_batches(table):
    """Starts two worker processes, each of which imports torch: about 7 s."""
    views = TestViews(table, VideoReader(table, "auto"), Protocol("test", 4, 2, 2, 3), SIDE)
    alone, helped = batches(views, 0), batches(views, 2)
    assert len(alone) == len(helped) == 3
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.clips, two.clips)
        assert torch.equal(one.labels, two.labels)
        assert (one.indices, one.failed) == (two.indices, two.failed)


def test_broken_video_is_listed_and_has_no_substitute(table):
    found = batches(TestViews(table, VideoReader(table, "auto"), Protocol("test", 4, 0), SIDE), 0)
    assert [batch.indices for batch in found] == [[0, 1, 2, 3, 4], [5, 6, 8, 9], [10, 11]]
    assert [row for batch in found for row, _ in batch.failed] == [7]


def test_error_other_than_a_broken_video_is_raised():
    def reader(row, indices, short_side):
        raise MemoryError("a bug of ours")

    with pytest.raises(MemoryError):
        TestViews(made_up(9), reader, Protocol("test", 2, 1), 32)[0]


def test_video_error_of_the_reader_becomes_the_error_of_the_item():
    def reader(row, indices, short_side):
        raise VideoError("frame 8 cannot be decoded")

    item = TestViews(made_up(9), reader, Protocol("test", 2, 1), 32)[0]
    assert dataclasses.astuple(item) == dataclasses.astuple(Item(0, 0, None, "frame 8 cannot be decoded"))


def test_views_are_temporal_times_spatial_by_hand():
    # 20 frames, clips of 3 at stride 4 span 9: views start at 0 and 11; 40 wide at side 32: offsets 0, 4, 8
    item = TestViews(made_up(20), numbered, Protocol("test", 3, 4, 2, 3), 32)[0]
    assert item.clip.shape == (6, 3, 3, 32, 32)
    assert [frame_numbers(view) for view in item.clip] == [[0, 4, 8]] * 3 + [[11, 15, 19]] * 3
    assert [int(view[0, 2, 0, 0]) for view in item.clip] == [0, 4, 8, 0, 4, 8]


def test_frame_shared_by_several_views_is_decoded_once():
    requested = []

    def reader(row, indices, short_side):
        requested.append(list(indices))
        return numbered(row, indices, short_side)

    TestViews(made_up(9), reader, Protocol("test", 4, 2, 3), 32)[0]
    # starts round(2 / 2 * v) = 0, 1, 2: frames 0 2 4 6, 1 3 5 7, 2 4 6 8
    assert requested == [[0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_backwards_plays_the_same_frames_in_reverse():
    forward = TestViews(made_up(20), numbered, Protocol("test", 3, 4, 2, 3), 32)[0].clip
    backward = TestViews(made_up(20), numbered, Protocol("test", 3, 4, 2, 3, order="backwards"), 32)[0].clip
    assert torch.equal(backward, forward.flip(1))
    assert frame_numbers(backward[0]) == [8, 4, 0]


def test_view_of_a_real_video_is_its_middle_square(table):
    row = 0
    item = TestViews(table, VideoReader(table, "auto"), Protocol("test", 4, 2), SIDE)[row]
    # 12 frames, span 7, start (12 - 7) // 2 = 2; the videos are square
    frames, _ = read_frames(table.path[row], [2, 4, 6, 8], (SIDE, SIDE))
    assert torch.equal(item.clip, frames_to_clip(frames)[None])
    assert item.label == table.label[row]


def exact_views(spatial: int, temporal: int, stride: int) -> torch.Tensor:
    """The golden video, evaluated with `data.resize = exact`: (views, 3, t, h, w), spatial-major as in the golden file."""
    info = dataclasses.asdict(probe(GOLDEN / "preprocess.mp4"))
    table = pd.DataFrame([{"path": str(GOLDEN / "preprocess.mp4"), "label": 0, **info}])
    views = TestViews(table, VideoReader(table, "pyav"), Protocol("test", 4, stride, temporal, spatial, resize="exact"), 32, (MEAN, STD))
    clips = to_model_input(views[0].clip, MEAN, STD)
    return clips.unflatten(0, (temporal, spatial)).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize(("key", "spatial", "temporal", "stride"), [("1x1_r16", 1, 1, 16), ("3x1_r0", 3, 1, 0), ("4x3_r8", 4, 3, 8)])
def test_exact_resize_gives_the_published_pixels(key, spatial, temporal, stride):
    """Equal to 1e-4 and the rounding of the golden values: shared/golden has them in fp32, tests/golden in fp16 (11 bits)."""
    golden = load_file(GOLDEN / "preprocess.safetensors")[key].float()
    ours = exact_views(spatial, temporal, stride)
    assert ours.shape == golden.shape
    assert ours.dtype == torch.float32
    allowed = 1e-4 + golden.abs() * 2**-11 + 2**-24
    assert ((ours - golden).abs() <= allowed).all(), (ours - golden).abs().max()
