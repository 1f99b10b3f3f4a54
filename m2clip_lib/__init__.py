"""M2CLIP workbook: adapt a frozen CLIP to video action recognition and see what it learned.

Data flows one way: data -> models -> evaluate -> train -> studies; attention beside them, viz and the notebooks on top.
`import m2clip_lib` is the door of the notebooks: the names below load their rooms when they are first used.
"""

import os
import sys
from importlib import import_module

if "ipykernel" in sys.modules:  # in a notebook, figures go into it, whatever MPLBACKEND or matplotlibrc say for windows and scripts
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

__version__ = "0.1.0"

_HOMES = {  # module -> the names it lends
    "attention.focus": ("focus_models", "focus_table"),
    "attention.maps": ("BRANCHES", "MapChoice", "blocks_with_branch"),
    "attention.record": ("guess_words", "word_attention"),
    "config": ("load_experiment",),
    "curate.check": ("check_data",),
    "curate.findings": ("summary_lines",),
    "data.demo.videos": ("draw_video", "write_video"),
    "data.prepare": ("load_manifest", "prepare_data"),
    "data.sampling": ("test_indices",),
    "data.video.compare": ("compare_decoders",),
    "data.video.decode": ("fit_short_side", "read_frames"),
    "evaluate.controls": ("clip_features", "frozen_clip", "zero_shot"),
    "evaluate.cost": ("DATASETS", "comparison_table", "frames_table", "published_costs", "save_comparison"),
    "evaluate.evaluate": ("decoders_note", "predict_checkpoint", "write_tables"),
    "evaluate.honesty": ("honesty_finding",),
    "evaluate.labelcheck": ("check_labels", "require_verdict", "settle_labels"),
    "evaluate.predictions": ("load_predictions", "save_predictions"),
    "evaluate.predict": ("name_video", "parse_labels", "predict_videos"),
    "evaluate.protocol": ("Protocol", "evaluation_views"),
    "evaluate.tables": ("best_rows", "class_table", "headline_finding", "headline_table"),
    "experiment": ("build_model", "open_backbone", "pick_device", "set_threads"),
    "files": ("code_digest",),
    "models": ("M2CLIP", "load_backbone", "multi_task_loss"),
    "models.adapters": ("TEDAdapter",),
    "models.demo_clip": ("stills_table",),
    "models.summary": ("count_table", "trace_shapes"),
    "models.text": ("class_features", "tokenize"),
    "probes.table": ("Probes",),
    "runs": ("Run",),
    "studies.ablate": ("COMPARED", "study_comparisons", "study_findings", "study_tables"),
    "studies.jobs": ("plan_jobs", "run_jobs", "study_key"),
    "studies.studies": ("load_studies",),
    "studies.transfer": ("base_to_novel", "base_training", "few_shot", "zero_shot_transfer"),
    "viz.browser": ("Browser", "Filter", "chosen", "confusions"),
    "viz.browser_panel": ("browse",),
    "viz.explorer": ("Explorer", "model_video"),
    "viz.overlay": ("example_films", "show_mistakes", "write_film"),
    "viz.panel": ("explore", "live_curves"),
    "viz.style": ("literal", "new_figure", "note", "shown"),
    "viz.versus": ("compare_runs", "comparison_html", "runs_table", "saved_evaluations"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'm2clip_lib' has no attribute {name!r}")
    return getattr(import_module(f"m2clip_lib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
