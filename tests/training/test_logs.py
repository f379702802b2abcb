"""What is logged can be read back, and a full disk is a user error."""

from __future__ import annotations

import resource
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from score_sde.common.errors import UserError
from score_sde.common.plots import image_grid
from score_sde.training.logs import Log, Preview
from tests.reading import image


def events_of(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def log_many(log: Log) -> None:
    for step in range(1000):
        log.scalars(step, {"loss": 0.0})
        log.flush()


def test_scalars_and_samples_come_back(tmp_path):
    log = Log(tmp_path, step=0)
    log.scalars(1, {"loss": 0.5, "rate": 2.0})
    log.scalars(2, {"loss": 0.25})
    log.samples(2, Preview("images", np.zeros((9, 8, 8, 1), dtype=np.uint8)))
    log.samples(3, Preview("vectors", np.zeros((9, 2), dtype=np.float32)))
    log.close()
    events = events_of(tmp_path / "logs")
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("rate")] == [(1, 2.0)]
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss,rate", "1,0.5,2", "2,0.25,"]
    assert image(tmp_path / "metrics.png").shape[:2] == (260, 700)
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == ["step_0000002.png", "step_0000003.png"]
    grid, scatter = events.Images("samples")
    assert (grid.step, grid.height, grid.width) == (2, *image_grid(np.zeros((9, 8, 8, 1), dtype=np.uint8)).shape[:2])
    assert (scatter.step, scatter.height, scatter.width) == (3, 600, 600)


def test_what_was_logged_after_the_checkpoint_is_replaced(tmp_path):
    killed = Log(tmp_path, step=0)
    for step in (1, 2, 3):
        killed.scalars(step, {"loss": float(step)})
    killed.close()
    resumed = Log(tmp_path, step=1)
    resumed.scalars(2, {"loss": 20.0})
    resumed.close()
    assert {event.step: event.value for event in events_of(tmp_path / "logs").Scalars("loss")} == {1: 1.0, 2: 20.0}
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "1,1", "2,20"]


def test_a_full_disk_is_a_user_error_without_a_thread_of_complaints(tmp_path, capsys):
    before = threading.excepthook
    log = Log(tmp_path, step=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(UserError, match=f"cannot write {tmp_path}/.*: File too large"):
            log_many(log)
        with pytest.raises(UserError):
            log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert threading.excepthook is before
    assert capsys.readouterr().err == ""
