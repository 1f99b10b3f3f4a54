"""m2clip ablate, features and probe, as typed."""

import pandas as pd
import pytest

from m2clip_lib import cli

QUICK = ["-o", "train.epochs=1", "-o", "eval.honesty=false"]


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.mark.slow
def test_studies_and_probes_are_run_from_the_command_line_and_not_repeated(workspace, capsys):
    """Prepares 48 videos, trains two variants for an epoch each, and sixty small heads."""
    assert call(capsys, "prepare", "tiny")[0] == 0
    study = ["ablate", "tiny", "--study", "losses", "--seeds", "1", "--processes", "1", *QUICK]
    status, out, err = call(capsys, *study)
    assert status == 0, err
    assert "Do the details of the losses matter?" in out
    assert "cannot be told apart" in out
    table = pd.read_csv(workspace / "results" / "tiny" / "tables" / "ablation_losses.csv")
    assert table.variant.unique().tolist() == ["full", "cross-modal as published", "half of the words masked", "all words masked"]
    assert (table.gflops > 0).all()
    assert (table.peak_mb > 10).all()
    status, out, _ = call(capsys, *study)
    assert status == 0
    assert "4 of 4 trainings are finished already" in out

    status, out, err = call(capsys, "features", "tiny", "--split", "train,val")
    assert status == 0, err
    assert "features: split train: 24 videos, 0 could not be read" in out
    status, out, err = call(capsys, "probe", "tiny", "--seeds", "1", "--patches")
    assert status == 0, err
    assert pd.read_csv(workspace / "results" / "tiny" / "tables" / "probes.csv").kind.tolist() == [
        "linear",
        "attentive",
        "temporal convolution",
        "attentive on patches",
    ]


def test_an_unknown_study_or_split_ends_with_one_line(workspace, capsys):
    status, _, err = call(capsys, "ablate", "tiny", "--study", "quik")
    assert status == 2
    assert err.startswith("m2clip: study 'quik': not in ")
    assert len(err.splitlines()) == 1
