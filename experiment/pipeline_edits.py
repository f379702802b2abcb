"""Edits by pipelines that are told pictures and masks, and fill in what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.pipeline_conditions import told_beside
from score_sde.models.given import GivenBeside
from score_sde.models.pretrained.stable_diffusion import MASKED
from score_sde.solvers import Model

# Makes the model of all answers, of pictures `(M, C, H, W)`, uint8, and a mask `(H, W)`, True where these are hidden.
FillingIn = Callable[[Tensor, Tensor], Model]


def filling_in_of(experiment: Experiment, guided: Callable[[Any], Model]) -> FillingIn | None:
    """Return what makes the model that fills in; None unless it is that of a pipeline which is told masks.

    Args:
        experiment: the model, and what the section `edit` asks for.
        guided: guides a model of all answers as the section `sampling` has it.

    Raises:
        UserError: another task is asked for than to fill in.
    """
    pipeline = None if experiment.found is None else experiment.found.pipeline
    if pipeline is None or MASKED not in pipeline.beside:
        return None
    edit = experiment.config.edit
    if edit.task != "inpaint":
        raise UserError(f"this pipeline fills in what is hidden of pictures: edit.task=inpaint, not {edit.task}")

    def filling_in(pictures: Tensor, hidden: Tensor) -> Model:
        height, width = hidden.shape
        told = told_beside(pipeline, {"picture": pictures, "mask": hidden}, len(pictures), (height, width))
        assert told is not None
        of_answers = told[torch.arange(len(pictures)).repeat_interleave(edit.num_samples)]
        return guided(GivenBeside(experiment.model, of_answers.to(distributed.device())))

    return filling_in
