"""The fields of an experiment: five sections, every field with its meaning, default, type and range."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=0, strict=True)]  # strict: true is not a number
Positive = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Rate = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Colour = Literal["red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"]  # of the synthetic videos
Word = Annotated[str, Field(min_length=1)]
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)  # unknown fields are errors


class Section(BaseModel):
    """A part of an experiment; its values never change after loading."""

    model_config = STRICT | ConfigDict(frozen=True)


class BackboneSection(Section):
    """The frozen CLIP."""

    source: str = "demo"
    """"demo": the small CLIP that is shipped with the library; an open_clip tag ("ViT-B-16-quickgelu/openai"); or a file."""
    model_name: str = ""
    """open_clip's name of the architecture, for a weight file that does not say it ("ViT-H-14")."""
    trust_torchscript: bool = False
    """Open a TorchScript archive that is not one of OpenAI's published files. It can run code: only for files you made."""


@dataclass(frozen=True, config=STRICT)
class ModelSection:
    """Where adapters are placed and how wide they are; M2CLIPConfig inherits these fields. Defaults: the published B/16 12x384."""

    vision_adapter_layers: Count = 12
    """Adapters in this many blocks of the visual tower."""
    vision_adapter_width: Positive = 384
    """Their bottleneck width, in channels; the rank of LoRA."""
    vision_adapter_pre_attn: bool = False
    """Place one before attention (TED, ST-Adapter)."""
    vision_adapter_pre_mlp: bool = True
    """Place one before the MLP."""
    text_adapter_layers: Count = 2
    """Text adapters in the last n text blocks; the masked-word block counts as the last."""
    text_adapter_width: Positive = 384
    """Their bottleneck width, in channels."""
    text_adapter_pre_attn: bool = False
    """Place one before attention."""
    text_adapter_pre_mlp: bool = True
    """Place one before the MLP."""
    enhancement: bool = True
    """The temporal enhancement branch of the TED-Adapter."""
    difference: bool = True
    """The temporal difference branch of the TED-Adapter."""
    frame_adapter: bool = True
    """The temporal adapter on the frame embeddings ("t_adapter"); of TED alone."""
    temporal_kernel: Literal[1, 3] = 3
    """Frames that a temporal convolution sees."""
    static: bool = False
    """A control that cannot see time, with the same parameters: each frame stands in for its neighbours and for the difference."""
    dropout: Share = 0.5
    """Before the classifier."""
    visual_adapter: Literal["ted", "st_adapter", "aim", "lora", "none"] = "ted"
    """What is trained in the visual tower: M2-CLIP's TED-Adapter, a peer's adapter, or nothing."""
    text_side: Literal["adapters", "frozen"] = "adapters"
    """frozen: no text adapters, whatever is set above; class texts stay CLIP's."""
    unfreeze: Literal["nothing", "biases_and_norms", "all"] | Positive = "nothing"
    """CLIP's own weights to train in the visual tower, beside the adapters: none, biases and norms, the last n blocks, or all."""
    vision_adapter_blocks: Literal["last", "first"] = "last"
    """In the last blocks, as published, or in the first."""
    aim_inner: bool = False
    """AIM: an adapter before the attention over time, too ("num_tadapter = 2")."""
    aim_scale: float = 0.5
    """AIM: scale of the adapter beside the MLP."""


