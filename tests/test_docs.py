"""The documents: short where they should be, no link that leads nowhere, and no command that the program would not understand."""

import re

import pandas as pd
import pytest
import typer
from check_readme import README, differences, told
from documents import NOTEBOOKS, PAGES, commands, is_synopsis, words

from m2clip_lib import paths
from m2clip_lib.cli import app
from m2clip_lib.config import load_experiment
from m2clip_lib.studies.studies import load_studies

PLACEHOLDERS = {"EXPERIMENT": "demo", "N": "3", "X": "3", "DIR": ".", "VIDEO": "v.mp4", "PATH": "p", "FILE": "f", "S": "1", "NAME": "name"}
GROUP = typer.main.get_command(app)


def anchor(heading: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(paths.ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        place, _, part = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if part:
            assert part in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)), target


def test_every_page_is_reached_from_the_readme():
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    for page in (paths.ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme


def typed(program):
    """(page, command) of every command of one program, each once per page."""
    return [
        pytest.param(page, command, id=f"{page.name}: {command[:60]}")
        for page in [*PAGES, *NOTEBOOKS]
        for command in dict.fromkeys(commands(page))
        if command.startswith(program)
    ]


@pytest.mark.parametrize(("page", "command"), typed("m2clip "))
def test_every_command_is_understood(page, command, shipped):
    if is_synopsis(command):
        names = [name for name in re.findall(r"[a-z]+", command.split("[")[0].removeprefix("m2clip")) if name in GROUP.commands]
        known = {option for name in names for parameter in GROUP.commands[name].params for option in parameter.opts}
        assert names
        assert set(re.findall(r"--[a-z-]+", command.split("   ")[0])) <= known
        return
    name, *arguments = [PLACEHOLDERS.get(word, word) for word in words(command)[1:]]
    if not arguments:
        assert name in GROUP.commands  # spoken of, not typed: "m2clip prepare" lists broken files
        return
    context = GROUP.commands[name].make_context(name, arguments)  # parses; runs nothing
    if experiment := context.params.get("experiment"):
        loaded = load_experiment(experiment, context.params.get("override") or [])
        if study := context.params.get("study"):
            assert load_studies(loaded, study.split(",") if isinstance(study, str) else study, [])


@pytest.mark.parametrize(("page", "command"), typed("make "))
def test_every_make_target_exists(page, command):
    targets = re.findall(r"^([a-z-]+):", (paths.ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert words(command)[1] in targets


@pytest.mark.parametrize(("page", "command"), [*typed("python "), *typed("papermill ")])
def test_every_script_exists(page, command):
    named = [word for word in words(command) if word.endswith((".py", ".ipynb")) and not word.isupper() and "OUT" not in word]
    assert all((paths.ROOT / word).is_file() for word in named)


def test_the_table_of_the_readme_is_that_of_the_kept_study():
    text = README.read_text(encoding="utf-8")
    summary = pd.read_csv(paths.ROOT / "results" / "sample" / "study" / "tables" / "ablation_components_summary.csv")
    assert len(told(text)) == 12
    assert differences(text, summary, exact=True) == []
    assert differences(text.replace("99.2 (", "98.6 ("), summary, exact=True) == ["full, top1: README 98.6, study 99.25"]
