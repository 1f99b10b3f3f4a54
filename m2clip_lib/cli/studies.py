"""m2clip ablate, features and probe: the trainings of a study and its tables; frozen features, and probes on them."""

from typing import Annotated

import typer

from m2clip_lib.cli.options import ExperimentName, Overrides, RunName, say


def ablate(
    experiment: ExperimentName = "",
    study: Annotated[str, typer.Option("--study", metavar="NAME[,NAME]", help="Of STUDIES in configs/config.py, or all.")] = "quick",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of every variant.")] = 3,
    run: RunName = "",
    processes: Annotated[int, typer.Option("--processes", min=0, help="At a time; 0: one per core, or one per GPU.")] = 0,
    cluster: Annotated[str, typer.Option("--cluster", metavar="slurm", help="Submit the trainings (submitit) and wait for them.")] = "",
    override: Overrides = None,
) -> None:
    """Train every variant of a study with every seed, and write its tables to results/NAME/tables.

    Finished trainings are not repeated: the same command continues what was interrupted. Notebook 05 shows the result.
    """
    from m2clip_lib.config import load_experiment
    from m2clip_lib.studies.studies import load_studies

    overrides = override or []
    loaded = load_experiment(experiment, overrides)
    studies = load_studies(loaded, study.split(","), overrides)  # before torch is imported, which takes seconds
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.labelcheck import require_verdict
    from m2clip_lib.evaluate.tables import measure_of
    from m2clip_lib.runs import Run, own_run
    from m2clip_lib.studies.ablate import COMPARED, study_findings, study_tables
    from m2clip_lib.studies.jobs import plan_jobs, run_jobs, study_key

    opened = Run.open(experiment, run, overrides, step="ablate")
    manifest = load_manifest(loaded)
    require_verdict(loaded, manifest, say)
    with own_run(opened.name, "ablate"):
        key = study_key(loaded, manifest)
        planned = {each.name: plan_jobs(loaded, opened.name, overrides, each, range(seeds), key) for each in studies}
        run_jobs([job for jobs in planned.values() for job in jobs], processes, say, cluster)
        for each in studies:
            made = study_tables(opened, each, planned[each.name])
            say(f"\n{each.question}  ({opened.tables / each.stem}.csv)")
            best = made["_summary"][made["_summary"].readout == made["_summary"].readout.iloc[-1]]
            measure = measure_of(best)
            shown = ["variant", "seeds", "trainable", measure, f"{measure}_min", f"{measure}_max", "direction", "backwards_true", "seconds"]
            say(best.filter(shown).to_string(index=False, float_format="%.1f"))
            for sentence in study_findings(made["_tests"], COMPARED[measure]):
                say(f"- {sentence}")


def features(
    experiment: ExperimentName = "",
    split: Annotated[str, typer.Option("--split", metavar="SPLIT[,SPLIT]", help="Which splits.")] = "train,val,test",
    patches: Annotated[bool, typer.Option("--patches", help="Patches after the last block, in place of each frame's embedding.")] = False,
    override: Overrides = None,
) -> None:
    """Encode every clip with frozen CLIP, once, and keep the frame features (float16); probes read them. It can be stopped and continued.

    The protocol is the experiment's: -o eval.views=4x3 encodes twelve views of each video.
    """
    from m2clip_lib.config import load_experiment

    loaded = load_experiment(experiment, override or [])
    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.evaluate.processes import Processes
    from m2clip_lib.evaluate.protocol import Protocol
    from m2clip_lib.experiment import open_backbone
    from m2clip_lib.probes.features import split_features

    manifest, backbone, processes = load_manifest(loaded), open_backbone(loaded), Processes()
    for name in split.split(","):
        found = split_features(loaded, manifest, backbone, Protocol.of_experiment(loaded, split=name), processes, say, patches)
        if processes.is_main:
            say(f"features: split {name}: {len(found.rows)} videos, {len(found.failed)} could not be read")


def probe(
    experiment: ExperimentName = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of every kind.")] = 3,
    run: RunName = "",
    patches: Annotated[bool, typer.Option("--patches", help="Also an attentive probe on patches, whose features are large.")] = False,
    override: Overrides = None,
) -> None:
    """Train linear, attentive and temporal probes on features of frozen CLIP: the rivals of an adapter (tables/probes.csv).

    Twenty settings of each are trained at once; the validation split chooses, unless it is the one that is reported.
    """
    from m2clip_lib.config import load_experiment

    overrides = override or []
    loaded = load_experiment(experiment, overrides)
    import pandas as pd

    from m2clip_lib.data.prepare import load_manifest
    from m2clip_lib.experiment import open_backbone
    from m2clip_lib.probes.table import ON_PATCHES, Probes, probe_table
    from m2clip_lib.runs import Run

    opened = Run.open(experiment, run, overrides, step="probe")
    inputs = (loaded, load_manifest(loaded), open_backbone(loaded), say)
    tables = [probe_table(Probes(*inputs), seeds)]
    tables += [probe_table(Probes(*inputs, patches=True), seeds, [ON_PATCHES])] if patches else []
    table = pd.concat(tables, ignore_index=True)
    opened.save(table, "probes")
    shown = ["kind", "sees_order", "seed", "lr", "weight_decay", "top1", "top1_low", "top1_high", "mean_ap", "direction", "backwards_true"]
    say(table.filter(shown).to_string(index=False, float_format="%.4g"))