class DataSection(Section):
    """Which videos to use, how clips are cut from them, and how they are augmented."""

    layout: Literal["synthetic", "folder", "list", "kinetics", "ssv2", "ucf101", "hmdb51", "k600_zero_shot", "annotations"] = "folder"
    """How the dataset is laid out on disk; "synthetic" writes the demonstration's videos first."""
    root: str = ""
    """Folder of the videos; relative to the root of the repository."""
    prepared: str = "prepared"
    """Folder for manifest and frame cache; relative to data/."""
    train_list: str = ""
    """Annotation file of the training split (layouts list, kinetics, ssv2, annotations: path,label[,start,end])."""
    val_list: str = ""
    """The same for the validation split."""
    test_list: str = ""
    """The same for the test split."""
    names_file: str = ""
    """Class names, one per line or with indices (list, k600_zero_shot, annotations); "kinetics400"; labels.json (ssv2)."""
    annotations: str = ""
    """Folder of the official split files (ucf101, hmdb51)."""
    official_split: Literal[1, 2, 3] = 1
    """Which of them (ucf101, hmdb51)."""
    hold_out: Share = 0.1
    """Share of the training recordings held out where the dataset brings no validation split; 0: none, the last epoch is the best."""
    trust_list: bool = False
    """Keep the list's labels where folders in the paths name other classes: for folders that are subjects or cameras. Is recorded."""
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
    colours: tuple[Colour, ...] = ()
    """Synthetic classes are every motion in each of these colours ("red moving left"); empty: motions in any colour."""
    two_shapes: bool = False
    """Two synthetic shapes in every video, each with one of six motions: two labels per video."""
    prompt: str | Annotated[tuple[str, ...], Field(min_length=1)] = "A video of {}"
    """Prompt template, or a list of several; {} is the class name. Training uses one per step, evaluation the mean of all."""
    prompts_file: str = ""
    """JSON {class name: [prompt, ...]}: your own sentences in place of data.prompt."""
    vocabulary_file: str = ""
    """`<word> <index>` per line, for the masked-word head; empty: the lower-cased words of all prompts, sorted."""
    train_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    """Share of every class' training videos to train on, drawn with seed 0; a smaller share is part of a larger one."""
    num_frames: Positive = 8
    """Frames per clip."""
    stride: Count = 16
    """Frames between two picked ones; 0 spreads the clip over the whole video."""
    short_side: tuple[Positive, Positive] | None = None
    """Smallest and largest short side in pixels before the random crop; null: the backbone's input size."""
    random_resized_crop: bool = False
    """Crop 8 % to 100 % of the area instead (SSv2 recipe)."""
    rand_augment: bool = False
    """RandAugment, 4 operations of magnitude 7 (SSv2 recipe)."""
    mirror: bool | Literal["force"] = False
    """Flip half of the training clips. Refused for class names that a mirror exchanges (left/right, links/rechts, ...), unless "force"."""
    mirror_pairs: tuple[tuple[Word, Word], ...] = ()
    """More words that a mirror exchanges, in your language: [["hidari", "migi"]]."""
    decoder: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"
    """auto is PyAV. decord and torchcodec may return other frames than those asked for: compare, `m2clip bench data --videos DIR`."""
    resize: Literal["fast", "exact"] = "fast"
    """Resizing in evaluation: "fast" in the decoder, "exact" as the published code does (PyAV, floating point), for published weights."""
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
        if self.resize == "exact" and (self.cache_frames or self.decoder not in ("auto", "pyav")):
            raise ValueError("resize exact reads full frames with PyAV: set cache_frames false and decoder auto or pyav")
        if self.transcode and (self.layout == "annotations" or self.two_shapes):
            raise ValueError("transcode copies whole videos, whose segments would be lost: set it to false for annotation rows")
        if self.two_shapes and self.colours:
            raise ValueError("two_shapes: the motions have no colours of their own, leave colours empty")
        return self


@dataclass(frozen=True, config=STRICT)
class LossWeights:
    """The weight of each head's loss in the total. Defaults: the published ones."""

    contrastive: NotNegative = 0.5
    cross_modal: NotNegative = 0.5
    classification: NotNegative = 1.0
    mlm: NotNegative = 0.1


