"""configs/config.py and its schema: valid entries load, invalid ones are reported with field and value, and -o takes precedence."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from m2clip_lib import paths
from m2clip_lib.config import SECTIONS, Experiment, TrainSection, load_experiment, parse_value
from m2clip_lib.errors import UserError

REAL = Path(__file__).parent.parent / "configs" / "config.py"
TEMPLATE = """
DEFAULT_EXPERIMENT = "one"
EXPERIMENTS = {experiments}
"""


@pytest.fixture
def real_config(monkeypatch):
    monkeypatch.setattr(paths, "CONFIG", REAL)


@pytest.fixture
def config_of(tmp_path, monkeypatch):
    """Write a config.py with these experiments and use it."""

    def write(experiments: object) -> None:
        (tmp_path / "config.py").write_text(TEMPLATE.format(experiments=repr(experiments)))
        monkeypatch.setattr(paths, "CONFIG", tmp_path / "config.py")

    return write


def message(*arguments) -> str:
    """Return the message of the error that loading raises; it must be one line."""
    with pytest.raises(UserError) as error:
        load_experiment(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the real file ---


def test_every_experiment_of_the_real_file_validates(real_config):
    names = list(runpy.run_path(str(paths.CONFIG))["EXPERIMENTS"])
    assert len(names) >= 5
    for name in names:
        experiment = load_experiment(name)
        assert experiment.name == name
        assert experiment.prepared.is_relative_to(paths.DATA)


def test_default_experiment_is_the_demonstration(real_config):
    assert load_experiment().name == "demo"
    assert load_experiment() == load_experiment("demo")


def test_published_recipes_are_what_the_paper_says(real_config):
    k400, ssv2, seed = (load_experiment(name) for name in ("k400_b16", "ssv2_b16", "k400_b32_16gb"))
    assert (k400.model.vision_adapter_layers, k400.model.vision_adapter_width, k400.model.text_adapter_layers) == (12, 384, 2)
    assert (k400.data.num_frames, k400.data.stride, k400.data.short_side, k400.data.mirror) == (8, 16, (224, 258), True)
    assert (k400.eval.spatial_views, k400.eval.temporal_views) == (4, 3)
    assert (k400.train.epochs, ssv2.train.epochs) == (12, 50)
    assert (ssv2.data.stride, ssv2.data.rand_augment, ssv2.data.random_resized_crop, ssv2.data.mirror) == (0, True, True, False)
    assert (ssv2.model.text_adapter_layers, ssv2.model.text_adapter_pre_attn, ssv2.model.vision_adapter_pre_attn) == (13, True, True)
    assert (ssv2.eval.spatial_views, ssv2.eval.temporal_views) == (3, 1)
    for experiment in (k400, ssv2, seed):  # lr = 1e-3 * batch / 256, two epochs of warm-up
        assert experiment.train.lr == pytest.approx(1e-3 * experiment.train.batch_size / 256)
        assert experiment.train.warmup * experiment.train.epochs == pytest.approx(2)
        assert experiment.train.weight_decay == 0.01


def test_experiments_whose_labels_mention_left_and_right_are_never_mirrored(real_config):
    for name in list(runpy.run_path(str(paths.CONFIG))["EXPERIMENTS"]):
        data = load_experiment(name).data
        assert not (data.mirror and data.layout in ("synthetic", "ssv2")), name


# --- precedence ---


def test_the_experiment_overrides_the_default_and_the_command_line_overrides_both(config_of):
    config_of({"one": {"train": {"epochs": 5}}})
    assert TrainSection().epochs == 12
    assert (load_experiment("one").train.epochs, load_experiment("one").train.batch_size) == (5, 32)
    assert load_experiment("one", ["train.epochs=7"]).train.epochs == 7
    assert load_experiment("one", ["train.epochs=7", "train.epochs=9"]).train.epochs == 9
    assert load_experiment("one", ["data.stride=3"]).data.stride == 3  # a section that the experiment leaves out
    assert load_experiment("one").train.epochs == 5  # overrides do not persist


def test_overrides_are_validated_together_in_any_order(config_of):
    config_of({"one": {"data": {"cache_frames": True}}})
    for overrides in (["data.cache_frames=false", "data.short_side=[64, 80]"], ["data.short_side=[64, 80]", "data.cache_frames=false"]):
        assert load_experiment("one", overrides).data.short_side == (64, 80)


def test_values_never_change_after_loading(config_of):
    config_of({"one": {}})
    with pytest.raises(ValidationError):
        load_experiment("one").train.epochs = 3


# --- bad names ---


def test_an_unknown_experiment_is_refused_with_the_existing_ones(config_of):
    config_of({"one": {}, "two": {}})
    text = message("three")
    assert "'three'" in text
    assert "one, two" in text


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"trian": {"epochs": 1}}, ["trian", "unknown field", *SECTIONS]),
        ({"train": {"epoch": 1}}, ["train.epoch", "unknown field", "epochs", "batch_size"]),
        ({"data": {"Stride": 4}}, ["data.Stride", "unknown field", "stride"]),
    ],
)
def test_unknown_field_in_the_file_is_named_with_the_known_ones(config_of, fields, parts):
    config_of({"one": fields})
    text = message("one")
    assert "experiment 'one'" in text
    assert all(part in text for part in parts)


@pytest.mark.parametrize("override", ["epochs=1", "train.epoch=1", "trian.epochs=1", "train.epochs", "=", "", ".=1", "name=x", "train.=1"])
def test_unknown_or_malformed_override_is_quoted(config_of, override):
    config_of({"one": {}})
    text = message("one", [override])
    assert f"-o {override}" in text


def test_override_of_an_unknown_field_lists_the_known_ones(config_of):
    config_of({"one": {}})
    assert "batch_size" in message("one", ["train.epoch=1"])


# --- bad values ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.epochs", "0"),
        ("train.epochs", "-3"),
        ("train.epochs", "2.5"),
        ("train.epochs", "many"),
        ("train.epochs", "true"),
        ("train.epochs", "null"),
        ("train.epochs", ""),
        ("train.lr", "0"),
        ("train.lr", "NaN"),
        ("train.lr", "Infinity"),
        ("train.weight_decay", "Infinity"),
        ("train.warmup", "1"),
        ("train.seed", "-1"),
        ("train.precision", "fp8"),
        ("train.cross_modal_ce", "scores"),
        ("model.temporal_kernel", "5"),
        ("model.dropout", "1.0"),
        ("model.enhancement", "perhaps"),
        ("data.layout", "zip"),
        ("data.decoder", "opencv"),
        ("data.stride", "-1"),
        ("data.num_frames", "0"),
        ("data.workers", "-1"),
        ("data.short_side", "[256]"),
        ("data.short_side", "[258, 224]"),
        ("data.short_side", "224"),
        ("data.prompt", "A video"),
        ("data.prompt", "{} and {}"),
        ("data.prompt", "a {} of {name}"),
        ("data.prompt", "a {0}"),
        ("data.prompt", "a {} }"),
        ("data.prompt", "{{}}"),
        ("data.prompt", "[]"),
        ("data.prompt", '["a {}", "b"]'),
        ("data.mirror", "always"),
        ("data.hold_out", "1.0"),
        ("data.official_split", "4"),
        ("eval.split", "train"),
        ("eval.spatial_views", "2"),
        ("eval.temporal_views", "0"),
        ("eval.ablation_seeds", "[-1]"),
        ("eval.ablation_seeds", "0"),
    ],
)
def test_bad_value_is_refused_with_its_field(config_of, field, value):
    config_of({"one": {}})
    text = message("one", [f"{field}={value}"])
    assert f"-o {field}={value}" in text
    assert field.split(".")[0] in text


def test_bad_value_in_the_file_is_named_with_field_and_value(config_of):
    config_of({"one": {"train": {"epochs": -7}}})
    text = message("one")
    assert "experiment 'one'" in text
    assert "train.epochs = -7" in text


@pytest.mark.parametrize("experiments", [{"one": {"train": 5}}, {"one": [1]}, {"one": {"train": None}}, [], None])
def test_a_malformed_file_gives_a_message(config_of, experiments):
    config_of(experiments)
    assert "config.py" in message("one")


def test_a_missing_configuration_file_gives_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CONFIG", tmp_path / "gone.py")
    assert "gone.py" in message("one")


def test_a_typing_error_in_the_file_gives_a_message(tmp_path, monkeypatch):
    (tmp_path / "config.py").write_text('EXPERIMENTS = {\n    "one": {"train": {"epochs": 5}\n}\n')
    monkeypatch.setattr(paths, "CONFIG", tmp_path / "config.py")
    text = message("one")
    assert "config.py" in text
    (tmp_path / "config.py").write_text("EXPERIMENTS = {'one': DEMOO}\n")
    assert "DEMOO" in message("one")


# --- values typed on the command line ---

FIELDS = {
    f"{section}.{name}": field.annotation
    for section in SECTIONS
    for name, field in Experiment.model_fields[section].annotation.__pydantic_fields__.items()
}


@given(st.integers(-(10**9), 10**9))
def test_integers_are_read_exactly(number):
    value = parse_value(str(number), int)
    assert value == number
    assert type(value) is int


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_numbers_are_read_to_the_last_bit(number):
    assert parse_value(repr(number), float) == number


@given(st.text())
def test_text_fields_keep_any_text_unchanged(text):
    assert parse_value(text, str) == text
    assert parse_value(text, FIELDS["data.root"]) == text


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_lists_are_read_as_json(numbers):
    assert parse_value(json.dumps(numbers), FIELDS["eval.ablation_seeds"]) == numbers


@given(st.text(), st.sampled_from(sorted(FIELDS)))
def test_no_text_crashes_the_parser(text, field):
    parse_value(text, FIELDS[field])


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_booleans_may_be_written_as_in_python_or_json(text, value):
    assert parse_value(text, bool) is value


@pytest.mark.parametrize("text", ["null", "none", "None"])
def test_null_or_none_means_none_where_the_field_allows_it(config_of, text):
    config_of({"one": {"data": {"short_side": (64, 80)}}})
    assert load_experiment("one", [f"data.short_side={text}"]).data.short_side is None
    assert load_experiment("one", [f"data.prepared={text}"]).data.prepared == text  # a folder may have this name


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=1e-3", 1e-3),
        ("train.lr=2", 2.0),
        ("data.num_frames=16", 16),
        ("data.mirror=True", True),
        ("data.short_side=[224, 258]", (224, 258)),
        ("eval.ablation_seeds=[0, 1, 2]", (0, 1, 2)),
        ("data.layout=ssv2", "ssv2"),
        ("data.prompt=a clip of {}, outdoors", "a clip of {}, outdoors"),
        ("data.prompt={}", "{}"),
        ('data.prompt=["a {}", "{}, b"]', ("a {}", "{}, b")),
        ("data.mirror=force", "force"),
        ("data.official_split=2", 2),
        ("data.root=/mnt/a=b", "/mnt/a=b"),
        ("backbone.source=ViT-B-32-quickgelu/openai", "ViT-B-32-quickgelu/openai"),
        ("data.prepared=12", "12"),
        ("model.temporal_kernel=1", 1),
    ],
)
def test_an_override_is_converted_to_the_type_of_its_field(config_of, override, value):
    config_of({"one": {}})
    section, field = override.partition("=")[0].split(".")
    found = getattr(getattr(load_experiment("one", [override]), section), field)
    assert found == value
    assert type(found) is type(value)


def test_every_field_has_a_description():
    for section in SECTIONS:
        for name, field in Experiment.model_fields[section].annotation.__pydantic_fields__.items():
            assert field.description, f"{section}.{name}"
