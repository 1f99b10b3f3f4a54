"""`m2clip bench data`: the cost of loading on one core, compared with the published way; and the decoders on your own files.

Videos: 10 s of 340 x 256 px H.264 at 30 frames/s, made here; "sparse" has keyframes 250 frames apart, as downloads often do; "close" is
the output of `m2clip prepare --transcode` for the same videos. Clips: 8 frames, stride 16, 224 px; tests: 4 x 3 views.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch
from published_loading import test_views as published_views
from published_loading import train_clip as published_clip
from timing import Row, compared, interleaved
from torch.nn import functional as F

from m2clip_lib.data.dataset import TrainClips, VideoReader
from m2clip_lib.data.demo.videos import write_video
from m2clip_lib.data.listing.walk import EXTENSIONS
from m2clip_lib.data.sampling import test_indices, train_indices
from m2clip_lib.data.transforms import Augmentation
from m2clip_lib.data.video.compare import compare_decoders
from m2clip_lib.data.video.container import video_stream
from m2clip_lib.data.video.decode import Pictures, fit_short_side, installed_decoders
from m2clip_lib.data.video.probe import decodable_frames, probe
from m2clip_lib.data.video.transcode import transcode_file
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.protocol import Protocol, TestViews
from m2clip_lib.models.sources import OPENAI_MEAN, OPENAI_STD

CLIP_LEN, STRIDE, SIDE, SPATIAL, TEMPORAL = 8, 16, 224, 4, 3
HOW = Augmentation((SIDE, SIDE))
VIDEOS, ROUNDS, OWN_FILES = 4, 7, 32


def bench_data(own_folder: Path | None) -> list[Row]:
    """Return the rows of the benchmark."""
    torch.set_num_threads(1)
    if own_folder is not None:
        return _own_files(own_folder)
    with tempfile.TemporaryDirectory() as folder:
        sparse, close = make_videos(Path(folder))
        return [
            *_training("loading a training clip, keyframes 250 apart", sparse),
            *_training("loading a training clip, after prepare --transcode", close),
            *_testing("loading 4 x 3 test views, keyframes 250 apart", sparse),
            _shares("keyframes 250 apart", sparse),
            _shares("after prepare --transcode", close),
        ]


def make_videos(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the videos. Returns: rows as a manifest has them, of those with sparse keyframes and of those with close ones."""
    sparse, close = [], []
    for number in range(VIDEOS):
        source, copy = folder / f"{number}.mp4", folder / f"{number} transcoded.mp4"
        write_video(source, _moving_texture(number), 30, "libx264", {"g": "250", "preset": "medium", "crf": "23"})
        transcode_file(source, copy)
        sparse.append({"path": str(source), "label": 0, **asdict(probe(source))})
        close.append({"path": str(copy), "label": 0, **asdict(probe(copy))})
    return pd.DataFrame(sparse), pd.DataFrame(close)


def _moving_texture(seed: int, frames: int = 300, height: int = 256, width: int = 340) -> np.ndarray:
    """A drifting textured background with a textured square moving over it, and film grain. (t, h, w, 3) uint8."""
    rng = np.random.default_rng(seed)

    def texture(h: int, w: int) -> np.ndarray:
        coarse = F.interpolate(torch.from_numpy(rng.random((1, 3, 24, 32), np.float32)), (h, w), mode="bicubic")[0]
        return (200 * coarse + 55 * torch.from_numpy(rng.random((3, h, w), np.float32))).clamp(0, 255).permute(1, 2, 0).numpy()

    back, front = texture(height + 120, width + 160), texture(90, 90)
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        y, x = int(60 + 50 * np.sin(t / 30)), int(80 + 70 * np.cos(t / 41))
        picture = back[y : y + height, x : x + width].copy()
        top, left = int(80 + 70 * np.cos(t / 9)), int(120 + 100 * np.sin(t / 13))
        picture[top : top + 90, left : left + 90] = front
        out[t] = (picture + rng.normal(0, 3, (height, width, 1))).clip(0, 255)
    return out


