"""The workbook's figures. Every function takes axes and tables, returns the axes, and writes the finding into the title."""

from m2clip_lib.viz.plots.attention import plot_focus, plot_timeline, plot_word_attention
from m2clip_lib.viz.plots.backbone import plot_block, plot_relabelling, plot_stills, plot_text_similarity, plot_walk, plot_zero_shot
from m2clip_lib.viz.plots.data import plot_class_balance, plot_clip_grid, plot_durations, plot_status
from m2clip_lib.viz.plots.evaluation import (
    plot_ablation,
    plot_confusion,
    plot_cost,
    plot_embedding,
    plot_gain,
    plot_models,
    plot_per_class,
)
from m2clip_lib.viz.plots.training import plot_losses, plot_runs, plot_validation
from m2clip_lib.viz.plots.transfer import plot_dial, plot_few_shot
from m2clip_lib.viz.plots.trust import plot_abstention, plot_honesty, plot_mix, plot_reliability
