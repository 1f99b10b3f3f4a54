"""Corrections that a person makes: read with file and line, written one at a time, applied to a listing, honoured by prepare."""

import json
import re
import shutil

import pytest

from m2clip_lib.config import load_experiment
from m2clip_lib.data.listing.corrections import Correction, correct, corrections_sha256, name_below, read_corrections, write_correction
from m2clip_lib.data.listing.recordings import Listing
from m2clip_lib.data.prepare import data_fingerprint, load_manifest, prepare_data
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.labelcheck import vouched_for

NAMES = ["brush hair", "=1", "walk"]
HEADER = "path,action,class_name,note\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "corrections.csv"


def written(file, rows: str):
    file.write_text(HEADER + rows, encoding="utf-8")
    return read_corrections(file, file.parent / "videos", NAMES)


def test_rows_are_read_by_the_name_of_their_video(file):
    root = file.parent / "videos"
    found = written(file, f'walk/1.mp4,accept,,\n"{root}/a, b.mp4",relabel,Brush_Hair,"seen, twice"\n\n/else/3.mp4,ignore,,dark\n')
    assert found == {
        "walk/1.mp4": Correction("walk/1.mp4", "accept"),
        "a, b.mp4": Correction("a, b.mp4", "relabel", "brush hair", "seen, twice"),
        "/else/3.mp4": Correction("/else/3.mp4", "ignore", "", "dark"),
    }
    assert read_corrections(file.with_name("none.csv"), root, NAMES) == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4,accept,,\nb.mp4,delete,,\n", r"corrections.csv:3: unknown action 'delete'; expected accept, relabel, ignore"),
        ("a.mp4,relabel,run,\n", r"corrections.csv:2: 'run' is not one of the 3 classes"),
        ("a.mp4,relabel,,\n", r"corrections.csv:2: '' is not one of the 3 classes"),
        ("a.mp4,accept,,\n./a.mp4,ignore,,\n", r"corrections.csv:3: 'a.mp4' has two rows"),
        (",ignore,,\n", r"corrections.csv:2: no path"),
        ("a.mp4,ignore\n", r"corrections.csv:2: expected the columns path, action, class_name, note"),
        ("a, b.mp4,ignore,,\n", r"corrections.csv:2: expected the columns"),
    ],
)
def test_a_row_that_cannot_be_applied_is_named_by_file_and_line(file, rows, message):
    with pytest.raises(UserError, match=message):
        written(file, rows)


def test_a_column_that_would_be_lost_is_refused(file):
    file.write_text("path,action,class_name,note,who\na.mp4,ignore,,,me\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected the columns path, action, class_name, note in the header"):
        write_correction(file, file.parent, NAMES, Correction("b.mp4", "accept"))
    assert "who" in file.read_text(encoding="utf-8")


def test_a_file_with_other_separators_is_refused_not_ignored(file):
    file.write_text("path;action;class_name;note\na.mp4;ignore;;\n", encoding="utf-8")
    with pytest.raises(UserError, match="separated by commas"):
        read_corrections(file, file.parent, NAMES)


def test_one_row_is_written_over_the_earlier_one_and_can_be_taken_back(file):
    root = file.parent / "videos"

    def write(path, *action):
        write_correction(file, root, NAMES, Correction(str(path), *action))

    write(root / "walk" / "-1.mp4", "relabel", "=1", "two\nlines")
    write("walk/2.mp4", "ignore")
    assert file.read_text() == HEADER + "walk/-1.mp4,relabel,'=1,two lines\nwalk/2.mp4,ignore,,\n"
    write("walk/-1.mp4", "accept", "", "5")
    write("walk/2.mp4", "")
    assert read_corrections(file, root, NAMES) == {"walk/-1.mp4": Correction("walk/-1.mp4", "accept", "", "5")}
    with pytest.raises(UserError, match="'run' is not one of the 3 classes"):
        write("walk/3.mp4", "relabel", "run")
    assert list(read_corrections(file, root, NAMES)) == ["walk/-1.mp4"]


def test_a_listing_is_corrected_and_counts_what_was_done(tmp_path):
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    listing = Listing([(path, 2, "train") for path in paths], NAMES)
    actions = {"0.mp4": ("accept",), "1.mp4": ("relabel", "=1"), "2.mp4": ("ignore",), "9.mp4": ("ignore",)}
    corrections = {path: Correction(path, *action) for path, action in actions.items()}
    found, before, counts = correct(listing, corrections, tmp_path)
    assert found.rows == [(paths[0], 2, "train"), (paths[1], 1, "train"), (paths[3], 2, "train")]
    assert (before, counts) == ([2, 2, 2], {"accept": 1, "relabel": 1, "ignore": 1, "not listed": 1})
    assert found.passed[0] == "corrections: 1 videos relabelled, 1 left out, 1 accepted as they are"
    assert re.match(r"corrections: WARNING: 1 rows name no listed video, such as '9.mp4'", found.passed[1])
    assert correct(listing, {}, tmp_path) == (listing, [2] * 4, {})


