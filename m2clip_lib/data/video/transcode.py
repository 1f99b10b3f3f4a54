"""Encoding a dataset once into files that load fast: short side 256 px, a keyframe every 12 frames, no audio, upright.

Frame n of the new file is frame n of the old one, so sampling does not change. The copies have a manifest of their own.
"""

import glob
import hashlib
import os
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import av
import numpy as np
import pandas as pd

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.sampling import train_indices
from m2clip_lib.data.video.container import VideoError, open_video, video_stream
from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import AS_STORED, EMPTY, bad_row, decodable_frames, orientation, probe, reason, shown_size
from m2clip_lib.data.video.times import frame_times
from m2clip_lib.data.workers import Failure, Journal, call_in_children, fingerprint, with_progress
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space, show_bytes, write_atomically

SHORT_SIDE, KEYFRAME_EVERY = 256, 12  # pixels, frames
# A keyframe exactly every 12 frames, and B-frames from which nothing is predicted: a reader may skip them.
ENCODER = {"preset": "veryfast", "crf": "20", "g": str(KEYFRAME_EVERY), "bf": "2", "b-pyramid": "none", "sc_threshold": "0", "threads": "1"}
COLOURS = {"dst_colorspace": "ITU601", "dst_color_range": "MPEG"}  # what every reader assumes of a file that does not say
JOURNAL_FILE = "transcode.jsonl"
SAMPLE = 8  # videos, at most half of them, that are encoded first to estimate the cost of the rest
LONGEST_NAME = 200  # bytes; most file systems allow 255, and a temporary file's name is longer
CLIP = (8, 16)  # frames and stride of the clips with which the gain is measured


