"""Segments as files for other programs: tables, subtitles (WebVTT), and annotations that ELAN and BORIS open.

Sources: WebVTT, https://www.w3.org/TR/webvtt1; EAF 3.0, http://www.mpi.nl/tools/elan/EAFv3.0.xsd; BORIS projects, format 7.0.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from m2clip_lib.csvfiles import write_csv
from m2clip_lib.errors import UserError
from m2clip_lib.files import write_atomically, write_json
from m2clip_lib.moments.segments import Segment

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
OF_ALL, OF_EACH = ("csv", "json", "boris"), ("vtt", "eaf")  # one file for all videos, one file per video

Found = Mapping[Path, Sequence[Segment]]  # the segments of each video


def segments_table(found: Found) -> pd.DataFrame:
    """One row per segment: path, label, start_s, end_s, score in [0, 1]."""
    rows = [(str(path), s.name, round(s.start_s, 3), round(s.end_s, 3), round(s.score, 6)) for path, own in found.items() for s in own]
    return pd.DataFrame(rows, columns=["path", "label", "start_s", "end_s", "score"])


def segments_list(own: Sequence[Segment]) -> list[dict]:
    """The segments of a video as JSON values."""
    return segments_table({Path(): own}).drop(columns="path").to_dict("records")


def parse_formats(text: str) -> list[str]:
    """ "csv,vtt" -> names of formats. Raises: UserError for one that there is not."""
    formats = [name.strip() for name in text.split(",")]
    for name in formats:
        if name not in OF_ALL + OF_EACH:
            raise UserError(f"--export {text}: {name!r} is not one of {', '.join(OF_ALL + OF_EACH)}")
    return formats


def refuse_same_names(videos: Iterable[Path], formats: Sequence[str]) -> None:
    """Raises: UserError for two videos whose files would have the same name."""
    stems: dict[str, Path] = {}
    for path in videos:
        if stems.setdefault(path.stem.lower(), path) != path and set(formats) & set(OF_EACH):
            raise UserError(f"--export: {stems[path.stem.lower()]} and {path} would be written to the same file; export them one by one")


def export_segments(found: Found, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write segments.csv, .json and .boris with all videos, and NAME.vtt and .eaf per video; return the files.

    Raises: see refuse_same_names; before anything is written.
    """
    refuse_same_names(found, formats)
    files = []
    for name in formats:
        for path, own in found.items() if name in OF_EACH else [(Path("segments"), ())]:
            files.append(file := folder / f"{path.stem}.{name}")
            if name == "csv":
                write_csv(file, segments_table(found))
            elif name == "json":
                write_json(file, [{"path": str(path), "segments": segments_list(own)} for path, own in found.items()])
            else:
                text = boris(found) if name == "boris" else {"vtt": webvtt, "eaf": elan}[name](path, own)
                write_atomically(file, lambda place, text=text: place.write_text(text, encoding="utf-8", newline="\n"))
    return files


def webvtt(path: Path, own: Sequence[Segment]) -> str:
    """Subtitles: the class and its score, for as long as the segment lasts."""
    cues = [
        f"{_clock(segment.start_s)} --> {_clock(segment.end_s)}\n"
        + " ".join(segment.name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
        + f" ({100 * segment.score:.0f} %)\n"
        for segment in own
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    whole = round(1000 * seconds)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}.{whole % 1000:03}"


def elan(path: Path, own: Sequence[Segment]) -> str:
    """An ELAN document: a tier per class, since annotations of one tier may not overlap, and on it a segment with its score."""
    date = _recorded(path).isoformat(timespec="seconds")
    root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="m2clip", DATE=date, FORMAT="3.0", VERSION="3.0")
    root.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
    root.set("xsi:noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = ElementTree.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=path.absolute().as_uri(), MIME_TYPE="video/mp4")
    order = ElementTree.SubElement(root, "TIME_ORDER")
    ends = sorted((round(1000 * s), number, end) for number, one in enumerate(own) for end, s in enumerate((one.start_s, one.end_s)))
    slots = {(number, end): f"ts{place}" for place, (_, number, end) in enumerate(ends, start=1)}
    for time, number, end in ends:
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slots[number, end], TIME_VALUE=str(time))
    tiers: dict[str, ElementTree.Element] = {}
    for number, segment in enumerate(own):
        name = NOT_XML.sub("\ufffd", segment.name)
        if name not in tiers:
            tiers[name] = ElementTree.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID=name)
        places = {"TIME_SLOT_REF1": slots[number, 0], "TIME_SLOT_REF2": slots[number, 1]}
        annotation = ElementTree.SubElement(tiers[name], "ANNOTATION")
        aligned = ElementTree.SubElement(annotation, "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{number + 1}", **places)
        ElementTree.SubElement(aligned, "ANNOTATION_VALUE").text = f"{segment.score:.3f}"
    kind = {"LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", **kind)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def boris(found: Found) -> str:
    """A BORIS project: an observation per video, a state event per class, whose first event starts it and whose second one stops it.

    A code may not hold "|". BORIS measures a video without media_info when it is opened.
    """
    names = sorted({_code(segment) for own in found.values() for segment in own})
    empty = {"description": "", "color": "", "category": "", "modifiers": "", "excluded": "", "coding map": ""}
    ethogram = {str(number): {"type": "State event", "key": "", "code": name} | empty for number, name in enumerate(names)}
    observations = {}
    for path, own in found.items():
        events = [[round(time, 3), "", _code(s), "", f"score {s.score:.3f}"] for s in own for time in (s.start_s, s.end_s)]
        about = {"type": "MEDIA", "date": _recorded(path).strftime("%Y-%m-%dT%H:%M:%S"), "description": "m2clip", "time offset": 0.0}
        about |= {"file": {str(player): [str(path.absolute())] if player == 1 else [] for player in range(1, 9)}}
        about |= {
            "events": sorted(events, key=lambda event: event[0]),
            "independent_variables": {},
            "media_info": {"length": {}, "fps": {}},
        }
        observations[str(path)] = about | {"close_behaviors_between_videos": False, "observation time interval": [0, 0]}
    project = {
        "time_format": "hh:mm:ss",
        "project_date": "",
        "project_name": "",
        "project_description": "",
        "project_format_version": "7.0",
    }
    project |= {"subjects_conf": {}, "behaviors_conf": ethogram, "observations": observations, "behavioral_categories": []}
    project |= {"independent_variables": {}, "coding_map": {}, "behaviors_coding_map": [], "converters": {}}
    return json.dumps(project, indent=1) + "\n"  # in ASCII: BORIS reads it in the encoding of its system


def _code(segment: Segment) -> str:
    return segment.name.replace("|", "/")


def _recorded(path: Path) -> datetime:
    """When a video was last changed; the time of the export would make every export another file."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