def test_names_are_the_same_however_accents_are_stored_and_absolute_elsewhere(tmp_path):
    assert name_below("e\u0301.mp4", tmp_path) == name_below(tmp_path / "\u00e9.mp4", tmp_path) == "\u00e9.mp4"
    assert name_below("/else/a.mp4", tmp_path) == "/else/a.mp4"


def test_an_accepted_video_and_a_note_change_no_manifest():
    ignored = {"a": Correction("a", "ignore")}
    assert corrections_sha256(ignored) == corrections_sha256({"a": Correction("a", "ignore", "", "why"), "b": Correction("b", "accept")})
    assert corrections_sha256(ignored) != corrections_sha256({})


def test_prepare_honours_corrections_and_training_asks_for_it(workspace, video_folder):
    root = workspace / "own videos"
    shutil.copytree(video_folder, root)
    experiment, lines = load_experiment("folder", [f"data.root={root}"]), []
    first, print_before = prepare_data(experiment, lines.append), data_fingerprint(experiment)
    file, prepared = experiment.prepared / "corrections.csv", workspace / "data" / "folder"

    write_correction(file, root, first.class_names, Correction("moving_left/clip 0.mp4", "accept"))
    assert data_fingerprint(experiment) == print_before
    assert load_manifest(experiment).sha256 == first.sha256
    write_correction(file, root, first.class_names, Correction("moving_left/clip 0.mp4", "relabel", "moving right"))
    write_correction(file, root, first.class_names, Correction("moving_right/clip 1.webm", "ignore"))
    with pytest.raises(UserError, match=r"corrections.csv has changed since .* m2clip prepare folder"):
        load_manifest(experiment)
    assert data_fingerprint(experiment) != print_before

    lines.clear()
    second = prepare_data(experiment, lines.append)
    assert "corrections: 1 videos relabelled, 1 left out, 0 accepted as they are" in lines
    table = second.table.assign(name=[name_below(path, root) for path in second.table.path]).set_index("name")
    assert len(table) == len(first.table) - 1 == 11
    assert "moving_right/clip 1.webm" not in table.index
    assert table.loc["moving_left/clip 0.mp4", ["label", "class_name", "listed_as"]].tolist() == [1, "moving right", "moving left"]
    others = table.drop("moving_left/clip 0.mp4")
    assert (others.listed_as == others.class_name).all()
    assert (root / "moving_right" / "clip 1.webm").is_file()
    assert second.summary().listed.sum() == second.summary().ok.sum() == 11
    about = json.loads((prepared / "manifest.json").read_text())["corrections"]
    assert (about["relabel"], about["ignore"]) == (1, 1)
    assert load_manifest(experiment).sha256 == second.sha256
    assert vouched_for(second)  # the other paths still carry their classes

    file.unlink()
    with pytest.raises(UserError, match=r"corrections.csv has changed"):
        load_manifest(experiment)
    assert prepare_data(experiment, lines.append).sha256 == first.sha256


def test_ignoring_one_copy_resolves_a_video_in_two_splits(workspace, video_folder):
    root = workspace / "own videos"
    for split in ("train", "test"):
        shutil.copytree(video_folder, root / split)
    for number, path in enumerate(sorted((root / "test").rglob("*.*"))):
        if number:
            path.unlink()
    experiment = load_experiment("folder", [f"data.root={root}"])
    with pytest.raises(UserError, match="in two splits"):
        prepare_data(experiment, print)
    write_correction(experiment.prepared / "corrections.csv", root, [], Correction("train/moving_left/clip 0.mp4", "ignore"))
    assert len(prepare_data(experiment, print).table) == 12


def test_corrections_of_another_folder_than_the_configured_one_are_applied_and_the_command_names_that_folder(workspace, video_folder):
    root = workspace / "own videos"
    shutil.copytree(video_folder, root)
    configured, own = (load_experiment("folder", overrides) for overrides in ([], [f"data.root={root}"]))
    first = prepare_data(own, report=lambda line: None)
    (configured.prepared / "corrections.csv").write_text(f"{HEADER}{first.table.path[0]},ignore,,\n")
    with pytest.raises(UserError, match=re.escape(f"make it again with: m2clip prepare folder -o 'data.root={root}'")):
        load_manifest(configured)
    assert len(prepare_data(own, report=lambda line: None).table) == len(first.table) - 1
    load_manifest(configured)
