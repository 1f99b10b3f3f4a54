"""Curves that grow: a picture in words and bytes after every epoch, drawn by the training itself."""

import matplotlib.pyplot as plt
import pandas as pd

from m2clip_lib.config import load_experiment
from m2clip_lib.data.prepare import prepare_data
from m2clip_lib.engine.train import train
from m2clip_lib.viz.live import live_curves


def test_the_picture_follows_the_epochs_of_a_training(workspace):
    """Two epochs on 24 clips, and their videos: about 5 s."""
    experiment = load_experiment("tiny", ["train.epochs=2"])
    manifest = prepare_data(experiment, lambda _line: None)
    shown, tables, pictures = [], [], []
    update = live_curves(8.3, shown.append)
    assert shown[0].value == "waiting for the first epoch"

    def watch(metrics: pd.DataFrame) -> None:
        tables.append(metrics)
        update(metrics)
        pictures.append(shown[0].value)

    result = train(experiment, manifest, "live", lambda _line: None, on_epoch=watch)
    assert [list(table.epoch) for table in tables] == [[1], [1, 2]]
    saved = pd.read_csv(result.metrics)
    pd.testing.assert_frame_equal(tables[-1], saved, check_dtype=False, rtol=1e-6)
    assert len(set(pictures)) == 2
    for epoch, picture in enumerate(pictures, 1):
        assert picture.startswith(f'<img alt="Training after epoch {epoch}: Total loss')
        assert "Best epoch" in picture
    assert not plt.get_fignums()