def _training(what: str, videos: pd.DataFrame) -> list[Row]:
    def published() -> None:
        for row, video in enumerate(videos.itertuples()):
            indices = train_indices(video.num_frames, CLIP_LEN, STRIDE, np.random.default_rng([0, 0, row]))
            published_clip(video.path, indices, SIDE, SIDE, (0, 30), OPENAI_MEAN, OPENAI_STD)

    def ours(decoder: str) -> None:
        clips = TrainClips(videos, VideoReader(videos, decoder), CLIP_LEN, STRIDE, SIDE, HOW, seed=0)
        for row in range(len(videos)):
            if clips[0, row].error:
                raise UserError(f"bench: {clips[0, row].error}")

    contestants = {"published: decode everything": published} | {name: lambda name=name: ours(name) for name in installed_decoders()}
    return compared(what, interleaved(contestants, ROUNDS), len(videos), "clips/s and core")


def _testing(what: str, videos: pd.DataFrame) -> list[Row]:
    videos = videos.head(2)

    def published() -> None:
        for video in videos.itertuples():
            views = test_indices(video.num_frames, CLIP_LEN, STRIDE, TEMPORAL)
            published_views(video.path, views, SIDE, SPATIAL, OPENAI_MEAN, OPENAI_STD)

    def ours(decoder: str) -> None:
        views = TestViews(videos, VideoReader(videos, decoder), Protocol("test", CLIP_LEN, STRIDE, TEMPORAL, SPATIAL), SIDE)
        for row in range(len(videos)):
            if views[row].error:
                raise UserError(f"bench: {views[row].error}")

    contestants = {"published: convert everything": published} | {name: lambda name=name: ours(name) for name in installed_decoders()}
    return compared(what, interleaved(contestants, ROUNDS), len(videos), "videos/s and core")


def _shares(name: str, videos: pd.DataFrame) -> Row:
    """Percentages of time spent on decoding, on resizing with colour conversion, and on the transforms that follow."""
    clips = TrainClips(videos, VideoReader(videos, "pyav"), CLIP_LEN, STRIDE, SIDE, HOW, seed=0)
    size = fit_short_side(videos.width[0], videos.height[0], SIDE)
    with av.open(videos.path[0]) as container:
        stream = video_stream(container)
        frames = [frame for frame, _ in zip(decodable_frames(container, stream), range(CLIP_LEN), strict=False)]

    def convert() -> None:
        pictures = Pictures(stream, size)
        for frame in frames:
            pictures(frame)

    indices = train_indices(videos.num_frames[0], CLIP_LEN, STRIDE, np.random.default_rng([0, 0, 0]))  # the frames that clips[0, 0] draws
    seconds = interleaved({"all": lambda: clips[0, 0], "read": lambda: clips.reader(0, indices, SIDE), "convert": convert}, 15)
    whole, read, converted = (float(np.median(seconds[key])) for key in ("all", "read", "convert"))
    whole = max(whole, read)
    shares = {"decode": read - converted, "resize": converted, "transform": whole - read}
    percent = {f"{key}, %": round(100 * value / whole) for key, value in shares.items()}
    return Row("one training clip, PyAV", name, float(f"{1 / whole:.3g}"), "clips/s and core", more=percent)


def _own_files(folder: Path) -> list[Row]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"bench data --videos {folder}: no video there")
    found = compare_decoders(files[:: max(1, len(files) // OWN_FILES)][:OWN_FILES]).to_dict("records")
    what, first, rows = f"decoders on {folder}", found[0]["clips_per_s_and_core"], []
    for decoder in found:
        rate = decoder.pop("clips_per_s_and_core")
        relative = round(rate / first, 2) if rate else None
        rows.append(Row(what, decoder.pop("what"), rate, "clips/s and core", relative, more=decoder))
    return rows