class TrainSection(Section):
    """The recipe of training."""

    epochs: Positive = 12
    """Passes over the training split."""
    batch_size: Positive = 32
    """Clips per step and process. An update of the weights takes batch_size x accumulate x processes clips."""
    accumulate: Positive = 1
    """Steps whose gradients add up to one update, for less memory; exact but for the contrastive negatives (see gather_negatives)."""
    gather_negatives: bool = False
    """Contrastive negatives: false, those of the step (as published); true, the whole update's (accumulating then takes two passes)."""
    lr: Rate = 1e-3
    """Peak learning rate for one process without accumulation; multiplied by accumulate x processes. Text adapters take half."""
    clip_lr_scale: Rate = 0.1
    """Share of lr for CLIP's own weights, where model.unfreeze trains some."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW; biases have none."""
    warmup: Share = 0.1
    """Share of all steps with a linearly growing rate; then cosine to 0, per step."""
    seed: Count = 0
    """Seed of everything random in training."""
    masked_share: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.2
    """Share of a class name's words that are masked for the masked-word head, but at least one word."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For classes of uneven size: weights, the cross-modal and classification losses of a clip count more the rarer its classes are;
    sampling, an epoch has as many clips, but draws them by the same weights."""
    cross_modal_ce: Literal["on_scores", "on_probabilities"] = "on_scores"
    """"on_probabilities" is the published loss (softmax twice)."""
    loss_weights: LossWeights = LossWeights()
    """Weight of each loss term in the total."""
    clip_grad_norm: NotNegative = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 autocast where it is faster (GPUs, and CPUs with AMX for real backbones), else fp32. fp16: for GPUs without bf16, with
    loss scaling. Scores, softmax and losses are fp32 in any case."""
    activation_checkpointing: bool = False
    """Compute the blocks of the visual tower again in the backward pass instead of keeping them: far less memory, about a third slower."""
    compile: bool = False
    """torch.compile for every block: slow first steps (needs a C++ compiler), faster ones after."""
    validate_every: Positive = 1
    """Epochs between two validations; the last epoch has one in any case, and only validated epochs can be the best."""
    saved_views: Count = 0
    """0: every epoch draws a new clip of each video. n: n clips are drawn once and taken in turns; where adapters stand in the last blocks
    only, what the blocks below make of them is computed once and kept in data/<prepared>/trunk (float16), and training starts there."""
    threads: Count = 0
    """CPU threads of torch; 0: OMP_NUM_THREADS, or all cores of the job. Results are bit-identical only at the same number."""
    save_minutes: NotNegative = 10.0
    """Minutes between saves from which an interrupted training continues (and one after every epoch); 0: after every update."""
    warm_start: str = ""
    """Start from a checkpoint's weights (ours, the official .pth, the replicate's .pt); heads of another label set are reinitialised."""


class EvalSection(Section):
    """The protocol of evaluation."""

    split: Literal["val", "test"] = "test"
    """The split that tables report."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of a run's checkpoints tables report: the best on validation, or the last epoch's, as the published recipes do."""
    views: str = ""
    """The views of a video by name, spatial x temporal: "1x1", "3x1", "4x3" (as published); sets the next two fields."""
    spatial_views: Literal[1, 3, 4] = 1
    """Crops along the long side; 4 is the published "4"."""
    temporal_views: Positive = 1
    """Clips per video along time (stride > 0)."""
    batch_size: Positive = 32
    """Videos per step."""
    views_at_once: Count = 0
    """Views of a video that go through the model together; fewer need less memory. 0: all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where it is faster (GPUs, and CPUs with AMX for real backbones), else fp32. Scores are fp32 in any case."""
    ensemble_weight: Annotated[float, Field(ge=0, le=1, strict=True)] | Literal["val"] = 0.5
    """Weight of the similarity in the ensemble, beside the classifier; "val": the best on the validation split."""
    subsets: str = ""
    """CSV subset,class_name: report these subsets of the classes, too (tables/subsets.csv); Kinetics-400 brings two of its own."""
    count_unreadable_as_wrong: bool = False
    """Count listed videos that are missing or cannot be read as wrong in top-1, top-5, direction and interval; false: leave them out."""
    honesty: bool = True
    """Also score the videos played backwards, with their frames shuffled, and with one frame repeated (tables/honesty.csv)."""
    opposites: tuple[tuple[Word, Word], ...] = ()
    """Pairs of classes that are each other's time reversal; empty: found from the names ("opening" and "closing ...")."""
    ablation_epochs: Count = 0
    """Epochs of every training of a study; 0: as many as the experiment's own."""
    ablation_seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of every ablation variant."""

    @model_validator(mode="before")
    @classmethod
    def _views_by_name(cls, values: dict) -> dict:
        """Views by name or by number: what was set last counts, so that -o wins over the file."""
        numbers = {"spatial_views": 1, "temporal_views": 1}
        for field, value in values.items():
            if field == "views" and value:
                found = re.fullmatch(r"([134])x([1-9][0-9]*)", str(value))
                if not found:
                    raise ValueError(f"views {value!r}: expected <spatial>x<temporal> with 1, 3 or 4 spatial views, such as 4x3")
                numbers = {"spatial_views": int(found[1]), "temporal_views": int(found[2])}
            elif field in numbers:
                numbers[field] = value
        return values | numbers | {"views": "{spatial_views}x{temporal_views}".format(**numbers)}
