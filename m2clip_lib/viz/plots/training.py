"""Figures of the training step: the losses and the validation accuracy over epochs."""

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from m2clip_lib.viz.style import BLUE, GREEN, ORANGE, READOUT_COLOURS, RED, chance_line

LOSSES = {"contrastive": "contrastive", "cross_modal": "cross-modal", "classification": "classification", "mlm": "masked words"}


def plot_losses(ax: Axes, metrics: pd.DataFrame) -> Axes:
    """The four loss terms over epochs (metrics.csv), unweighted."""
    _curves(ax, metrics, LOSSES, (BLUE, ORANGE, GREEN, RED), ("-", "--", "-.", ":"))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    first, last = metrics.total.iloc[0], metrics.total.iloc[-1]
    ax.set(ylabel="training loss, nats (log scale)", title=f"Total loss: {first:.1f} → {last:.2f}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=12)
    return ax


def plot_validation(ax: Axes, metrics: pd.DataFrame, chance: float) -> Axes:
    """Validation top-1, or mAP, of the read-outs over epochs (metrics.csv), percent."""
    measure, word = ("val_mean_ap", "mAP") if "val_mean_ap_ensemble" in metrics else ("val_top1", "top-1")
    values = metrics[f"{measure}_ensemble"]
    _curves(ax, metrics, {f"{measure}_{name}": name for name in READOUT_COLOURS}, READOUT_COLOURS.values(), ("--", ":", "-"))
    chance_line(ax, chance, vertical=False)
    ax.set(ylim=(0, 100), ylabel=f"validation {word}, %")
    if values.isna().all():
        ax.set_title("No validation split: the last epoch counts as the best")
        return ax
    best = values[::-1].idxmax()
    ax.set_title(f"Best epoch {int(metrics.epoch[best])}: {values[best]:.1f} %")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=12)
    return ax


def plot_runs(ax: Axes, metrics: Mapping[str, pd.DataFrame]) -> Axes:
    """Validation top-1 of the ensemble over epochs, one curve per run (its metrics.csv), percent."""
    looks = zip((BLUE, ORANGE, GREEN, RED), ("-", "--", "-.", ":"), strict=True)
    for (name, table), (colour, line) in zip(metrics.items(), looks, strict=False):
        shown = table.dropna(subset=["val_top1_ensemble"])
        ax.plot(shown.epoch, shown.val_top1_ensemble, color=colour, linestyle=line, linewidth=2.5, marker="o", markersize=4, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    told = " and ".join(f"{table.val_top1_ensemble.max():.1f} %" for table in metrics.values())  # names may be long: the legend has them
    ax.set(ylim=(0, 100), xlabel="epoch", ylabel="validation top-1, %", title=f"Best epochs: {told}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=12)
    return ax


def _curves(ax: Axes, metrics: pd.DataFrame, names: dict[str, str], colours: Iterable[str], lines: Iterable[str]) -> None:
    for (column, name), colour, line in zip(names.items(), colours, lines, strict=True):
        shown = metrics.dropna(subset=[column])  # not every epoch need be validated
        ax.plot(shown.epoch, shown[column], color=colour, linestyle=line, linewidth=2.5, marker="o", markersize=4, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = ax.get_xlim()
    if high - low < 1:  # one epoch
        ax.set_xlim(round(low) - 0.5, round(high) + 0.5)
    ax.set_xlabel("epoch")
