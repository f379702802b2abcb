"""What edits are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common.part import Part
from score_sde.data import Dataset
from score_sde.solvers import Model
from score_sde.solvers.base import Solver


class Editor(NamedTuple):
    """An editor holds what edits are made with.

    Attributes:
        config: the configuration.
        dataset: the data that the model was trained on.
        model: the model of all answers, of which `models.rows_of` gives that of a batch.
        solver: the solver that finds answers.
        settings: plain values by name that decide the answers.
        labels: classes of the answers, if any are asked for.
        of_part: makes the model of a part of each answer, of a model that is told of parts.
        filling_in: makes the model of all answers, of a pipeline that is told pictures and a mask of what is hidden.
    """

    config: ConfigDict
    dataset: Dataset
    model: Model
    solver: Solver
    settings: dict[str, Any]
    labels: Tensor | None = None
    of_part: Callable[[Part], Model] | None = None
    filling_in: Callable[[Tensor, Tensor], Model] | None = None
