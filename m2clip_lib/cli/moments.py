"""m2clip predict and search: what happens in videos, and when; the moments that resemble a sentence."""

import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from m2clip_lib.cli.options import Checkpoint, Overrides, say
from m2clip_lib.errors import UserError

Least = Annotated[float, typer.Option("--min-length", min=0, metavar="S", help="Leave out shorter segments, seconds.")]
Merge = Annotated[float, typer.Option("--merge", min=0, metavar="S", help="Join segments of a class with no larger gap, seconds.")]


def predict(
    videos: Annotated[list[Path] | None, typer.Argument(metavar="VIDEO...", help="Video files.")] = None,
    checkpoint: Checkpoint = None,
    labels: Annotated[str, typer.Option("--labels", metavar="A,B,C|FILE", help="Other class names: a list, or a file, one per line.")] = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Predict window by window: when does it happen?")] = False,
    window: Annotated[float, typer.Option("--window", min=0, metavar="S", help="Seconds per window; 0: a training clip.")] = 0.0,
    every: Annotated[float, typer.Option("--every", min=0, metavar="S", help="Seconds between window starts; 0: half a window.")] = 0.0,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="PNG", help="Also draw the timeline.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=1, help="Show segments with this score or more.")] = None,
    min_length: Least = 0.0,
    merge: Merge = 0.0,
    export: Annotated[str, typer.Option("--export", metavar="FORMAT,...", help="Write segments as csv, json, vtt, eaf, boris.")] = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the exported files.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="All videos of a folder; can be continued.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the folder's table.")] = None,
    burn: Annotated[Path | None, typer.Option("--burn", metavar="DIR", help="Also write copies with the best class in them.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that read; default: one per core.")] = None,
    stream: Annotated[str, typer.Option("--stream", metavar="URL|PATH", help="Window by window while it comes; Ctrl-C stops.")] = "",
    camera: Annotated[str, typer.Option("--camera", metavar="N", help="The same of a camera, by its number.")] = "",
) -> None:
    """Predict what is happening in videos, or when it happens in long ones.

    Scores of a timeline and of a folder are stored: another threshold runs no model, and nothing is scored twice.
    """
    from m2clip_lib.evaluate.predict import parse_labels, predict_videos

    live = bool(stream or camera)
    if not (timeline or live) and (window or every or picture or threshold is not None):
        raise UserError("--window, --every, --picture and --threshold belong to --timeline: add it")
    if threshold is None and (min_length or merge or export or out):
        raise UserError("--min-length, --merge, --export and --out belong to --threshold: give one, such as --threshold 0.5")
    if bool(export) != bool(out):
        raise UserError("--export FORMAT and --out DIR belong together: give both")
    if sum(map(bool, (videos, folder, stream, camera))) != 1:
        raise UserError("predict: give one VIDEO or more, or --folder DIR, or --stream URL, or --camera N: one of them alone")
    if folder is None and (table or burn or workers is not None):
        raise UserError("--csv, --burn and --workers belong to --folder: add it")
    if folder and burn and burn.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--burn {burn}: lies in {folder}, where the copies would be videos to predict; give a folder outside")
    if (folder and timeline) or (live and (timeline or picture or threshold is not None or as_json)):
        raise UserError("--timeline is for videos, without --folder, --stream and --camera; the last two show windows, without --json")
    if not math.isfinite(window + every + min_length + merge):
        raise UserError("--window, --every, --min-length and --merge: give seconds as finite numbers")
    names = parse_labels(labels)
    if live:
        _watch(stream or camera, checkpoint or _last_checkpoint(), names, top, window, every, bool(camera))
        return
    if folder is not None:
        _folder(folder, checkpoint or _last_checkpoint(), names, top, as_json, table, burn, workers)
        return
    if timeline:
        if picture is not None and len(videos) > 1:
            raise UserError(f"--picture: draws one video, {len(videos)} were given")
        if picture is not None and picture.suffix.lower() != ".png":
            raise UserError(f"--picture {picture}: give a path that ends in .png")
        from m2clip_lib.moments.formats import parse_formats, refuse_same_names

        formats = parse_formats(export) if export else []
        refuse_same_names(videos, formats)
        ask = None if threshold is None else (threshold, min_length, merge)
        _timelines(videos, checkpoint or _last_checkpoint(), names, top, as_json, (window, every), picture, ask, formats, out)
        return
    found = predict_videos(videos, checkpoint or _last_checkpoint(), names, top)
    if as_json:
        print(json.dumps([video.as_dict() for video in found], indent=2, ensure_ascii=False))
    for video in found:
        if not (as_json or video.error):
            print(f"{video.path}  ({video.readout})")
            for name, score in video.top:
                print(f"  {100 * score:5.1f} %  {name}")
    _end_with_failures([f"{video.path}: {video.error}" for video in found if video.error])


def _last_checkpoint() -> Path:
    from m2clip_lib import paths
    from m2clip_lib.config import load_experiment
    from m2clip_lib.experiment import last_run

    checkpoint = paths.CHECKPOINTS / last_run(load_experiment().name) / "best.safetensors"
    print(f"checkpoint: {checkpoint}", file=sys.stderr)
    return checkpoint


def _end_with_failures(failures: list[str]) -> None:
    for failure in failures:
        print(f"m2clip: {failure}; not predicted", file=sys.stderr)
    if failures:
        raise SystemExit(2)


