"""Training curves that grow while a notebook trains."""

from collections.abc import Callable

import ipywidgets
import pandas as pd
from IPython.display import display

from m2clip_lib.viz.picture import figure_html
from m2clip_lib.viz.plots import plot_losses, plot_validation
from m2clip_lib.viz.style import new_figure


def live_curves(chance: float, show: Callable[[ipywidgets.Widget], object] = display) -> Callable[[pd.DataFrame], None]:
    """Display an empty picture; returns what train() calls after each epoch with its table so far, to redraw it.

    chance: accuracy of guessing, percent.
    """
    picture = ipywidgets.HTML("waiting for the first epoch")
    show(picture)

    def update(metrics: pd.DataFrame) -> None:
        figure, (left, right) = new_figure(12, 4.8, columns=2)
        plot_losses(left, metrics)
        plot_validation(right, metrics, chance)
        picture.value = figure_html(figure, f"Training after epoch {int(metrics.epoch.iloc[-1])}:")

    return update
