"""Reading configs/config.py: one entry of it, checked against the sections of sections.py, becomes an Experiment.

Fields that an experiment does not set take their defaults; `-o section.field=value` wins over both.
"""

import json
import runpy
import traceback
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from m2clip_lib import paths
from m2clip_lib.errors import UserError
from m2clip_lib.sections import BackboneSection, DataSection, EvalSection, ModelSection, Section, TrainSection


class Experiment(Section):
    """What one entry of configs/config.py becomes."""

    name: str = ""
    backbone: BackboneSection = BackboneSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()

    @property
    def prepared(self) -> Path:
        """The folder of the manifest and the frame cache."""
        return paths.DATA / Path(self.data.prepared).expanduser()


SECTIONS = ("backbone", "model", "data", "train", "eval")
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # what pydantic calls a field that does not exist


def load_experiment(name: str = "", overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read one experiment from configs/config.py.

    Args:
        name: its name; "" is the default experiment.
        overrides: "section.field=value" strings; they win over the experiment's own fields.
    Raises: UserError that names field and value.
    """
    content = read_config_file()
    name, experiments = name or content.get("DEFAULT_EXPERIMENT", ""), content["EXPERIMENTS"]
    if name not in experiments:
        raise UserError(f"experiment {name!r}: not in {paths.shown(paths.CONFIG)}; it has: {', '.join(experiments)}")
    values = {section: dict(fields) for section, fields in experiments[name].items()}
    experiment = _validate(values, name, f"{paths.shown(paths.CONFIG)}, experiment {name!r}")
    for override in overrides:
        section, field, value = _parse_override(override)
        fields = values.setdefault(section, {})
        fields.pop(field, None)  # last: eval.views and the numbers it stands for count in the order in which they are set
        fields[field] = value
    # All overrides are validated together, so that their order does not matter.
    return _validate(values, name, " ".join(f"-o {override}" for override in overrides)) if overrides else experiment


def read_config_file() -> dict[str, Any]:
    """Everything that configs/config.py defines: EXPERIMENTS, DEFAULT_EXPERIMENT, STUDIES."""
    shown = paths.shown(paths.CONFIG)
    if not paths.CONFIG.is_file():
        raise UserError(
            f"configuration: no such file: {paths.CONFIG}; restore it, run m2clip in a clone of the workbook, or set M2CLIP_ROOT"
        )
    try:
        content = runpy.run_path(str(paths.CONFIG))
    except SyntaxError as error:
        raise UserError(f"{shown}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # the file is the user's own code and may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(f"{shown}, line {line}: {type(error).__name__}: {error}") from error
    experiments = content.get("EXPERIMENTS")
    if not isinstance(experiments, dict) or not all(isinstance(entry, dict) for entry in experiments.values()):
        raise UserError(f"{shown}: EXPERIMENTS must be a dictionary of dictionaries: name -> section -> field")
    for name, entry in experiments.items():
        for section, fields in entry.items():
            if not isinstance(fields, dict):
                raise UserError(f"{shown}, experiment {name!r}: section {section!r} must be a dictionary of fields")
    return content


def _validate(values: dict[str, dict], name: str, where: str) -> Experiment:
    try:
        return Experiment(name=name, **values)
    except ValidationError as error:
        first = error.errors()[0]
        given = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] in UNKNOWN:
            known = _fields(first["loc"][0]) if len(first["loc"]) > 1 else SECTIONS
            reason = f"unknown field; known: {', '.join(known)}"
        raise UserError(f"{where}: {'.'.join(map(str, first['loc'])) or 'experiment'}{given}: {reason}") from None


def _fields(section: str) -> dict[str, FieldInfo]:
    return Experiment.model_fields[section].annotation.__pydantic_fields__


def _parse_override(text: str) -> tuple[str, str, Any]:
    target, equals, value = text.partition("=")
    section, dot, field = target.strip().partition(".")
    if not (equals and dot and field) or section not in SECTIONS:
        meant = "".join(f"; did you mean -o {name}.{text}?" for name in SECTIONS if equals and target.strip() in _fields(name))
        raise UserError(f"-o {text}: expected section.field=value with section one of {', '.join(SECTIONS)}{meant}")
    if field not in _fields(section):
        raise UserError(f"-o {text}: section {section} has no field {field!r}; it has: {', '.join(_fields(section))}")
    return section, field, parse_value(value, _fields(section)[field].annotation)


def parse_value(text: str, kind: Any) -> Any:
    """Convert a value typed on the command line: text stays text where the field is text, anything else is read as JSON."""
    allowed = get_args(kind) if get_origin(kind) is not None and NoneType in get_args(kind) else (kind,)
    if NoneType in allowed and text in {"null", "none", "None"}:
        return None
    if str in allowed or (str in get_args(kind) and not text.lstrip().startswith("[")):  # text, or a list of texts
        return text
    try:
        return json.loads(text.lower() if text in {"True", "False"} else text)
    except json.JSONDecodeError:
        return text