def _timelines(
    videos: list[Path],
    checkpoint: Path,
    labels: list[str],
    top: int,
    as_json: bool,
    lengths: tuple[float, float],
    picture: Path | None,
    ask: tuple[float, float, float] | None,
    formats: list[str],
    out: Path | None,
) -> None:
    from m2clip_lib.moments.formats import export_segments, segments_list
    from m2clip_lib.moments.windows import stored_timelines

    failures, contents, segments = [], [], {}
    for path, found in zip(videos, stored_timelines(videos, checkpoint, labels, *lengths), strict=True):
        if isinstance(found, UserError):
            failures.append(str(found))
            continue
        failures += [f"{found.path}: {found.starts[place]:.1f} s: {reason}" for place, reason in found.failed]
        contents.append({"path": found.path, "readout": found.readout, "windows": found.as_list(top)})
        if ask is not None:
            segments[path] = found.segments(*ask)
            contents[-1]["segments"] = segments_list(segments[path])
        if not as_json:
            rows = zip(found.starts, found.ends, found.top(top), strict=True)
            _print_rows(f"{found.path}  ({found.readout})", rows if ask is None else [_row(s) for s in segments[path]])
            if ask is not None and not segments[path]:
                say("  no segment: no class is scored that high for that long")
        if picture is not None:
            from m2clip_lib.viz.plots.attention import save_timeline

            save_timeline(found, picture)
            print(f"picture: {picture}", file=sys.stderr)
    if as_json and contents:
        print(json.dumps(contents[0] if len(videos) == 1 else contents, indent=2, ensure_ascii=False))
    if out is not None and segments:
        for file in export_segments(segments, formats, out):
            print(f"written: {file}", file=sys.stderr)
    _end_with_failures(failures)


def _folder(
    folder: Path,
    checkpoint: Path,
    labels: list[str],
    top: int,
    as_json: bool,
    table: Path | None,
    burn: Path | None,
    workers: int | None,
) -> None:
    from m2clip_lib.csvfiles import write_csv
    from m2clip_lib.moments.folder import predict_folder, predictions_table

    found = predict_folder(folder, checkpoint, labels, top, workers, partial(print, file=sys.stderr, flush=True))
    read = [video for video in found if not video.error]
    if as_json:
        say(json.dumps([video.as_dict() for video in found], indent=2, ensure_ascii=False))
    for video in [] if as_json else read:
        say(f"{video.path}  {100 * video.top[0][1]:.1f} % {video.top[0][0]}")
    if table is not None:
        write_csv(table, predictions_table(found))
    if burn is not None:
        from m2clip_lib.viz.overlay import burn_label

        for video in read:
            burn_label(
                Path(video.path), burn / f"{Path(video.path).relative_to(folder)}.mp4", f"{video.top[0][0]} {100 * video.top[0][1]:.0f} %"
            )
    for video in found:
        if video.error:
            print(f"m2clip: {video.path}: {video.error}; not predicted", file=sys.stderr)
    print(f"{len(read):,} of {len(found):,} videos predicted" + (f"; table: {table}" if table else ""), file=sys.stderr)
    if not read:
        raise SystemExit(2)


def _watch(source: str, checkpoint: Path, labels: list[str], top: int, window: float, every: float, camera: bool) -> None:
    from m2clip_lib.moments.live import watch

    count = dropped = 0
    try:
        for found in watch(source, checkpoint, labels, window, every, top, camera):
            count, lost, dropped = count + 1, found.dropped - dropped, found.dropped
            best = ", ".join(f"{100 * score:.1f} % {name}" for name, score in found.best)
            say(f"  {found.start_s:7.1f} to {found.end_s:7.1f} s  {best}" + (f"  ({lost} frames dropped)" if lost else ""))
    finally:
        say(f"{count} windows" + (f", {dropped} frames dropped: the model is slower than the source" if dropped else ""))


def _row(segment) -> tuple[float, float, list[tuple[str, float]]]:
    return segment.start_s, segment.end_s, [(segment.name, segment.score)]


def _print_rows(head: str, rows: Sequence[tuple[float, float, list[tuple[str, float]]]]) -> None:
    say(head)
    for start, end, best in rows:
        say(f"  {start:7.1f} to {end:7.1f} s  " + ", ".join(f"{100 * score:.1f} % {name}" for name, score in best))


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A sentence, in quotes: 'a red square'.")],
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="Of videos; default: the experiment's videos.")] = None,
    experiment: Annotated[str, typer.Option("--experiment", metavar="NAME", help="Its CLIP and videos; default: DEFAULT_EXPERIMENT.")] = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Moments to show.")] = 10,
    per_video: Annotated[int, typer.Option("--per-video", min=1, help="Moments of one video, at most.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    override: Overrides = None,
) -> None:
    """Find the moments of many videos that resemble a sentence most, with frozen CLIP: no training is needed.

    Frame features are computed once per video and kept: the next search decodes nothing.
    """
    from m2clip_lib.config import load_experiment

    loaded = load_experiment(experiment, override or [])
    from m2clip_lib.moments.search import search as find

    table, failed = find(text, loaded, folder, top, per_video, partial(print, file=sys.stderr, flush=True))
    if as_json:
        say(json.dumps(table.to_dict("records"), indent=2, ensure_ascii=False))
    for row in [] if as_json else table.itertuples():
        say(f"{row.score:.3f}  {row.start_s:7.1f} to {row.end_s:7.1f} s  {row.path}")
    for path, why in failed.items():
        print(f"m2clip: {path}: {why}; not searched", file=sys.stderr)
    if table.empty:
        raise SystemExit(2)
