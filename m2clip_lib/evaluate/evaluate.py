"""Evaluate one checkpoint: predictions to files, then tables from those files. Used by notebook 04 and `m2clip eval`."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.classes import class_finder
from m2clip_lib.data.manifest import Manifest, made_from
from m2clip_lib.data.opposites import opposite_labels
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.honesty import honesty_table, named_subsets, subset_table
from m2clip_lib.evaluate.metrics import best_weight, confused_pairs, confusion_matrix
from m2clip_lib.evaluate.predictions import load_predictions, save_predictions
from m2clip_lib.evaluate.processes import Processes
from m2clip_lib.evaluate.protocol import WITHOUT_TIME, Order, Protocol
from m2clip_lib.evaluate.scoring import predict_orders
from m2clip_lib.evaluate.tables import accuracy_rows, calibration_tables, class_table, model_name, validation_of
from m2clip_lib.experiment import device_precision, keep_freed_memory, model_config, open_backbone, set_threads
from m2clip_lib.files import code_digest, file_sha256, hash_texts, read_json
from m2clip_lib.models import M2CLIP
from m2clip_lib.models.checkpoint import existing, is_ours, read_checkpoint_info
from m2clip_lib.models.mix import mixed_with_frozen
from m2clip_lib.runs import Run, own_run

SHOWN = (  # columns to print
    *("model", "readout", "top1", "top1_low", "top1_high", "mean_ap", "mean_ap_low", "mean_ap_high", "f1", "interval", "top5", "direction"),
    *("videos", "failed", "listed", "missing", "unreadable", "scored"),
)


def run_for_checkpoint(experiment: Experiment, run: str, checkpoint: Path, report: Callable[[str], None]) -> str:
    """The run that an evaluation of this file goes into: by default the one it belongs to, or else one of its own.

    Raises: UserError when the file is missing, or `run` was asked for and has another checkpoint of its own.
    """
    digest, asked = file_sha256(existing(checkpoint)), Run(run or experiment.name, experiment, "eval")
    own, side = asked.checkpoint, asked.predictions / f"{experiment.eval.split}.json"
    trained = not own.is_file() or file_sha256(own) == digest
    if run and not trained:
        raise UserError(f"--run {run}: has a checkpoint of its own, {own}, which is not {checkpoint}; choose another --run, or none")
    if run or (trained and (not side.is_file() or read_json(side).get("checkpoint_sha256") == digest)):
        return asked.name
    name = f"{experiment.name}-{digest[:12]}"
    report(f"checkpoint {checkpoint} is not that of run {experiment.name!r}: evaluating into run {name!r}")
    return name


def predict_checkpoint(
    run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None, mixes: Sequence[float] = ()
) -> list[str]:
    """Score the evaluation split, and the validation split where something is fitted on it; save the predictions.

    The evaluation split is scored in the orders of frames that the experiment asks for, too. What is already scored, with this file,
    code, list and protocol, is not scored again. A dataset with other classes than the checkpoint's is scored zero-shot: by similarity,
    with its own names and prompts.

    Args:
        mixes: shares of the trained adapters to score besides 1, forwards alone; see mixed_with_frozen.
    Returns: names of the predictions.
    """
    experiment, processes = run.experiment, processes or Processes()
    set_threads(0)
    keep_freed_memory()
    frames = None if is_ours(checkpoint) else experiment.data.num_frames  # published files do not say it
    model = M2CLIP.from_checkpoint(checkpoint, open_backbone(experiment), frames).to(processes.device)
    if processes.is_main:
        run.describe_inputs(manifest, model.backbone.sha256, checkpoint)
    precision = device_precision(experiment.eval.precision, model.backbone, processes.device)
    protocol = Protocol.of_experiment(experiment, precision=precision)
    about: dict[str, object] = {"split": protocol.split} | checkpoint_facts(checkpoint)
    if take_class_names(model, checkpoint, experiment, manifest.class_names):
        about["assumed_classes"] = len(manifest.class_names)
    trained, other = list(model.config.class_names), None
    if not is_own_label_set(trained, manifest.class_names, checkpoint):
        other, find = manifest.class_names, class_finder(trained)
        about["nameless"] = not is_ours(checkpoint)
        about["shared_classes"] = [name for name in other if find(name) is not None]  # zero-shot means that there should be none
    names, splits = [], ["val", protocol.split] if manifest.has("val") else [protocol.split]  # "val" first: it may choose the weight
    with own_run(run.name, run.step) if processes.is_main else nullcontext():
        for split in dict.fromkeys(splits):
            for mix in dict.fromkeys([1.0, *mixes]):
                asked = dataclasses.replace(protocol, split=split, mix=mix)
                others = WITHOUT_TIME if experiment.eval.honesty and split == protocol.split and mix == 1 else ()
                name = split + f"_mix{mix:g}" * (mix != 1)
                own = {"forwards": name} | {order: f"{name}_{order}" for order in others}
                score_once(experiment, manifest, model, asked, run.predictions, own, about | {"split": split}, other, processes)
                names += own.values()
        if processes.is_main:
            forget_other_checkpoints(run.predictions, about["checkpoint_sha256"])
    return names


def score_once(
    experiment: Experiment,
    manifest: Manifest,
    model: M2CLIP,
    protocol: Protocol,
    folder: Path,
    names: Mapping[Order, str],
    about: dict[str, object],
    class_names: list[str] | None = None,
    processes: Processes | None = None,
) -> None:
    """Score the protocol's split and save it, unless that was done with the same checkpoint, list, protocol, texts and code.

    Args:
        names: order of the frames -> name of its predictions in the folder. class_names: see Scorer.
        about: what is stored beside the scores; checkpoint_facts at least.
    """
    processes = processes or Processes()
    weight, chosen_on = ensemble_weight(experiment, folder)
    texts = file_sha256(paths.resolve(protocol.prompts_file)) if class_names and protocol.prompts_file else ""
    facts = [about["checkpoint_sha256"], manifest.sha256, made_from(manifest.folder), code_digest(core=True), texts]
    key = hash_texts(*facts, repr((protocol, weight, class_names is None, experiment.eval.opposites)))
    sides = [folder / f"{name}.json" for name in names.values()]  # each is written after its scores
    done = processes.is_main and all(side.is_file() and read_json(side).get("key") == key for side in sides)
    if processes.from_main(done):
        return
    parts = folder / f"{next(iter(names.values()))}.parts" / key[:16]
    options = {"class_names": class_names, "orders": tuple(names), "parts": parts, "processes": processes}
    with mixed_with_frozen(model, protocol.mix):
        found = predict_orders(experiment, manifest, model, protocol, **options)
    if not processes.is_main:
        return
    for order, predictions in found.items():
        opposites = opposite_labels(predictions.class_names, experiment.eval.opposites)
        weighted = dataclasses.replace(predictions, weight=weight, weight_chosen_on=chosen_on, opposites=opposites)
        save_predictions(weighted, manifest, folder, names[order], key=key, **about)
    shutil.rmtree(parts.parent, ignore_errors=True)


def forget_other_checkpoints(folder: Path, digest: str) -> None:
    """Remove predictions of other checkpoints, such as mixes that were not asked for again: no table may mix two. Controls stay."""
    for side in folder.glob("*.json"):
        if read_json(side).get("checkpoint_sha256", digest) != digest:
            for ending in (".parquet", ".npz", ".json"):
                side.with_suffix(ending).unlink(missing_ok=True)


def ensemble_weight(experiment: Experiment, folder: Path) -> tuple[float, str]:
    """The weight of the similarity in the ensemble, and the split that chose it ("": given).

    Raises: UserError when it is to be chosen on validation, but that is the reported split, or there are no such videos.
    """
    asked = experiment.eval.ensemble_weight
    if asked != "val":
        return asked, ""
    if experiment.eval.split == "val":
        raise UserError("eval.ensemble_weight: the validation split is the one that is reported, so it cannot choose; give a number")
    if not (folder / "val.json").is_file():
        return 0.5, ""
    found = load_predictions(folder, "val")
    if found.targets is not None:
        raise UserError("eval.ensemble_weight: videos have several labels, and the weight is chosen by top-1; give a number")
    return (best_weight(found.similarity, found.classifier, found.labels), "val") if found.classifier is not None else (0.5, "")


def checkpoint_facts(checkpoint: Path) -> dict[str, str]:
    """What predictions store about the file they were made with."""
    extra = read_checkpoint_info(checkpoint).extra if is_ours(checkpoint) else {}
    told = {name: extra.get(name, "") for name in ("epoch_chosen_on", "balance")}
    return {"checkpoint": str(checkpoint), "checkpoint_sha256": file_sha256(checkpoint)} | told


def take_class_names(model: M2CLIP, checkpoint: Path, experiment: Experiment, class_names: list[str]) -> bool:
    """Give a model from a foreign file, which names no classes, those of a dataset with as many. Returns: whether it was done."""
    if is_ours(checkpoint) or len(class_names) != len(model.config.class_names):
        return False
    asked = model_config(experiment, class_names)
    texts = {"class_names": asked.class_names, "prompt": asked.prompt, "own_prompts": asked.own_prompts}
    model.config = dataclasses.replace(model.config, **texts)
    return True


def is_own_label_set(trained: Sequence[str], listed: Sequence[str], checkpoint: Path | str) -> bool:
    """Whether a dataset's classes are those of a checkpoint, ignoring spelling.

    Raises: UserError when the classes are the same in another order: label i would mean two classes.
    """
    found, own = list(map(class_finder(trained), listed)), list(range(len(trained)))
    if found == own or sorted(found, key=str) != sorted(own, key=str):
        return found == own
    i = next(i for i, label in enumerate(found) if i != label)
    raise UserError(
        f"{checkpoint}: trained on the same {len(trained)} classes in another order (label {i}: {trained[i]!r} there, {listed[i]!r} in "
        "the manifest); evaluate it with the names file it was trained with"
    )


def decoders_note(run: Run) -> str:
    """How many videos of the evaluation each decoder read, how many could not be read, and which classes are in no mAP."""
    found = load_predictions(run.predictions, run.experiment.eval.split)
    read = ", ".join(f"{name} {count}" for name, count in sorted(found.decoders.items()))
    failed = f"; {len(found.failed)} could not be read (see {run.predictions.name}/{run.experiment.eval.split}.json)"
    same, compared = found.agreement
    agreed = f"; scores in {found.protocol.precision}: the answer is that of fp32 for {same} of {compared} videos compared"
    absent = [] if found.targets is None else [found.class_names[label] for label in np.flatnonzero(~found.targets.any(axis=0))]
    left_out = f"; mAP and f1 leave out {len(absent)} of {len(found.class_names)} classes, which no scored video has: "
    left_out += ", ".join(map(repr, absent[:3]))
    return f"videos were read by: {read}" + failed * bool(found.failed) + agreed * bool(compared) + left_out * bool(absent)


def zero_shot_note(run: Run) -> str:
    """What is known of a checkpoint's classes: which are those of a zero-shot evaluation; "" for the checkpoint's own."""
    about = read_json(run.predictions / f"{run.experiment.eval.split}.json")
    if assumed := about.get("assumed_classes"):
        return f"{about['checkpoint']} names no classes: its {assumed} are taken to be the dataset's, in the same order"
    shared = about.get("shared_classes")
    if shared is None:
        return ""
    if about["nameless"]:
        return f"zero-shot: {about['checkpoint']} names no classes and has another number of them than the dataset"
    named = f" ({', '.join(map(repr, shared[:3]))})" if shared else ""
    return f"zero-shot: {len(shared)} of the {len(about['class_names'])} classes were also training classes{named}"


def write_tables(run: Run, manifest: Manifest) -> pd.DataFrame:
    """Make the evaluation's tables from the saved predictions. Returns: accuracy per read-out (tables/accuracy.csv)."""
    split = run.experiment.eval.split
    predictions = load_predictions(run.predictions, split)
    validation = validation_of(predictions, run.predictions)
    table = pd.DataFrame(accuracy_rows(predictions, model_name(predictions), validation)).assign(**predictions.columns(), seeds=1)
    run.save(table, "accuracy")
    if run.experiment.eval.honesty:
        run.save(honesty_table(run.predictions, split), "honesty")
    run.save(class_table(predictions, manifest.class_names, validation).assign(readout=predictions.readouts[-1]), "per_class")
    if predictions.targets is not None:
        return table
    matrix = confusion_matrix(predictions.best, predictions.labels)
    run.save(confused_pairs(matrix, manifest.class_names), "confused")
    for name, made in calibration_tables(predictions, validation).items():
        run.save(made, name)
    counts = pd.DataFrame(matrix, columns=manifest.class_names)
    counts.insert(0, "true_class", manifest.class_names, allow_duplicates=True)  # first: a class may have this name, too
    run.save(counts, "confusion")
    subsets = named_subsets(manifest.class_names, run.experiment.eval.subsets)
    if subsets:
        run.save(subset_table(predictions, subsets), "subsets")
    return table


def score_checkpoint(
    run: Run, manifest: Manifest, checkpoint: Path, processes: Processes | None = None, mixes: Sequence[float] = ()
) -> pd.DataFrame:
    """Predict, save and tabulate. Several processes share the videos; only the main one writes and returns a table that is not empty."""
    processes = processes or Processes()
    predict_checkpoint(run, manifest, checkpoint, processes, mixes)
    return write_tables(run, manifest).filter(SHOWN) if processes.is_main else pd.DataFrame()
