"""What is hidden of examples, drawn by a model that was trained to be told the rest (`data.masks`, `data.missing`).

The model of the hidden part, `p(x_hidden | x_known)`, is guided as any other: towards what is asked for, and away from
what is not, each given the same known part.
"""

from __future__ import annotations

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.part import Part
from score_sde.experiment import build
from score_sde.experiment.conditions import Guides, make_guidance
from score_sde.experiment.parts import is_told_of_parts
from score_sde.models import GaussianMixture, part_of
from score_sde.models.part import PartOf
from score_sde.solvers import Model

# The name of inpainting by a model that is told of parts, and that of doing so by one that is not.
TRAINED, OTHERWISE = "trained", "pigdm"


def method_of(config: ConfigDict) -> str:
    """Return the method by which answers of the section `edit` are found.

    Raises:
        UserError: it is that of a model which is told of parts, and this is none, or the task is not to inpaint.
    """
    edit = config.edit
    fits = edit.task == "inpaint" and is_told_of_parts(config)
    if edit.method == TRAINED and not fits:
        raise UserError(
            f"edit.method={TRAINED} is for edit.task=inpaint, of a model that was told of masks, as "
            "configs/vp/digits_masked.py has it: take another, such as pigdm"
        )
    if edit.method is not None:
        return edit.method
    return TRAINED if fits and not edit.noise_std else OTHERWISE


def model_of_part(
    config: ConfigDict,
    model: build.AnyModel,
    part: Part,
    asked: Condition | None,
    guides: Guides,
    away: Condition | None = None,
) -> Model:
    """Return the model of a part of each sample, given another, guided as the section `sampling` has it; a mixture's is
    exact.

    Args:
        config: the configuration.
        model: the score model, which is told of parts.
        part: what of each sample is modelled, and what is given.
        asked: what samples are asked to be; None if they may be anything.
        guides: what guides, beside the model itself.
        away: what samples are led away from, one row for each or for all; None for anything.

    Raises:
        UserError: there is nothing to guide to, or what guides was not told of parts.
    """
    if guides.classifier is not None or guides.reference is not None:
        raise UserError(
            "sampling.classifier and sampling.reference know whole examples, not parts of them: leave them out"
        )
    if asked is None:
        # Complains of guidance to nothing.
        make_guidance(config, model, None, guides, away)
    part = part.to(distributed.device())
    if isinstance(model, GaussianMixture) and asked is None:
        return part_of(model, part)
    told, rest = (None if condition is None else _of_all(condition, len(part)) for condition in (asked, away))
    guided = make_guidance(config, model, part.beside(told), guides, part.beside(rest))
    return PartOf(guided, part)


def _of_all(condition: Condition, count: int) -> Condition:
    """Return a condition on the device, for so many samples, of one that has a row for each or one for all."""
    rows = torch.arange(count) if len(condition) == count else torch.zeros(count, dtype=torch.long)
    return condition[rows].to(distributed.device())
