"""Keys of the section `training` that an objective does not use are named, and change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from score_sde.experiment.objectives import unused_keys
from tests.modes.test_main import run

SMALL = ["num_steps=2", "log_every=1", "sample_every=0", "evaluate_every=0", "learning_rate=1e-3"]
BY_HAND = {"weighting": "sigma2", "times": "loss_aware", "t_min": "0.2"}


@pytest.mark.parametrize("name", ["digits_vdm", "digits_iddpm"])
def test_what_an_objective_does_not_use_is_noted_and_changes_no_loss(name: str, tmp_path: Path, capsys) -> None:
    objective = {"digits_vdm": "variational", "digits_iddpm": "hybrid"}[name]
    unused = unused_keys(objective, BY_HAND)
    losses = []
    for by_hand in ([], unused):
        given = [f"--config.training.{key}={BY_HAND[key]}" for key in by_hand]
        folder = tmp_path / str(len(given))
        flags = ["--mode=train", f"--config=configs/vp/{name}.py", f"--workdir={folder}", "--config.model.channels=8"]
        flags += ["--config.model.num_blocks=1", *(f"--config.training.{small}" for small in SMALL), *given]
        assert run(*flags) == 0
        told = capsys.readouterr().err
        assert [f"objective {objective!r} does not use training.{key}" in told for key in unused] == [
            bool(given)
        ] * len(unused)
        assert "learning_rate" not in told
        losses.append(np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)["loss"])
    np.testing.assert_array_equal(losses[0], losses[1])
