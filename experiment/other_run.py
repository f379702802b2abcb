"""Another run of the same data and process, whose model is used beside that of a run: a teacher, or a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.files import at_home
from score_sde.data import Dataset
from score_sde.experiment import checkpoints, configuration
from score_sde.models import NoisyClassifier
from score_sde.models.autoencoder import Autoencoder
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.sde import SDE
from score_sde.training import checkpoint

# Where two processes are compared, in parts of T.
_PLACES = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def newest(place: str) -> Path:
    """Return a checkpoint, or the newest one of the run in this folder."""
    path = at_home(place)
    return checkpoint.latest(path / "checkpoints") or path


def load(place: str, what: str, config: ConfigDict, dataset: Dataset, sde: SDE) -> tuple[Any, ConfigDict]:
    """Load the model of another run, for use alone, and its configuration.

    Args:
        place: its folder, or one of its checkpoints.
        what: what it is used as, with its article, for messages.
        config: the configuration of the run that uses it.
        dataset: the data of both.
        sde: the process of both.

    Raises:
        UserError: there is no such run, or it is of other data or another process.
    """
    found = checkpoints.find(newest(place))
    if found.config is None:
        raise UserError(f"{found.path} does not say what it was trained with: {what} is a run of this project")
    trained_with = configuration.from_dict(found.config, str(found.path))
    for key in ("data.low", "data.high", "data.uniform_dequantisation"):
        if key in configuration.differences(config, trained_with, ("data",)):
            raise UserError(f"{found.path} was trained with another {key}: give the same")
    model = found.make_model(trained_with, dataset)
    if found.data is not None:
        dataset.check_units(found.data, str(found.path))
    if isinstance(model, NoisyClassifier):
        raise UserError(f"{found.path} is a classifier, which has no flow")
    if isinstance(model, Autoencoder):
        raise UserError(f"{found.path} is an autoencoder, which has no flow: data.autoencoder is where it is of use")
    if isinstance(model, JointEmbedding):
        raise UserError(f"{found.path} is a joint embedding, which has no flow")
    _check_same(sde, model.sde, str(found.path))
    return model.to(distributed.device()).eval().requires_grad_(False), trained_with


def _check_same(sde: SDE, other: SDE, where: str) -> None:
    """Raise `UserError` unless two processes have the same marginals."""
    places = torch.tensor(_PLACES, dtype=torch.float64)
    if sde.T == other.T:
        here, there = sde.at(places * sde.T), other.at(places * other.T)
        if torch.allclose(here.alpha, there.alpha, rtol=1e-6) and torch.allclose(here.sigma, there.sigma, rtol=1e-6):
            return
    raise UserError(f"{where} was trained with another process: give the same section sde")