def transcode(
    manifest: Manifest, root: Path, folder: Path, processes: int, limit_s: float, report: Callable[[str], None] = print
) -> pd.DataFrame:
    """Encode every usable video of a manifest into folder/videos; can be stopped and continued.

    Cost and gain, measured on the first few videos, are reported before the rest is encoded.
    Args:
        root: folder of the originals; the copies keep their paths below it.
        limit_s: seconds per file, to which twice its duration is added.
    Returns: the manifest's rows for the copies; an original that was not usable keeps its status, and one that fails gets one.
    Raises: UserError if the disk has too little room.
    """
    journal = Journal(folder / JOURNAL_FILE, {*asdict(EMPTY), "status", "seconds", "bytes"})
    todo, rows = [], {}
    for row in manifest.table.drop_duplicates("path").itertuples():
        if row.status != "ok":
            rows[row.path] = bad_row(row.status)
            continue
        target = copy_path(row.path, root, folder)
        try:
            mark = f"{fingerprint(row.path)} {ENCODER} {COLOURS}"
        except OSError as error:  # deleted since it was scanned
            rows[row.path] = bad_row(f"transcode: {error.strerror}")
            continue
        if (row.path, mark) in journal.known and target.is_file():
            rows[row.path] = journal.known[row.path, mark]
        else:
            todo.append((row.path, str(target), row.num_frames, limit_s + 2 * row.duration_s, mark))
    if rows and todo:
        report(f"transcode: {len(rows):,} files are done or not usable, {len(todo):,} are to be done")

    def work(batch: list[tuple], what: str) -> None:
        results = call_in_children(_transcode_row, batch, processes, lambda job: job[3])
        for place, result in with_progress(results, len(batch), what, report):
            path, target, _, _, mark = batch[place]
            if isinstance(result, Failure):
                rows[path] = bad_row(f"transcode: {result.reason}")
                _remove_unfinished(Path(target))
            else:
                rows[path] = result
                if result["status"] == "ok":
                    journal.add(path, mark, result)

    with journal:
        sample = min(SAMPLE, max(1, len(todo) // 2))
        first = todo[:: max(1, len(todo) // sample)][:sample]
        rest = [job for job in todo if job not in first]
        check_space(folder, sum(Path(job[0]).stat().st_size for job in first), "transcode")  # copies are smaller than camera files
        work(first, "transcoding a sample")
        if rest:
            done = [rows[job[0]] | {"source": job[0], "target": job[1]} for job in first]
            _report_costs(done, len(rest), folder, processes, report)
            work(rest, "transcoding")
    found = pd.DataFrame([rows[path] for path in manifest.table.path], manifest.table.index)[[*asdict(EMPTY), "status"]]
    return manifest.table.assign(path=[str(copy_path(path, root, folder)) for path in manifest.table.path], **found)


def copy_path(path: str, root: Path, folder: Path) -> Path:
    """Return the path of a video's copy: the same place below folder/videos, with ".mp4" added (a.avi and a.mp4 remain distinct)."""
    source = Path(path)
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    name = f"{source.name}.mp4"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{source.name[:40]}-{digest}.mp4"  # 40 characters are at most 160 bytes
    if source.is_relative_to(root) and ".." not in source.parts:
        return folder / "videos" / source.relative_to(root).parent / name
    return folder / "videos" / "elsewhere" / digest / name


def transcode_file(source: Path, target: Path) -> int:
    """Encode one video, atomically. Returns: the number of frames written.

    Raises: VideoError with the reason; UserError if the disk is full, which is not the video's fault.
    """
    _remove_unfinished(target)
    written: list[int] = []
    try:
        write_atomically(target, lambda file: written.append(_encode(source, file)))
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(f"cannot be encoded: {reason(error)}") from error
    return written[0]


def _remove_unfinished(target: Path) -> None:
    """Remove what an encoder that was killed has left behind."""
    for file in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        file.unlink(missing_ok=True)


def stamps(source: Path, time_base: Fraction) -> Iterator[int]:
    """When the frames of a video are shown, in ticks: not by their own clock, which starts anew where recordings were joined.

    Frames are found by their times, so no two share one.
    """
    times, last = frame_times(probe(source).times), -1
    for seconds in chain(times, repeat(times[-1])):
        last = max(round(seconds / time_base), last + 1)
        yield last


def _encode(source: Path, file: Path) -> int:
    with open_video(source) as origin, av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as copy:
        stream = video_stream(origin)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        time_base = stream.time_base or 1 / rate  # not the new stream's, which changes when the first packet is written
        out, count, ticks = None, 0, stamps(source, time_base)
        for frame in decodable_frames(origin, stream):
            shown = orientation(frame)
            if out is None:
                width, height = shown_size(frame, stream)
                out = copy.add_stream("libx264", rate=rate.limit_denominator(100_000))
                out.options, out.pix_fmt = ENCODER, "yuv420p"
                fitted = fit_short_side(width, height, min(SHORT_SIDE, width, height))
                out.width, out.height = (max(2, side - side % 2) for side in fitted)  # 4:2:0 needs even sides
                out.time_base = out.codec_context.time_base = time_base
            size = shown.size(out.width, out.height)
            if shown == AS_STORED:
                small = frame.reformat(*size, "yuv420p", interpolation="BICUBIC", **COLOURS)
            else:
                upright = shown.upright(frame.reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray())
                small = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright), format="rgb24").reformat(format="yuv420p", **COLOURS)
            small.pts, small.time_base, small.pict_type = next(ticks), time_base, 0
            copy.mux(out.encode(small))
            count += 1
        if out is None:
            raise VideoError("no frame can be decoded")
        copy.mux(out.encode())
    return count


def _transcode_row(job: tuple[str, str, int, float, str]) -> dict:
    source, target, num_frames, _, _ = job
    start = time.perf_counter()
    try:
        transcode_file(Path(source), Path(target))
        info = probe(target)
        if info.num_frames != num_frames:
            raise VideoError(f"{info.num_frames} frames came out of {num_frames}")
    except VideoError as error:
        return bad_row(f"transcode: {error}") | {"seconds": 0.0, "bytes": 0}
    return asdict(info) | {"status": "ok", "seconds": time.perf_counter() - start, "bytes": Path(target).stat().st_size}


def _report_costs(sample: list[dict], rest: int, folder: Path, processes: int, report: Callable[[str], None]) -> None:
    """Raises: UserError if no video of the sample could be encoded, or the disk has too little room for the rest."""
    done = [row for row in sample if row["status"] == "ok"]
    if not done:
        raise UserError(f"transcode: none of the first {len(sample)} videos could be encoded; first reason: {sample[0]['status']}")
    minutes = statistics.mean(row["seconds"] for row in done) * rest / processes / 60
    size = statistics.mean(row["bytes"] for row in done) * rest
    gain = statistics.median(_gain(row, number) for number, row in enumerate(done))
    report(
        f"transcode: {rest:,} more videos take about {minutes:.0f} min on {processes} processes and {show_bytes(size)} in {folder}; "
        f"a training clip then loads {gain:.1f} times as fast (measured on {len(done)} videos)"
    )
    check_space(folder, int(1.1 * size), "transcode")


def _gain(row: dict, number: int) -> float:
    """Return the time to load one training clip from the original, divided by the time from the copy."""
    indices = train_indices(row["num_frames"], *CLIP, np.random.default_rng(number))
    size = fit_short_side(row["width"], row["height"], min(224, row["width"], row["height"]))

    def seconds(path: str) -> float:
        return min(timeit.repeat(lambda: read_frames(path, indices, size, "auto", row["num_frames"]), number=1, repeat=3))

    return seconds(row["source"]) / seconds(row["target"])
