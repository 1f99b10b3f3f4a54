"""No training on labels that nobody has checked: where no path tells the classes, frozen CLIP is asked first."""

import json
from collections.abc import Callable

import torch

from m2clip_lib import paths
from m2clip_lib.config import Experiment
from m2clip_lib.data.checks import read_kinetics_names
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.engine.build import first_of_each_class, open_backbone
from m2clip_lib.engine.controls import zero_shot
from m2clip_lib.engine.labelcheck import check_labels, stop_if_permuted, vouched_for
from m2clip_lib.files import write_json

VERDICT_FILE = "label_check.json"  # beside the manifest
VIDEOS_A_CLASS, VIDEOS = 6, 200  # at least so many are looked at: half of them to fit a relabelling, half to judge it


def remember_verdict(manifest: Manifest, accepted: str) -> None:
    """Write down that these labels were compared with frozen CLIP. accepted: what stop_if_permuted gave, "" where all is well."""
    write_json(manifest.folder / VERDICT_FILE, {"manifest": manifest.sha256, "accepted": accepted})


def guard_labels(experiment: Experiment, manifest: Manifest, device: torch.device, report: Callable[[str], None]) -> None:
    """Before a training: compare names and list, unless paths or a table of the dataset vouch for them, or notebook 02 has done it.

    Raises: UserError with counts and three examples where the names are permuted.
    """
    file = manifest.folder / VERDICT_FILE
    verdict = json.loads(file.read_text()) if file.is_file() else {}
    if verdict.get("manifest") == manifest.sha256:
        if verdict["accepted"]:
            report(f"WARNING: {verdict['accepted']}")
        return
    table = experiment.data.check_csv
    if vouched_for(manifest, read_kinetics_names(paths.resolve(table)) if table else None):
        return
    usable = manifest.table[(manifest.table.status == "ok") & (manifest.table.split != "test")]
    usable = usable.sort_values("split", ascending=False, kind="stable").reset_index(drop=True)  # validation first
    rows = first_of_each_class(usable, max(VIDEOS_A_CLASS, -(-VIDEOS // len(manifest.class_names))))
    report(f"labels: no path tells the classes; comparing the names with frozen CLIP on {len(rows)} videos")
    some = Manifest(usable.loc[rows].assign(split="val"), manifest.class_names, manifest.folder, manifest.sha256)
    quick = experiment.model_copy(
        update={
            "data": experiment.data.model_copy(update={"cache_frames": False}),
            "eval": experiment.eval.model_copy(update={"split": "val", "temporal_views": 1, "spatial_views": 1}),
        }
    )
    check = check_labels(zero_shot(quick, some, open_backbone(experiment), device))
    remember_verdict(manifest, stop_if_permuted(check, manifest, accept=False))
    report(f"labels: zero-shot top-1 {check.observed:.1f} %, no other order of the names is clearly better")
