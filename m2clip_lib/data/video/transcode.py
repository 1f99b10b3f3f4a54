"""Encoding a dataset once into files that load fast: short side 256 px, a keyframe every 12 frames, no audio, upright.

Frame n of the new file is frame n of the old one, so that sampling does not change. The copies have a manifest of their own.
"""

import errno
import glob
import hashlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd

from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.sampling import train_indices
from m2clip_lib.data.video.container import VideoError, open_video, video_stream
from m2clip_lib.data.video.decode import fit_short_side, read_frames
from m2clip_lib.data.video.probe import AS_STORED, EMPTY, bad_row, decodable_frames, orientation, probe, reason
from m2clip_lib.data.workers import Failure, Journal, call_in_children, fingerprint, with_progress
from m2clip_lib.errors import UserError
from m2clip_lib.files import check_space, show_bytes, write_atomically

SHORT_SIDE, KEYFRAME_EVERY = 256, 12  # pixels, frames
# A keyframe exactly every 12 frames, and B-frames that nothing is predicted from: a reader may skip them.
ENCODER = {"preset": "veryfast", "crf": "20", "g": str(KEYFRAME_EVERY), "bf": "2", "b-pyramid": "none", "sc_threshold": "0", "threads": "1"}
COLOURS = {"dst_colorspace": "ITU601", "dst_color_range": "MPEG"}  # what every reader takes for a file that does not say
JOURNAL_FILE = "transcode.jsonl"
SAMPLE = 8  # videos, at most half of them, that are done first, to say what the rest will take
LONGEST_NAME = 200  # bytes; most file systems take 255, and a temporary file's name is longer
CLIP = (8, 16)  # frames and stride of the clips that the gain is measured with


