"""Does relevance fall on the moving object?"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m2clip_lib.viz.style import BLUE, GREY, ORANGE

LOOKS = (("o", BLUE), ("D", ORANGE), ("x", GREY))  # the model of the run first


def plot_focus(ax: Axes, table: pd.DataFrame) -> Axes:
    """Share of relevance inside the object's box, per class and model, beside the box's share of the area (focus_table); percent."""
    models, classes = list(dict.fromkeys(table.model)), list(dict.fromkeys(table.class_name))
    places = np.arange(len(classes))
    wide = table.pivot(index="class_name", columns="model", values="inside").loc[classes]
    area = table[table.model == models[0]].set_index("class_name").area.loc[classes]
    ax.barh(places, area, color="#D9D9D9", height=0.75, label="the box's share of the picture")
    for model, (marker, colour) in zip(models, LOOKS, strict=False):
        ax.scatter(wide[model], places, marker=marker, color=colour, s=90, linewidth=2.5, zorder=3, label=model)
    ax.set_yticks(places, classes)
    ax.invert_yaxis()
    ax.set_xlim(0, max(40, 1.1 * float(table.inside.max())))
    ax.set_xlabel("relevance inside the object's box, % of the clip's relevance")
    ax.grid(axis="y", visible=False)
    ratio = table.groupby("model").inside.mean() / table.groupby("model").area.mean()
    above = int((wide[models[0]] > area).sum())
    others = ", ".join(f"{model} {ratio[model]:.1f}" for model in models[1:])
    ax.set_title(
        f"The object's box holds {ratio[models[0]]:.1f} times its share of relevance,\n"
        f"more than its share in {above} of {len(classes)} classes" + (f"\n({others} times)" if others else "")
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=12)
    return ax
