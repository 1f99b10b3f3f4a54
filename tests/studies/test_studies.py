"""Studies: what configs/config.py says is read and checked before anything runs."""

import runpy

import pytest

from m2clip_lib import paths
from m2clip_lib.config import load_experiment
from m2clip_lib.errors import UserError
from m2clip_lib.experiment import build_model
from m2clip_lib.studies.studies import BASE, load_studies

SHIPPED = list(runpy.run_path(str(paths.ROOT / "configs" / "config.py"))["STUDIES"])


@pytest.fixture
def written(workspace):
    """Write STUDIES into the workspace's config."""

    def write(studies: str) -> None:
        text = paths.CONFIG.read_text(encoding="utf-8")
        paths.CONFIG.write_text(f"{text}\nSTUDIES = {studies}\n", encoding="utf-8")

    return write


def test_every_study_has_the_experiment_itself_and_a_question(shipped):
    for study in load_studies(load_experiment("demo"), ["all"]):
        assert study.variants[BASE] == ()
        assert study.question.endswith("?")
        assert len(study.variants) > 2
    named = "quick components text heads placement width frames sampling losses prompts backbone data peers"
    assert set(named.split()) <= set(SHIPPED)


def test_all_are_the_studies_that_name_no_experiments_or_this_one(shipped, caplog):
    """The study of backbones downloads them, and the widths of demo_peers are of the demonstration's size."""
    on_demo, on_kinetics = ({study.name for study in load_studies(load_experiment(name), ["all"])} for name in ("demo", "k400_b16"))
    assert (on_demo - on_kinetics, on_kinetics - on_demo) == ({"demo_peers"}, {"backbone"})
    assert [study.name for study in load_studies(load_experiment("demo"), ["backbone"])] == ["backbone"]  # by name, whoever asks
    assert caplog.messages == ["study text: 'two text adapters' is what experiment k400_b16 does anyway, so it is left out"]
    with pytest.raises(UserError, match=r"variants 'full' and 'two text adapters' of experiment 'k400_b16' are the same; take one"):
        load_studies(load_experiment("k400_b16"), ["text"])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_variant_can_be_built(shipped, backbone, name):
    (study,) = load_studies(load_experiment("demo"), [name])
    for change in study.variants.values():
        build_model(load_experiment("demo", change), backbone, ["moving left", "growing"])


def test_the_quick_study_has_a_control_with_as_many_parameters(workspace, backbone):
    (study,), counts = load_studies(load_experiment("tiny"), ["components"]), {}
    for name, change in study.variants.items():
        model = build_model(load_experiment("tiny", change), backbone, ["moving left", "growing"])
        counts[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["full"] == counts["static adapter"]  # before it had 69 % of the parameters
    assert counts["full"] > max(counts["enhancement only"], counts["difference only"])
    assert min(counts["enhancement only"], counts["difference only"]) > counts["none"]


def test_the_demonstrations_peers_have_equally_many_parameters_in_their_adapters(shipped, backbone):
    (study,), counts = load_studies(load_experiment("demo"), ["demo_peers"]), {}
    for name in ("full", "ST-Adapter 96", "AIM 32", "LoRA 25"):
        model = build_model(load_experiment("demo", study.variants[name]), backbone, ["moving left", "growing"])
        counts[name] = sum(p.numel() for name, p in model.named_parameters() if name.startswith("visual_adapters."))
    assert max(counts.values()) <= 1.05 * min(counts.values())


def test_unknown_studies_and_variants_are_refused_with_the_known_ones(workspace):
    experiment = load_experiment("tiny")
    with pytest.raises(UserError, match=r"study 'quik': not in .*config.py; it has: quick, components, text"):
        load_studies(experiment, ["quik"])
    with pytest.raises(UserError, match="study 'quick': no variant 'stat'; choose from: none, static adapter, full"):
        load_studies(experiment, ["quick"], variants=["stat"])
    (chosen,) = load_studies(experiment, ["quick"], variants=["full", "none"])
    assert list(chosen.variants) == ["none", "full"]


def test_equal_variants_are_refused_before_anything_runs(workspace, written):
    experiment = load_experiment("tiny")
    written('{"same": {"question": "?", "variants": {"a": ["train.lr=0.5"], "b": ["train.lr=5e-1"]}}}')
    with pytest.raises(UserError, match=r"study 'same': variants 'a' and 'b' of experiment 'tiny' are the same"):
        load_studies(experiment, ["same"])
    written('{"idle": {"question": "?", "variants": {"two layers": ["model.vision_adapter_layers=2"]}}}')
    with pytest.raises(UserError, match=r"study 'idle': variants 'full' and 'two layers' of experiment 'tiny' are the same"):
        load_studies(experiment, ["idle"])
    written('{"one": {"question": "?", "variants": {"a": ["train.lr=1"]}}, "two": {"question": "?", "variants": {"a": ["train.lr=2"]}}}')
    with pytest.raises(UserError, match=r"variant 'a' has two meanings"):
        load_studies(experiment, ["all"])


def test_a_variant_that_does_not_fit_is_named_with_its_change(workspace, written):
    written('{"bad": {"question": "?", "variants": {"a": ["model.no_such_field=1"]}}}')
    with pytest.raises(UserError, match=r"-o model\.no_such_field=1: section model has no field 'no_such_field'"):
        load_studies(load_experiment("tiny"), ["bad"])
    written('{"bad": ["train.lr=1"]}')
    with pytest.raises(UserError, match=r"config\.py, study 'bad': give a question and variants"):
        load_studies(load_experiment("tiny"), ["bad"])
    for wrong in ('"tiny"', '["tiny", "tinny"]'):
        written(f'{{"bad": {{"question": "?", "variants": {{"a": ["train.lr=1"]}}, "experiments": {wrong}}}}}')
        with pytest.raises(UserError, match=r"study 'bad': experiments is .*; give a list of names of EXPERIMENTS"):
            load_studies(load_experiment("tiny"), ["bad"])
