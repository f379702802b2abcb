"""The trained network that a benchmark is about."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.experiment import build, runs
from score_sde.models import QuantisedModel, ScoreModel


class Trained(NamedTuple):
    """The newest network of a working folder is ready to be used, with what it was trained with.

    Attributes:
        model: the model, without gradients for its parameters.
        dataset: the data it was trained on.
        config: configuration of the run.
        path: path of the checkpoint.
    """

    model: ScoreModel | QuantisedModel
    dataset: Dataset
    config: ConfigDict
    path: Path


def trained_network(workdir: Path) -> Trained:
    """Read the newest network of `workdir`.

    Raises:
        UserError: the folder has none.
    """
    config, found = runs.configuration_to_use(None, workdir, None, [])
    if found is None:
        raise UserError(f"{workdir} holds a mixture, not a network")
    dataset = build.make_dataset(config)
    model = found.make_model(config, dataset)
    assert isinstance(model, (ScoreModel, QuantisedModel))
    return Trained(model.eval().requires_grad_(False), dataset, config, found.path)
