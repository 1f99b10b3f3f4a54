"""A study whose driver is killed: the same command continues it, repeats no finished training, and gives the same tables."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from m2clip_lib import cli, paths

COSTS = ["clips_per_s", "peak_mb", "seconds"]  # what a machine decides


def ablate(run: str) -> list[str]:
    return ["ablate", "tiny", "--study", "quick", "--seeds", "1", "--processes", "1", "--run", run, "-o", "train.epochs=1"]


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert not caught.value.code


@pytest.mark.slow_kills
def test_a_killed_driver_loses_no_finished_training(workspace, capfd):
    """Trains three variants twice, a minute altogether: once without, once with a driver that is killed between two trainings."""
    call("prepare", "tiny")
    call(*ablate("whole"))
    driver = subprocess.Popen([sys.executable, "-m", "m2clip_lib", *ablate("killed")], cwd=paths.ROOT, start_new_session=True)
    folder = paths.RESULTS / "killed" / "ablations"
    deadline = time.monotonic() + 120
    while not (finished := sorted(folder.glob("*/result.json"))):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {file: file.stat().st_mtime_ns for file in finished}
    capfd.readouterr()

    call(*ablate("killed"))
    assert "1 of 3 trainings are finished already" in capfd.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in finished}
    whole, killed = (pd.read_csv(paths.RESULTS / run / "tables" / "ablation.csv").drop(columns=COSTS) for run in ("whole", "killed"))
    pd.testing.assert_frame_equal(whole, killed)
