"""What the interactive notebooks are made of: a test video with its attention and its predictions, as data, picture and widget."""

import html
import io
from dataclasses import dataclass

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from m2clip_lib.data.dataset import collate
from m2clip_lib.data.manifest import Manifest
from m2clip_lib.data.transforms import to_model_input
from m2clip_lib.engine.build import open_backbone, test_views
from m2clip_lib.engine.evaluate import Predictions, load_predictions
from m2clip_lib.engine.protocols import top_ids
from m2clip_lib.models import M2CLIP
from m2clip_lib.runs import Run
from m2clip_lib.viz.attention import cls_patch_maps, plot_attention
from m2clip_lib.viz.style import new_figure


@dataclass
class Explorer:
    """A trained model, the evaluation videos of its run, and their saved predictions."""

    model: M2CLIP
    predictions: Predictions
    table: pd.DataFrame
    run: Run
    manifest: Manifest

    @classmethod
    def open(cls, run: Run, manifest: Manifest) -> "Explorer":
        """Load a run's best checkpoint and predictions. Raises: UserError saying which step is missing."""
        split = run.experiment.eval.split
        model = M2CLIP.from_checkpoint(run.checkpoint, open_backbone(run.experiment))
        # Decoding the few videos that are looked at is faster than opening a frame cache.
        data = run.experiment.data.model_copy(update={"cache_frames": False})
        looking = run.experiment.model_copy(update={"data": data})
        run = Run(run.name, looking, run.step)
        return cls(model, load_predictions(run.predictions, split), manifest.split(split), run, manifest)

    @property
    def blocks(self) -> int:
        """Visual blocks to choose from."""
        return len(self.model.clip.visual.transformer.resblocks)

    def clip(self, row: int) -> torch.Tensor:
        """The first view of a video: (t, 3, s, s) uint8 RGB."""
        views = test_views(self.run.experiment, self.manifest, self.run.experiment.eval.split, self.model.backbone)
        return collate([views[row]]).clips[0, 0]

    def figure(self, row: int, block: int) -> Figure:
        """Frames and attention of one video."""
        clip = self.clip(row)
        video = to_model_input(clip[None], self.model.backbone.mean, self.model.backbone.std)
        figure, axes = new_figure(12, 3.9, rows=2)
        plot_attention(tuple(axes), clip.permute(0, 2, 3, 1).numpy(), cls_patch_maps(self.model, video, block), block)
        return figure

    def ranking(self, row: int, top: int = 5) -> pd.DataFrame:
        """The best classes of every read-out for one video, scores in percent."""
        place = self.predictions.rows.index(row)
        columns = {}
        for readout in self.predictions.readouts:
            scores = self.predictions.readout(readout)[place]
            ids = top_ids(scores[None], top)[0]
            columns[readout] = [f"{self.predictions.class_names[i]}  {100 * scores[i]:.1f} %" for i in ids]
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(ids) + 1, name="rank"))

    def surest_mistake(self) -> int:
        """Row of the wrongly classified video the ensemble was surest of; of the least sure one if there is no mistake."""
        scores, labels = self.predictions.readout("ensemble"), self.predictions.labels
        wrong = scores.argmax(axis=1) != labels
        place = np.where(wrong, scores.max(axis=1), -scores.max(axis=1)).argmax()
        return self.predictions.rows[int(place)]

    def surest_hit(self) -> int:
        """Row of the rightly classified video the ensemble was surest of."""
        scores, labels = self.predictions.readout("ensemble"), self.predictions.labels
        right = scores.argmax(axis=1) == labels
        return self.predictions.rows[int(np.where(right, scores.max(axis=1), -1).argmax())]


def explore(explorer: Explorer) -> ipywidgets.Widget:
    """Choose a class, a video and a block; see frames, attention and rankings."""
    rows = explorer.table.reset_index(drop=True)
    usable = rows.loc[explorer.predictions.rows]
    class_choice = ipywidgets.Dropdown(options=list(dict.fromkeys(usable.class_name)), description="class")
    video_choice = ipywidgets.IntSlider(min=1, max=1, description="video", continuous_update=False)
    block_choice = ipywidgets.IntSlider(value=explorer.blocks, min=1, max=explorer.blocks, description="block", continuous_update=False)
    # Image and HTML rather than an Output widget: executed by papermill, an Output can wait for its kernel for ever.
    picture, text = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def show(*_: object) -> None:
        of_class = usable.index[usable.class_name == class_choice.value]
        video_choice.max = len(of_class)
        row = int(of_class[min(video_choice.value, len(of_class)) - 1])
        picture.value = _png(explorer.figure(row, block_choice.value - 1))
        truth = f"<p>{html.escape(rows.path[row])}: true class “{html.escape(rows.class_name[row])}”</p>"
        text.value = explorer.ranking(row).to_html() + truth

    for choice in (class_choice, video_choice, block_choice):
        choice.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([class_choice, video_choice, block_choice]), picture, text])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    plt.close(figure)
    return buffer.getvalue()
