"""The report: one self-contained page that says what it was made from."""

import html
import json
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from m2clip_lib.runs import PNG_TEXT, Run
from m2clip_lib.viz.report import table_html, write_report

RUN = {
    "run": "quick & <dirty>",
    "experiment": "tiny",
    "start": "2024-05-01T10:00:00+00:00",
    "end": "2024-05-01T10:05:00+00:00",
    "git_commit": "abc123",
    "seed": 0,
    "hardware": {"processor": "A&B <1 GHz>", "gpu": None},
    "versions": {"torch": "2.9"},
    "config": {"data": {"prompt": "A video of {} <b>"}},
    "sha256": {"manifest": "0123456789abcdef0123"},
    "timing": {"steps_s": {"01_data": 12.4}, "all_steps_s": 12.4},
}


def links(page: str) -> list[str]:
    return re.findall(r"""(?:src|href)=["']?([^"'> ]*)""", page)


def text(page: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.partition("</style>")[2] or page))


@pytest.fixture
def folder(tmp_path):
    """The files of a finished run that the report reads."""
    for name in ("tables", "figures", "executed"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "04_evaluation.json").write_text(json.dumps({"finding": "left < right & up > down"}))
    headline = pd.DataFrame(
        {"model": ["<script>alert(1)</script>", "M2-CLIP"], "readout": ["similarity", "ensemble"], "top1": [8.0, 61.25]}
    )
    headline.assign(split="test", seeds=1).to_csv(tmp_path / "tables" / "headline.csv", index=False)
    figure, _ = plt.subplots(figsize=(1, 1))
    figure.savefig(tmp_path / "figures" / "headline.png", metadata={"Description": "Up < down & “left” wins"})
    figure.savefig(tmp_path / "figures" / "curves.png")  # as older runs saved it: without words
    plt.close(figure)
    (tmp_path / "executed" / "01_data.html").write_text("<p>executed</p>")
    return tmp_path


def test_the_page_needs_nothing_from_the_network(folder):
    page = write_report(folder).read_text()
    assert all(link.startswith("data:") or (folder / link).is_file() for link in links(page))
    assert "executed/01_data.html" in links(page)
    assert len([link for link in links(page) if link.startswith("data:image/png;base64,")]) == 2
    assert "@import" not in page
    assert "url(" not in page


def test_names_and_findings_are_escaped(folder):
    page = write_report(folder).read_text()
    assert "<script" not in page
    assert "<dirty" not in page
    for expected in ("quick & <dirty>", "<script>alert(1)</script>", "left < right & up > down", "A&B <1 GHz>", "A video of {} <b>"):
        assert expected in text(page)


def test_where_the_numbers_come_from_is_on_the_page(folder):
    shown = text(write_report(folder).read_text())
    for expected in ("tiny", "abc123", "torch 2.9", "manifest 0123456789abcdef", "12 s for all steps (01_data 12 s)", "2024-05-01T10:05"):
        assert expected in shown
    assert "gpu" not in shown  # the run had none


def test_a_run_with_nothing_but_provenance_still_has_a_page(tmp_path):
    run = {key: value for key, value in RUN.items() if key not in ("end", "timing", "sha256")}
    (tmp_path / "run.json").write_text(json.dumps(run | {"git_commit": ""}))
    assert "not in a repository" in text(write_report(tmp_path).read_text())


def test_columns_that_never_change_go_below_the_table():
    table = pd.DataFrame({"model": ["a", "b"], "top1": [8.0, 61.25], "split": "te<st", "frames": 8, "videos": 960, "seeds": 1})
    page = table_html(table)
    assert text(page).endswith("In all rows: split te<st, frames 8.")
    assert "<th" in page
    head = page[: page.index("</tr>")]
    assert "split" not in head
    assert "videos" in head  # a count stays, whatever it is
    assert "seeds" in head


def test_one_row_keeps_all_its_columns():
    page = table_html(pd.DataFrame({"model": ["a"], "split": ["test"], "top1": [12.0]}))
    assert "In all rows" not in page
    assert ">test</td>" in page


def test_numbers_have_one_decimal_and_thousands_are_separated():
    table = pd.DataFrame({"model": ["a", "b"], "readout": ["ensemble", "classifier"], "top1": [61.25, None], "parameters": [1234567, 1]})
    page = table_html(table)
    assert ">61.2</td>" in page
    assert ">–</td>" in page  # no number, rather than nan
    assert ">1,234,567</td>" in page
    assert page.count('<tr class="strong">') == 1  # the ensemble's row


def test_an_accepted_warning_is_at_the_top_in_red(folder):
    (folder / "02_backbone_check.json").write_text(json.dumps({"warning": "ACCEPTED ALTHOUGH names < permuted"}))
    page = write_report(folder).read_text()
    assert '<p class="warning">ACCEPTED ALTHOUGH names &lt; permuted</p>' in page
    assert page.index("ACCEPTED") < page.index("left &lt; right")
    (folder / "02_backbone_check.json").write_text(json.dumps({"warning": ""}))
    assert 'class="warning"' not in write_report(folder).read_text()


def test_what_training_on_the_command_line_accepted_is_there_too_and_once(folder):
    for name in ("02_backbone_check", "train"):
        (folder / f"{name}.json").write_text(json.dumps({"warning": "ACCEPTED ALTHOUGH permuted"}))
    assert write_report(folder).read_text().count("ACCEPTED ALTHOUGH permuted") == 1
    (folder / "02_backbone_check.json").unlink()
    assert '<p class="warning">ACCEPTED ALTHOUGH permuted</p>' in write_report(folder).read_text()


def test_a_figure_has_its_finding_as_text(folder):
    page = write_report(folder).read_text()
    assert "wins" not in text(page)  # the picture itself says it, as its title
    assert 'alt="Up &lt; down &amp; “left” wins. What each model gets right' in page
    assert 'alt="Training: the four losses' in page
    assert page.count("enlarge the picture") == 2  # a tap makes it large, without a script


def test_films_of_the_evaluation_play_on_the_page(folder):
    (folder / "films.html").write_text('<h3>Right</h3><video src="data:video/mp4;base64,AAAA"></video>')
    page = write_report(folder).read_text()
    assert '<h2>Films</h2>\n<h3>Right</h3><video src="data:video/mp4;base64,AAAA"></video>' in page


def test_tables_fold_and_the_first_one_is_open(folder):
    pd.DataFrame({"variant": ["full"], "top1": [61.0]}).to_csv(folder / "tables" / "ablation_summary.csv", index=False)
    page = write_report(folder).read_text()
    assert "<details open><summary>Accuracy on the evaluation split, percent</summary>" in page
    assert "<details><summary>Ablation: mean over seeds, and range, percent</summary>" in page


def test_a_saved_figure_carries_its_titles(tmp_path):
    figure, axes = plt.subplots(2)
    axes[0].set_title("Top-1:\n61 %", loc="left")
    axes[1].set_title("none lose")
    run = Run.__new__(Run)
    run.figures = tmp_path
    with Image.open(run.save(figure, "a")) as picture:
        assert picture.info[PNG_TEXT] == "Top-1: 61 %. none lose"
    plt.close(figure)


def test_a_number_that_does_not_exist_is_a_dash_and_a_column_without_any_is_left_out():
    table = pd.DataFrame({"model": ["a", "b"], "top1": [50.0, 75.0], "top5": [float("nan")] * 2, "direction": [float("nan"), 50.0]})
    page = text(table_html(table))
    assert "top5" not in page
    assert "–" in page
    assert "nan" not in page
