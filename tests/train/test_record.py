"""Warnings that name a cause."""

import pytest

from m2clip_lib.data.dataset import worker_deaths_explained
from m2clip_lib.errors import UserError
from m2clip_lib.train.record import idle_warning, starved_warning


def test_waiting_for_clips_is_reported_above_thirty_percent_with_remedies():
    assert starved_warning(waited=29, seconds=100, workers=4) == ""
    line = starved_warning(waited=60, seconds=100, workers=4)
    assert all(part in line for part in ("60 %", "data.workers (now 4)", "transcode", "data.cache_frames"))


def test_an_adapter_is_idle_when_none_of_its_parameters_has_a_gradient():
    names = ["visual_adapters.3.pre_mlp.enhancement.fc1.weight", "visual_adapters.3.pre_mlp.enhancement.fc2.bias"]
    names += ["text_adapters.2.pre_mlp.fc1.weight", "classifier.weight"]
    assert "the gradients of text_adapters.2.pre_mlp were exactly zero" in idle_warning(names, [False, True, False, False])
    assert idle_warning(names, [True] * 4) == ""


def test_a_killed_loader_process_is_one_clear_line():
    message = r"a loader process died \(DataLoader worker .*Killed\); most often memory ran out"
    with pytest.raises(UserError, match=message), worker_deaths_explained():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")
    with pytest.raises(RuntimeError, match="another"), worker_deaths_explained():
        raise RuntimeError("another")
