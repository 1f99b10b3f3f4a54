"""Transfer: how a model does on data sets, classes and numbers of videos that it was not trained for. Each study yields one table.

Trainings and predictions are named after a digest of what decides them, so that finished ones are not repeated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import harmonic_mean

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy import ndarray

from m2clip_lib.config import Experiment, load_experiment
from m2clip_lib.csvfiles import read_csv, write_csv
from m2clip_lib.data.manifest import Manifest, read_side_file
from m2clip_lib.data.opposites import opposite_labels
from m2clip_lib.data.prepare import load_manifest
from m2clip_lib.data.seeds import Purpose, stream
from m2clip_lib.errors import UserError
from m2clip_lib.evaluate.evaluate import checkpoint_facts, score_once
from m2clip_lib.evaluate.metrics import is_hit, percent
from m2clip_lib.evaluate.predictions import Predictions, load_predictions
from m2clip_lib.evaluate.protocol import Protocol
from m2clip_lib.experiment import device_precision, open_backbone, pick_device
from m2clip_lib.files import hash_texts
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run
from m2clip_lib.studies.jobs import trained


def zero_shot_transfer(
    run: Run, checkpoint: Path, experiment: str, splits: Sequence[Sequence[str]], prompt_sets: Mapping[str, Sequence[str]], draws: int = 10
) -> pd.DataFrame:
    """A checkpoint on another data set, by similarity alone (tables/transfer_zero_shot.csv).

    One row per prompt set for all classes, with the spread over the splits, and one for halves of the classes, with that over splits
    and seeded draws; these are read from the saved scores of all classes.

    Args:
        experiment: of the other data set, prepared. splits: the changes that make it each of its splits, written as after -o.
        prompt_sets: name -> changes likewise: ["data.prompt={}"], or ["data.prompts_file=sentences.json"]. draws: of half of the classes.
    """
    rows = []
    for name, changes in prompt_sets.items():
        asked = [load_experiment(experiment, (*split, *changes)) for split in splits]
        found = [score(run, each, one_label_each(each), checkpoint, own=False) for each in asked]
        whole = [(each, range(len(each.class_names))) for each in found]
        halves = [(each, draw_classes(each.class_names, seed)) for each in found for seed in range(draws)]
        about = {"data_set": experiment, "prompt_set": name, "splits": len(splits), "checkpoint_sha256": found[0].checkpoint_sha256[:12]}
        for draw, pairs in (("all", whole), ("half", halves)):
            if pairs:
                values = [percent(hits_among(*pair)) for pair in pairs]
                rows.append(about | {"draw": draw, "classes": len(pairs[0][1])} | spread(values) | columns(found))
    return _saved(run, "zero_shot", rows)


def few_shot(
    run: Run,
    shots: Sequence[int] = (2, 4, 8, 16),
    seeds: Sequence[int] = (0, 1, 2),
    updates: int = 200,
    official: Mapping[int, Path] | None = None,
) -> pd.DataFrame:
    """Train on a few videos of each class, evaluate on the whole split (tables/transfer_few_shot.csv): a row per number and read-out.

    A seed draws the videos and is that of the training. No validation videos are used: the last epoch is reported.

    Args:
        updates: of the weights, at least: the recipe's epochs are over after a few. official: the list file (columns path and label) of
            each number with a published draw.
    """
    manifest, rows = one_label_each(run.experiment), []
    root = Path(read_side_file(manifest.folder)["root"])
    for number in shots:
        found = []
        for seed in seeds:
            given = (official or {}).get(number)
            table = listed_videos(manifest, given, root) if given else draw_videos(manifest.split("train"), number, seed)
            relative = [Path(path).relative_to(root) if Path(path).is_relative_to(root) else path for path in table.path]
            file = run.folder / "transfer" / f"few_shot-{number}-seed{seed}.csv"
            write_csv(file, table[["path", "label", "class_name"]].assign(path=list(map(str, relative))))
            epochs = -(-updates // -(-len(table) // (run.experiment.train.batch_size * run.experiment.train.accumulate)))
            experiment = _with_training(run.experiment, seed=seed, epochs=max(epochs, run.experiment.train.epochs))
            part = part_of(manifest, table, manifest.class_names)
            found.append(score(run, experiment, manifest, checkpoint_of(run, experiment, part, file.stem)))
        for readout in found[0].readouts:
            values = [percent(hits_among(each, range(len(each.class_names)), readout)) for each in found]
            about = {"shots": number, "readout": readout, "seeds": len(seeds), "draw": "official" if given else "seeded"}
            about |= {"prompt_set": "as trained", "classes": len(manifest.class_names), "trained_on": len(table)}
            rows.append(about | {"epochs": experiment.train.epochs} | spread(values) | columns(found))
    return _saved(run, "few_shot", rows)


def base_to_novel(
    run: Run, seeds: Sequence[int] = (0, 1, 2), share: float = 0.5, composed: bool = False, mixes: Sequence[float] = (1.0,)
) -> pd.DataFrame:
    """Train on some classes, evaluate on these and, zero-shot, on the others; by similarity (tables/transfer_base_to_novel.csv).

    A row per mix and measure: top-1 of base videos among base classes, of novel videos among novel classes, their harmonic mean, and of
    novel videos among all classes. With several mixes it is the dial between frozen CLIP (0) and trained (1), and goes to
    tables/transfer_dial.csv: `chosen` is the best mix for validation videos of base classes, of equals the largest, where there are any.

    Args:
        seeds: each draws novel classes and is that of a training. share, composed: see draw_classes. mixes: see mixed_with_frozen.
    """
    manifest, rows, validation, several = one_label_each(run.experiment), [], {}, len(mixes) > 1
    has_val = run.experiment.eval.split != "val" and manifest.has("val")
    trainings = [base_training(run, manifest, seed, share, composed) for seed in seeds]
    for mix in map(float, mixes):
        found = [score(run, run.experiment, manifest, checkpoint, mix, own=False) for *_, checkpoint in trainings]
        values: dict[str, list[float]] = {"base": [], "novel": [], "harmonic_mean": [], "novel_among_all": []}
        for (base, novel, _), each in zip(trainings, found, strict=True):
            both = [percent(hits_among(each, classes)) for classes in (base, novel)]
            among_all = percent(hits_among(each, range(len(each.class_names)), labels=novel))
            for measure, value in zip(values, (*both, harmonic_mean(both), among_all), strict=True):
                values[measure].append(value)
        if several and has_val:
            own = [(base, score(run, run.experiment, manifest, file, mix, "val", own=False)) for base, _, file in trainings]
            validation[mix] = float(np.mean([percent(hits_among(each, base)) for base, each in own]))
        about = {"prompt_set": "as trained", "composed": composed, "base_classes": len(base), "novel_classes": len(novel)}
        rows += [{"measure": name} | about | spread(of_seeds) | columns(found) for name, of_seeds in values.items()]
    if several:
        chosen = max(validation, key=lambda mix: (validation[mix], mix), default=None)
        rows = [row | {"validation": validation.get(row["mix"], float("nan")), "chosen": row["mix"] == chosen} for row in rows]
    return _saved(run, "dial" if several else "base_to_novel", rows)


def one_label_each(experiment: Experiment) -> Manifest:
    """An experiment's manifest. Raises: UserError when its videos have several labels, for which these studies have no measure."""
    manifest = load_manifest(experiment)
    if manifest.several_labels:
        raise UserError(f"transfer: videos of experiment {experiment.name!r} have several labels; these studies need one per video")
    return manifest