def transcode(
    manifest: Manifest, root: Path, folder: Path, processes: int, limit_s: float, report: Callable[[str], None] = print
) -> pd.DataFrame:
    """Encode every usable video of a manifest into folder/videos; can be stopped and continued.

    Says what it costs and gains, measured on the first few, before it goes on.
    Args:
        root: folder of the originals; the copies keep the paths below it.
        limit_s: seconds for one file, to which twice its duration is added.
    Returns: the manifest's rows for the copies; an original that was not usable keeps its status, one that fails gets one.
    Raises: UserError when the disk has no room.
    """
    journal = Journal(folder / JOURNAL_FILE, {*asdict(EMPTY), "status", "seconds", "bytes"})
    jobs, rows = {}, {}
    for row in manifest.table.itertuples():
        if row.status != "ok":
            rows[row.path] = bad_row(row.status)
            continue
        target = copy_path(row.path, root, folder)
        try:
            mark = f"{fingerprint(row.path)} {ENCODER} {COLOURS}"
        except OSError as error:  # gone since it was scanned
            rows[row.path] = bad_row(f"transcode: {error.strerror}")
            continue
        if (row.path, mark) in journal.known and target.is_file():
            rows[row.path] = journal.known[row.path, mark]
        else:
            jobs[row.path] = (row.path, str(target), row.num_frames, limit_s + 2 * row.duration_s, mark)
    if rows and jobs:
        report(f"transcode: {len(rows):,} files are done or not usable, {len(jobs):,} are to be done")

    def work(batch: list[tuple], what: str) -> None:
        results = call_in_children(_transcode_row, batch, processes, lambda job: job[3])
        for place, result in with_progress(results, len(batch), what, report):
            path, _, _, _, mark = batch[place]
            if isinstance(result, Failure):
                rows[path] = bad_row(f"transcode: {result.reason}")
                _remove_unfinished(Path(batch[place][1]))
            else:
                rows[path] = result
                if result["status"] == "ok":
                    journal.add(path, mark, result)

    with journal:
        todo = list(jobs.values())
        sample = min(SAMPLE, max(1, len(todo) // 2))
        first = todo[:: max(1, len(todo) // sample)][:sample]
        rest = [job for job in todo if job not in first]
        check_space(folder, sum(Path(job[0]).stat().st_size for job in first), "transcode")  # copies are smaller than what cameras write
        work(first, "transcoding a sample")
        if rest:
            trusted = dict(zip(manifest.table.path, manifest.table.decord, strict=True))
            done = [rows[job[0]] | {"source": job[0], "target": job[1], "source_decord": trusted[job[0]]} for job in first]
            _say_costs(done, len(rest), folder, processes, report)
            work(rest, "transcoding")
    table = manifest.table.copy()
    table["path"] = [str(copy_path(path, root, folder)) for path in table.path]
    for column in (*asdict(EMPTY), "status"):
        table[column] = [rows[path][column] for path in manifest.table.path]
    return table


def copy_path(path: str, root: Path, folder: Path) -> Path:
    """Where the copy of a video lies: the same place below folder/videos, ".mp4" added (a.avi and a.mp4 stay two)."""
    source = Path(path)
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    name = f"{source.name}.mp4"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{source.name[:40]}-{digest}.mp4"  # 40 characters are 160 bytes at most
    if source.is_relative_to(root) and ".." not in source.parts:
        return folder / "videos" / source.relative_to(root).parent / name
    return folder / "videos" / "elsewhere" / digest / name


def transcode_file(source: Path, target: Path) -> int:
    """Encode one video, atomically. Returns: frames written.

    Raises: VideoError with the reason; UserError when the disk is full: that is no fault of the video's.
    """
    _remove_unfinished(target)
    try:
        written = 0

        def encode(file: Path) -> None:
            nonlocal written
            with open_video(source) as origin, av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as copy:
                written = _copy_frames(origin, copy)

        write_atomically(target, encode)
        return written
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"transcode: no space left in {target.parent}; make room and run it again: it goes on where it was") from error
        raise VideoError(f"cannot be encoded: {reason(error)}") from error


def _remove_unfinished(target: Path) -> None:
    """What an encoder that was killed has left behind."""
    for file in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        file.unlink(missing_ok=True)


def _copy_frames(origin: av.container.InputContainer, copy: av.container.OutputContainer) -> int:
    stream = video_stream(origin)
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    time_base = stream.time_base or 1 / rate  # not the new stream's: the first packet that is written changes that one
    out, count, last = None, 0, -1
    for count, frame in enumerate(decodable_frames(origin, stream), start=1):
        shown = orientation(frame)
        width, height = (frame.height, frame.width) if shown.sideways else (frame.width, frame.height)
        if out is None:
            out = copy.add_stream("libx264", rate=rate.limit_denominator(100_000))
            out.options, out.pix_fmt = ENCODER, "yuv420p"
            out.width, out.height = _even(*fit_short_side(width, height, min(SHORT_SIDE, width, height)))
            out.time_base = out.codec_context.time_base = time_base
        size = (out.height, out.width) if shown.sideways else (out.width, out.height)
        if shown != AS_STORED:
            upright = shown.upright(frame.reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray())
            small = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright), format="rgb24").reformat(format="yuv420p", **COLOURS)
        else:
            small = frame.reformat(*size, "yuv420p", interpolation="BICUBIC", **COLOURS)
        wanted = frame.pts if frame.pts is not None else round((count - 1) / rate / time_base)
        last = max(wanted, last + 1)  # two frames never share a time: a frame is found by it
        small.pts, small.time_base, small.pict_type = last, time_base, 0
        copy.mux(out.encode(small))
    if out is None:
        raise VideoError("no frame can be decoded")
    copy.mux(out.encode())
    return count


def _even(width: int, height: int) -> tuple[int, int]:
    return max(2, width - width % 2), max(2, height - height % 2)


def _transcode_row(job: tuple[str, str, int, float, str]) -> dict:
    source, target, num_frames, _, _ = job
    start = time.perf_counter()
    try:
        transcode_file(Path(source), Path(target))
        info = probe(target)
    except VideoError as error:
        return bad_row(f"transcode: {error}") | {"seconds": 0.0, "bytes": 0}
    if info.num_frames != num_frames:
        return bad_row(f"transcode: {info.num_frames} frames came out of {num_frames}") | {"seconds": 0.0, "bytes": 0}
    return asdict(info) | {"status": "ok", "seconds": time.perf_counter() - start, "bytes": Path(target).stat().st_size}


def _say_costs(sample: list[dict], rest: int, folder: Path, processes: int, report: Callable[[str], None]) -> None:
    done = [row for row in sample if row["status"] == "ok"]
    if not done:
        raise UserError(f"transcode: not one of the first {len(sample)} videos could be encoded; first reason: {sample[0]['status']}")
    minutes = statistics.mean(row["seconds"] for row in done) * rest / processes / 60
    size = statistics.mean(row["bytes"] for row in done) * rest
    gain = statistics.median(_gain(row, number) for number, row in enumerate(done))
    report(
        f"transcode: {rest:,} more videos take about {minutes:.0f} min on {processes} processes and {show_bytes(size)} in {folder}; "
        f"a training clip then loads {gain:.1f} times as fast (measured on {len(done)} videos)"
    )
    check_space(folder, int(1.1 * size), "transcode")


def _gain(row: dict, number: int) -> float:
    """Time to load one training clip from the original over that from the copy."""
    indices = train_indices(row["num_frames"], *CLIP, np.random.default_rng(number))
    seconds = {"source": [], "target": []}
    trusted = {"source": row["source_decord"], "target": row["decord"]}
    size = fit_short_side(row["width"], row["height"], min(224, row["width"], row["height"]))
    for _ in range(3):
        for which in seconds:
            start = time.perf_counter()
            read_frames(row[which], indices, size, "auto", trusted[which], row["num_frames"])
            seconds[which].append(time.perf_counter() - start)
    return min(seconds["source"]) / min(seconds["target"])
