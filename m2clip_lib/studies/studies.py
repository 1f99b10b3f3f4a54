"""Studies: named lists of variants of one experiment, which differ from it in one named change each (STUDIES in configs/config.py)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from m2clip_lib import paths
from m2clip_lib.config import Experiment, load_experiment, read_config_file
from m2clip_lib.errors import UserError

log = logging.getLogger(__name__)

BASE = "full"  # the name of the experiment itself among the variants of any study


@dataclass(frozen=True)
class Study:
    """A question, and the variants whose comparison answers it: name -> what it changes, written as after -o."""

    name: str
    question: str
    variants: dict[str, tuple[str, ...]]

    @property
    def stem(self) -> str:
        """What the names of its tables and figures begin with."""
        return "ablation" if self.name == "quick" else f"ablation_{self.name}"

    def table(self) -> pd.DataFrame:
        """What each variant changes in the experiment."""
        return pd.DataFrame([{"variant": name, "change": ", ".join(change) or "none"} for name, change in self.variants.items()])


def load_studies(experiment: Experiment, names: Sequence[str], overrides: Sequence[str] = (), variants: Sequence[str] = ()) -> list[Study]:
    """Read studies and check that an experiment can run them. The experiment itself is a variant of each, called BASE.

    Args:
        names: of STUDIES, or "all": those that name this experiment, or none; variants that do what it does anyway are left out there.
        overrides: of the experiment. variants: only these of every study.
    Raises: UserError naming the study and the variant that is unknown, changes nothing, does what another does, or does not fit.
    """
    known, shown = read_config_file().get("STUDIES", {}), paths.shown(paths.CONFIG)
    everything = list(names) == ["all"]
    for name in [] if everything else names:
        if name not in known:
            raise UserError(f"study {name!r}: not in {shown}; it has: {', '.join(known) or 'no STUDIES'}")
    studies = [_study(name, known[name], shown) for name in (known if everything else names)]
    if everything:
        studies = [study for study in studies if experiment.name in known[study.name].get("experiments", [experiment.name])]
    everywhere: dict[str, tuple[str, ...]] = {}
    kept = []
    for study in studies:
        if unknown := [name for name in variants if name not in study.variants]:
            raise UserError(f"study {study.name!r}: no variant {unknown[0]!r}; choose from: {', '.join(study.variants)}")
        seen, own = {_fields(experiment, overrides, ()): BASE}, {}
        for name, change in study.variants.items():
            if everywhere.setdefault(name, change) != change:
                raise UserError(f"studies: variant {name!r} has two meanings in {shown}; a name stands for one change")
            other = seen.setdefault(_fields(experiment, overrides, change), name)
            if other == name:
                own[name] = change
            elif everything and other == BASE:
                log.warning("study %s: %r is what experiment %s does anyway, so it is left out", study.name, name, experiment.name)
            else:
                same = f"variants {other!r} and {name!r} of experiment {experiment.name!r} are the same"
                raise UserError(f"study {study.name!r}: {same}; take one of them out of {shown}")
        kept.append(Study(study.name, study.question, own))
    keep = set(variants)
    return [Study(s.name, s.question, {n: c for n, c in s.variants.items() if not keep or n in keep}) for s in kept]


def _study(name: str, entry: object, shown: str) -> Study:
    if not isinstance(entry, dict) or set(entry) - {"experiments"} != {"question", "variants"}:
        raise UserError(f"{shown}, study {name!r}: give a question and variants, each a list of changes as after -o")
    known, asked = read_config_file()["EXPERIMENTS"], entry.get("experiments", [])
    if not isinstance(asked, list | tuple) or set(asked) - set(known):
        raise UserError(f"{shown}, study {name!r}: experiments is {asked!r}; give a list of names of EXPERIMENTS")
    changes = {variant: tuple(change) for variant, change in entry["variants"].items()}
    return Study(name, entry["question"], changes if BASE in changes else {BASE: (), **changes})


def _fields(experiment: Experiment, overrides: Sequence[str], change: Sequence[str]) -> str:
    return load_experiment(experiment.name, [*overrides, *change]).model_dump_json()