def base_training(run: Run, manifest: Manifest, seed: int, share: float, composed: bool) -> tuple[list[int], list[int], Path]:
    """Train on the videos of the base classes alone. Returns: labels of base and of novel classes, the checkpoint."""
    novel = draw_classes(manifest.class_names, seed, share, composed, run.experiment.eval.opposites)
    base = [label for label in range(len(manifest.class_names)) if label not in novel]
    table = manifest.table[manifest.table.label.isin(base)]
    table = table.assign(label=np.searchsorted(base, table.label))
    part = part_of(manifest, table, [manifest.class_names[label] for label in base])
    experiment = _with_training(run.experiment, seed=seed)
    return base, novel, checkpoint_of(run, experiment, part, f"base-seed{seed}-{part.sha256[:12]}")


def checkpoint_of(run: Run, experiment: Experiment, manifest: Manifest, name: str) -> Path:
    """The reported checkpoint of one training of these studies; it is trained unless that has been done."""
    print(f"{name}: {len(manifest.split('train'))} videos of {len(manifest.class_names)} classes", flush=True)
    found = trained(experiment, manifest, f"{run.name}/transfer/{name}", lambda line: None)  # metrics.csv says the same
    return getattr(found, experiment.eval.checkpoint)


def draw_classes(
    class_names: Sequence[str], seed: int, share: float = 0.5, composed: bool = False, opposites: Sequence[tuple[str, str]] = ()
) -> list[int]:
    """Draw a share of the classes; two that are each other's time reversal stay together.

    Args:
        composed: every word of a drawn name must be in a name that is not drawn, so that only their combination is new.
        opposites: pairs of names; empty: found from the names.
    Returns: labels, ascending. Raises: UserError when no class can be drawn.
    """
    partners, drawn = opposite_labels(class_names, opposites), set()
    units = [{i, int(partner)} - {-1} for i, partner in enumerate(partners) if partner < 0 or i < partner]
    for place in stream(seed, Purpose.DRAW).permutation(len(units)):
        more = drawn | units[place]
        left = {word for label, name in enumerate(class_names) if label not in more for word in name.split()}
        if len(more) <= share * len(class_names) and not (composed and any(set(class_names[label].split()) - left for label in more)):
            drawn = more
    if not drawn:
        raise UserError(f"transfer: of {len(class_names)} classes no share of {share:g} can be drawn; use more classes or a larger share")
    return sorted(drawn)


