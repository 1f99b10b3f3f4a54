"""The schema of configs/config.py: every field with its meaning, checked by name, type and range.

An experiment is five sections. Fields not given take the defaults below; the experiment's own fields win over them, and
`-o section.field=value` over both.
"""

import json
import runpy
import traceback
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from m2clip_lib import paths
from m2clip_lib.errors import UserError

Count = Annotated[int, Field(ge=0, strict=True)]  # strict: true is no number
Positive = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Rate = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of an experiment: unknown fields are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BackboneSection(Section):
    """The frozen CLIP."""

    source: str = "demo"
    """"demo": the small CLIP that the backbone step trains itself; an open_clip tag ("ViT-B-16-quickgelu/openai"); or a file."""
    model_name: str = ""
    """open_clip's name of the architecture, for a weight file that does not say it ("ViT-H-14")."""
    trust_torchscript: bool = False
    """Open a TorchScript archive that is none of OpenAI's published files. It can run code: only for files you made."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class ModelSection:
    """Where adapters stand and how wide they are; M2CLIPConfig inherits it. Defaults: the published B/16 12x384."""

    vision_adapter_layers: Count = 12
    """TED-Adapters in the last n blocks of the visual tower."""
    vision_adapter_width: Positive = 384
    """Their bottleneck, channels."""
    vision_adapter_pre_attn: bool = False
    """Place one before attention."""
    vision_adapter_pre_mlp: bool = True
    """Place one before the MLP."""
    text_adapter_layers: Count = 2
    """Text adapters in the last n text blocks; the masked-word block counts as the last."""
    text_adapter_width: Positive = 384
    """Their bottleneck, channels."""
    text_adapter_pre_attn: bool = False
    """Place one before attention."""
    text_adapter_pre_mlp: bool = True
    """Place one before the MLP."""
    enhancement: bool = True
    """The temporal enhancement branch of the TED-Adapter."""
    difference: bool = True
    """The temporal difference branch of the TED-Adapter."""
    frame_adapter: bool = True
    """The temporal adapter on the frame embeddings ("t_adapter")."""
    temporal_kernel: Literal[1, 3] = 3
    """Frames that a temporal convolution sees; 1 is the control that cannot see time."""
    dropout: Share = 0.5
    """Before the classifier."""


class DataSection(Section):
    """Which videos, how clips are cut from them, how they are augmented."""

    layout: Literal["synthetic", "folder", "list", "kinetics", "ssv2", "ucf101", "hmdb51", "k600_zero_shot"] = "folder"
    """How the dataset lies on disk; "synthetic" writes the demonstration's videos first."""
    root: str = ""
    """Folder of the videos; relative to the root of the repository."""
    prepared: str = "prepared"
    """Folder for manifest and frame cache; relative to data/."""
    train_list: str = ""
    """Annotation file of the training split (layouts list, kinetics, ssv2)."""
    val_list: str = ""
    """The same for the validation split."""
    test_list: str = ""
    """The same for the test split."""
    names_file: str = ""
    """Class names: one a line, `<index> <name>` a line, or CSV `id,name` (list, k600_zero_shot); "kinetics400"; labels.json (ssv2)."""
    annotations: str = ""
    """Folder of the official split files (ucf101, hmdb51)."""
    official_split: Literal[1, 2, 3] = 1
    """Which of them (ucf101, hmdb51)."""
    hold_out: Share = 0.1
    """Share of the training videos taken for validation where the lists bring none; 0: no validation, the best epoch is the last."""
    check_csv: str = ""
    """Kinetics CSV (label, youtube_id, time_start, time_end) to check a list's labels against."""
    train_videos: Positive = 1440
    """Synthetic videos in the training split, all classes together."""
    val_videos: Positive = 240
    """The same for validation."""
    test_videos: Positive = 960
    """The same for test."""
    video_seed: Count = 0
    """Seed of the synthetic videos."""
    prompt: str | Annotated[tuple[str, ...], Field(min_length=1)] = "A video of {}"
    """Prompt of a class, or a list of several; {} is the class name. Training reads one a step, evaluation the mean of all."""
    prompts_file: str = ""
    """JSON {class name: [prompt, ...]}: sentences of your own in place of data.prompt."""
    vocabulary_file: str = ""
    """`<word> <index>` a line, for the masked-word head; none: the lower-cased words of all prompts, sorted."""
    num_frames: Positive = 8
    """Frames a clip."""
    stride: Count = 16
    """Frames between two picked ones; 0 spreads the clip over the whole video."""
    short_side: tuple[Positive, Positive] | None = None
    """Least and most pixels of the short side before the random crop; null: the backbone's input size."""
    random_resized_crop: bool = False
    """Crop 8 % to 100 % of the area instead (SSv2 recipe)."""
    rand_augment: bool = False
    """RandAugment, 4 operations of magnitude 7 (SSv2 recipe)."""
    mirror: bool | Literal["force"] = False
    """Flip half of the training clips. Refused for class names that speak of left or right, unless "force"."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """auto: decord where it is installed, PyAV for files that decord does not read rightly. `m2clip bench data` says which is faster."""
    resize: Literal["fast", "exact"] = "fast"
    """Of evaluation: "fast" in the decoder; "exact" as the published code does (PyAV, in floating point), for published weights."""
    transcode: bool = False
    """Train and evaluate on copies that load fast: short side 256 px, a keyframe every 12 frames. `m2clip prepare` makes them."""
    file_timeout_s: Positive = 60
    """Seconds that `m2clip prepare` gives a decoder for one file."""
    cache_frames: bool = False
    """Decode a small dataset once and keep its frames as one file."""
    workers: Count = 4
    """Loader processes; 0 loads in the training process."""

    @field_validator("prompt")
    @classmethod
    def _one_place(cls, prompt: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in (prompt,) if isinstance(prompt, str) else prompt:
            if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
                raise ValueError("must contain {} exactly once, where the class name goes")
        return prompt

    @model_validator(mode="after")
    def _short_side_order(self) -> "DataSection":
        if self.short_side and self.short_side[0] > self.short_side[1]:
            raise ValueError(f"short_side {list(self.short_side)}: the least must not exceed the most")
        if self.cache_frames and self.short_side:
            raise ValueError("cache_frames keeps frames at the backbone's input size: leave short_side null")
        if self.resize == "exact" and (self.cache_frames or self.decoder == "decord"):
            raise ValueError("resize exact reads full frames with PyAV: set cache_frames false and decoder auto or pyav")
        return self


class TrainSection(Section):
    """The recipe of training."""

    epochs: Positive = 12
    """Passes over the training split."""
    batch_size: Positive = 32
    """Clips a step of one process. An update of the weights takes batch_size x accumulate x processes clips."""
    accumulate: Positive = 1
    """Steps whose gradients add up to one update: the memory of the small batch, the update of the large one. Exact for classification,
    cross-modal and masked words; the contrastive term's negatives are those of the step, unless gather_negatives."""
    gather_negatives: bool = False
    """Contrastive negatives: false, the clips of one process' step (as published); true, of the whole update, over all processes and
    accumulated steps (the latter cost a second forward pass). True makes an update independent of how it is divided."""
    lr: Rate = 1e-3
    """Peak learning rate of adapters and heads for one process without accumulation; it is multiplied by accumulate x processes.
    Text adapters take half."""
    weight_decay: NotNegative = 0.01
    """Of AdamW; none on biases."""
    warmup: Share = 0.1
    """Share of all steps with a linearly growing rate; then cosine to 0, per step."""
    seed: Count = 0
    """Of everything random in training."""
    cross_modal_ce: Literal["on_scores", "on_probabilities"] = "on_scores"
    """"on_probabilities" is the published loss (softmax twice)."""
    clip_grad_norm: NotNegative = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16: autocast, for GPUs; on CPU it gains nothing. fp16: the same for GPUs without bf16, with loss scaling."""
    activation_checkpointing: bool = False
    """Compute the blocks of the visual tower again in the backward pass instead of keeping them: far less memory, about a third slower."""
    compile: bool = False
    """torch.compile for every block: slow first steps (needs a C++ compiler), faster ones after."""
    threads: Count = 0
    """CPU threads of torch; 0: all cores. Results are bit-identical only at the same number."""
    save_minutes: NotNegative = 10.0
    """Minutes between saves from which an interrupted training continues (and one after every epoch); 0: after every update."""
    warm_start: str = ""
    """Start from a checkpoint's weights (ours, the official .pth, the replicate's .pt); heads of another label set are made anew."""


class EvalSection(Section):
    """The protocol of evaluation."""

    split: Literal["val", "test"] = "test"
    """The split that tables report."""
    temporal_views: Positive = 1
    """Clips a video along time (stride > 0)."""
    spatial_views: Literal[1, 3, 4] = 1
    """Crops along the long side; 4 is the published "4"."""
    batch_size: Positive = 32
    """Videos a step."""
    backwards: bool = False
    """Also play the videos backwards, and compare (needs classes that are time-reversed pairs: the demonstration's)."""
    ablation_seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (0, 1)
    """Seeds of every ablation variant."""


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
        """Folder of manifest and frame cache."""
        return paths.DATA / Path(self.data.prepared).expanduser()


UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # what pydantic calls a field that does not exist
SECTIONS = ("backbone", "model", "data", "train", "eval")


def load_experiment(name: str = "", overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read one experiment from configs/config.py.

    Args:
        name: its name; "" is the default one.
        overrides: "section.field=value" strings, the last word on a field.
    Raises: UserError that names field and value.
    """
    module = _read_config_file()
    experiments = _experiments(module)
    name = name or module.get("DEFAULT_EXPERIMENT", "")
    if name not in experiments:
        raise UserError(f"experiment {name!r}: not in {paths.shown(paths.CONFIG)}; it has: {', '.join(experiments)}")
    values = {section: dict(fields) for section, fields in experiments[name].items()}
    where = f"{paths.shown(paths.CONFIG)}, experiment {name!r}"
    experiment = _validate(values, name, where)
    if not overrides:
        return experiment
    for override in overrides:
        section, field, value = _parse_override(override)
        values.setdefault(section, {})[field] = value
    return _validate(values, name, " ".join(f"-o {override}" for override in overrides))  # judged together: their order says nothing


def experiment_names() -> list[str]:
    """Names of the entries of configs/config.py, in their order."""
    return list(_experiments(_read_config_file()))


def _experiments(module: dict[str, Any]) -> dict[str, dict]:
    experiments = module.get("EXPERIMENTS")
    if not isinstance(experiments, dict) or not all(isinstance(entry, dict) for entry in experiments.values()):
        raise UserError(f"{paths.shown(paths.CONFIG)}: EXPERIMENTS must be a dictionary of dictionaries: name -> section -> field")
    for name, entry in experiments.items():
        for section, fields in entry.items():
            if not isinstance(fields, dict):
                raise UserError(f"{paths.shown(paths.CONFIG)}, experiment {name!r}: section {section!r} must be a dictionary of fields")
    return experiments


def _read_config_file() -> dict[str, Any]:
    if not paths.CONFIG.is_file():
        raise UserError(f"configuration: no such file: {paths.CONFIG}; restore configs/config.py or set M2CLIP_CONFIG")
    try:
        return runpy.run_path(str(paths.CONFIG))
    except SyntaxError as error:
        raise UserError(f"{paths.shown(paths.CONFIG)}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # the file is the user's own code: whatever it raises is a slip in it
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(f"{paths.shown(paths.CONFIG)}, line {line}: {type(error).__name__}: {error}") from error


def _validate(values: dict[str, dict], name: str, where: str) -> Experiment:
    try:
        return Experiment(name=name, **values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "experiment"
        reason = "unknown field" if first["type"] in UNKNOWN else first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise UserError(f"{where}: {field}{given}: {reason}{_near(first)}") from None


def _near(error: dict) -> str:
    """The fields there are, when one is not known."""
    if error["type"] not in UNKNOWN:
        return ""
    section = error["loc"][0]
    known = _fields(section) if len(error["loc"]) > 1 else dict.fromkeys(SECTIONS)
    return f"; known: {', '.join(known)}"


def _parse_override(text: str) -> tuple[str, str, Any]:
    target, equals, value = text.partition("=")
    section, dot, field = target.strip().partition(".")
    if not (equals and dot and field) or section not in SECTIONS:
        raise UserError(f"-o {text}: expected section.field=value with section one of {', '.join(SECTIONS)}")
    fields = _fields(section)
    if field not in fields:
        raise UserError(f"-o {text}: section {section} has no field {field!r}; it has: {', '.join(fields)}")
    return section, field, parse_value(value, fields[field].annotation)


def _fields(section: str) -> dict[str, FieldInfo]:
    return Experiment.model_fields[section].annotation.__pydantic_fields__


def parse_value(text: str, kind: Any) -> Any:
    """A value typed on the command line: text stays text where the field is text, anything else is read as JSON."""
    allowed = get_args(kind) if get_origin(kind) is not None and NoneType in get_args(kind) else (kind,)
    if NoneType in allowed and text in {"null", "none", "None"}:
        return None
    if str in allowed or (str in get_args(kind) and not text.lstrip().startswith("[")):  # text, or a list of texts
        return text
    try:
        return json.loads(text.lower() if text in {"True", "False"} else text)
    except json.JSONDecodeError:
        return text
