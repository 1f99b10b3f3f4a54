"""Segments in the formats of other programs: what they say, names that need escaping, and files that would overwrite each other."""

import json
import os
from xml.etree import ElementTree

import pytest

from m2clip_lib.csvfiles import read_csv
from m2clip_lib.errors import UserError
from m2clip_lib.moments.formats import export_segments, parse_formats
from m2clip_lib.moments.segments import Segment

ODD = 'cut <b>&"x"</b> --> |\x08 fin'
OWN = [Segment("walk", 0.0, 2.5, 0.9), Segment(ODD, 1.25, 3723.0006, 0.5), Segment("walk", 3.0, 4.0, 0.75)]


@pytest.fixture
def found(tmp_path):
    for name in ("a b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 86_400))
    return {tmp_path / "a b.mp4": OWN, tmp_path / "c.mp4": []}


def test_tables_hold_all_videos(found, tmp_path):
    files = export_segments(found, ["csv", "json"], tmp_path / "out")
    assert [file.name for file in files] == ["segments.csv", "segments.json"]
    table = read_csv(files[0])
    assert list(table) == ["path", "label", "start_s", "end_s", "score"]
    assert table.label.tolist() == ["walk", ODD, "walk"]
    assert table.end_s.tolist() == [2.5, 3723.001, 4.0]
    first, second = json.loads(files[1].read_text())
    assert first["segments"][0] == {"label": "walk", "start_s": 0.0, "end_s": 2.5, "score": 0.9}
    assert second == {"path": str(tmp_path / "c.mp4"), "segments": []}


def test_webvtt_by_hand(found, tmp_path):
    files = export_segments(found, ["vtt"], tmp_path / "out")
    assert [file.name for file in files] == ["a b.vtt", "c.vtt"]
    assert files[0].read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nwalk (90 %)\n\n"
        '00:00:01.250 --> 01:02:03.001\ncut &lt;b&gt;&amp;"x"&lt;/b&gt; --&gt; |\x08 fin (50 %)\n\n'
        "00:00:03.000 --> 00:00:04.000\nwalk (75 %)\n"
    )
    assert files[1].read_text() == "WEBVTT\n"


def test_an_elan_document_has_a_tier_per_class_and_ordered_time_slots(found, tmp_path):
    file, empty = export_segments(found, ["eaf"], tmp_path / "out")
    root = ElementTree.parse(file).getroot()
    assert root.tag == "ANNOTATION_DOCUMENT"
    assert root.attrib["DATE"] == "1970-01-02T00:00:00+00:00"
    assert [child.tag for child in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]  # the order of the schema
    assert root.find("HEADER/MEDIA_DESCRIPTOR").attrib["MEDIA_URL"] == (tmp_path / "a b.mp4").as_uri()
    slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root.findall("TIME_ORDER/TIME_SLOT")}
    assert list(slots.values()) == [0, 1250, 2500, 3000, 4000, 3_723_001]
    tiers = {tier.attrib["TIER_ID"]: tier for tier in root.findall("TIER")}
    assert list(tiers) == ["walk", ODD.replace("\x08", "\ufffd")]
    spans = [
        (slots[one.attrib["TIME_SLOT_REF1"]], slots[one.attrib["TIME_SLOT_REF2"]], one.find("ANNOTATION_VALUE").text)
        for one in tiers["walk"].iter("ALIGNABLE_ANNOTATION")
    ]
    assert spans == [(0, 2500, "0.900"), (3000, 4000, "0.750")]
    kind = root.find("LINGUISTIC_TYPE").attrib
    assert all(tier.attrib["LINGUISTIC_TYPE_REF"] == kind["LINGUISTIC_TYPE_ID"] for tier in tiers.values())
    assert ElementTree.parse(empty).getroot().find("TIER") is None


def test_a_boris_project_has_an_observation_per_video_and_paired_state_events(found, tmp_path):
    (file,) = export_segments(found, ["boris"], tmp_path / "out")
    content = file.read_bytes()
    assert content.isascii()
    project = json.loads(content)
    codes = {one["code"] for one in project["behaviors_conf"].values()}
    assert codes == {"walk", ODD.replace("|", "/")}
    observation, empty = project["observations"].values()
    assert observation["file"]["1"] == [str(tmp_path / "a b.mp4")]
    assert [event[0] for event in observation["events"] if event[2] == "walk"] == [0.0, 2.5, 3.0, 4.0]
    assert [event[0] for event in observation["events"]] == [0.0, 1.25, 2.5, 3.0, 4.0, 3723.001]
    assert empty["events"] == []


def test_the_same_segments_are_the_same_bytes(found, tmp_path):
    one, other = (export_segments(found, ["csv", "json", "boris", "vtt", "eaf"], tmp_path / name) for name in ("one", "other"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


def test_videos_of_one_name_are_refused_before_anything_is_written(found, tmp_path):
    clash = {tmp_path / "a" / "clip.mp4": OWN, tmp_path / "b" / "Clip.avi": OWN}
    with pytest.raises(UserError, match=r"clip\.mp4 and .*Clip\.avi would be written to the same file"):
        export_segments(clash, ["csv", "vtt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_named():
    assert parse_formats("csv, vtt") == ["csv", "vtt"]
    with pytest.raises(UserError, match="--export csv,srt: 'srt' is not one of csv, json, boris, vtt, eaf"):
        parse_formats("csv,srt")