def draw_videos(table: pd.DataFrame, shots: int, seed: int) -> pd.DataFrame:
    """Draw the same number of videos of each class; a larger draw with the same seed contains the smaller one.

    Raises: UserError naming a class with fewer videos.
    """
    rows = []
    for label, of_class in table.groupby("label"):
        if len(of_class) < shots:
            raise UserError(f"few-shot: {of_class.class_name.iloc[0]!r} has {len(of_class)} training videos; ask for fewer than {shots}")
        rows += of_class.index[stream(seed, Purpose.DRAW, int(label)).permutation(len(of_class))[:shots]].tolist()
    return table.loc[sorted(rows)]


def listed_videos(manifest: Manifest, file: Path, root: Path) -> pd.DataFrame:
    """The training videos that a list file names (column path, relative to root). Raises: UserError for one that is not there."""
    table = manifest.split("train")
    asked = [str(root / path) for path in read_csv(file).path]
    if missing := sorted(set(asked) - set(table.path)):
        raise UserError(f"{file}: {missing[0]} is no training video of this data set ({len(missing)} are not); correct the list")
    return table[table.path.isin(asked)]


def part_of(manifest: Manifest, table: pd.DataFrame, class_names: Sequence[str]) -> Manifest:
    """A manifest of some rows and classes, in memory alone."""
    digest = hash_texts(manifest.sha256, *class_names, *(f"{row.path}|{row.label}" for row in table.itertuples()))
    return Manifest(table, list(class_names), manifest.folder, digest)


def score(
    run: Run, experiment: Experiment, manifest: Manifest, checkpoint: Path, mix: float = 1.0, split: str = "", own: bool = True
) -> Predictions:
    """Score a split of a data set (default: the reported one), unless its scores are saved.

    own: whether the classes are those of the checkpoint, so that it has a classifier for them.
    """
    backbone, device = open_backbone(experiment), pick_device()
    precision = device_precision(experiment.eval.precision, backbone, device)
    protocol = Protocol.of_experiment(experiment, precision=precision, mix=mix, split=split or experiment.eval.split)
    model, facts = M2CLIP.from_checkpoint(checkpoint, backbone).to(device), checkpoint_facts(checkpoint)
    digest = hash_texts(facts["checkpoint_sha256"], manifest.sha256, repr((protocol, own)))
    folder, name = run.folder / "transfer" / "predictions", f"{experiment.name}-{digest[:16]}"
    score_once(experiment, manifest, model, protocol, folder, {"forwards": name}, facts, None if own else manifest.class_names)
    return load_predictions(folder, name)


def hits_among(found: Predictions, classes: Sequence[int], readout: str = "", labels: Sequence[int] = ()) -> Bool[ndarray, "m"]:
    """Whether each video of some classes is named correctly if only these can be answered; unreadable videos as the protocol says.

    The scores are means over views of a softmax over all classes: with several views, leaving classes out is not quite scoring anew.
    labels: those of the videos, where more classes can be answered.
    """
    scores, chosen, kept = found.readout(readout or found.readouts[-1]), np.array(classes), list(labels) or list(classes)
    rows = np.isin(found.labels, kept)
    hits = is_hit(scores[rows][:, chosen], np.searchsorted(chosen, found.labels[rows]), 1)
    return np.pad(hits, (0, int(np.isin(found.wrong, kept).sum())))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (NaN of a single value), minimum and maximum."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"top1": float(np.mean(values)), "top1_std": deviation, "top1_min": min(values), "top1_max": max(values), "repeats": len(values)}


def columns(found: Sequence[Predictions]) -> dict[str, object]:
    """The protocol's columns of evaluations that share it, and their numbers of videos; several lists are joined."""
    lists = " ".join(dict.fromkeys(str(each.columns()["list_sha256"]) for each in found))
    videos = sorted({len(each.labels) for each in found})
    return found[0].columns() | {"list_sha256": lists, "videos": " ".join(map(str, videos))}


def _with_training(experiment: Experiment, **changed: object) -> Experiment:
    return experiment.model_copy(update={"train": experiment.train.model_copy(update=changed)})


def _saved(run: Run, name: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    run.save(table, f"transfer_{name}")
    return table
