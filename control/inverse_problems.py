"""Inverse problems by name: what is observed of a picture, and how answers are found.

Methods are `pigdm` and `dps` (score controls) and `projection` and `repaint` (state controls); see `control.posterior`
and `control.projection`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError, choose
from score_sde.control.posterior import DPS, Observation, PiGDM
from score_sde.control.projection import Controlled, Projection, RePaint
from score_sde.solvers import Model, Solver
from score_sde.solvers.options import check_between

METHODS = ("pigdm", "dps", "projection", "repaint")
# A side of a picture has at most so many pixels.
_MOST_PIXELS = 100_000


@checked
def box_mask(height: int, width: int, box: tuple[float, ...]) -> Tensor:
    """Return a mask `(1, 1, height, width)`, bool, false in a box `(top, left, height, width)` in parts of the picture.

    Raises:
        UserError: the box does not lie in the picture.
    """
    check_between("height", height, 1, _MOST_PIXELS)
    check_between("width", width, 1, _MOST_PIXELS)
    inside = len(box) == 4 and all(0 <= part <= 1 for part in box)
    if not inside or box[0] + box[2] > 1 or box[1] + box[3] > 1:
        raise UserError(
            f"a box is (top, left, height, width) in parts of the picture, such as 0.25,0.25,0.5,0.5, not {box}"
        )
    top, left = round(box[0] * height), round(box[1] * width)
    bottom, right = round((box[0] + box[2]) * height), round((box[1] + box[3]) * width)
    keep = torch.ones(1, 1, height, width, dtype=torch.bool)
    keep[..., top:bottom, left:right] = False
    return keep


@checked
def random_mask(height: int, width: int, hidden: float, seed: int) -> Tensor:
    """Return a mask `(1, 1, height, width)`, bool, that is false for a share of the pixels, drawn by the seed.

    Raises:
        UserError: a size, the share or the seed is out of range.
    """
    check_between("height", height, 1, _MOST_PIXELS)
    check_between("width", width, 1, _MOST_PIXELS)
    check_between("hidden", hidden, 0, 1)
    check_between("seed", seed, 0, 2**63 - 1)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(height * width, dtype=torch.bool)
    keep[order[: round(hidden * height * width)]] = False
    return keep.reshape(1, 1, height, width)


@checked
def answer(
    method: str,
    solver: Solver,
    model: Model,
    observation: Observation,
    *,
    scale: float = 1.0,
    data_std: float = 1.0,
    jump: int = 1,
    repeats: int = 10,
) -> tuple[Solver, Model]:
    """Return the solver and the model that sample what was observed by this method: `solver(model, x_T, seeds=…)`.

    Args:
        method: `pigdm`, `dps`, `projection` or `repaint`.
        solver: any solver; for `projection` and `repaint`, one that can be taken apart into steps.
        model: a model of pictures.
        observation: what was observed of as many pictures as are solved for at once.
        scale: multiple of the approximate gradient of `pigdm` and `dps`.
        data_std: standard deviation of the data per dimension, for `pigdm`.
        jump: steps that `repaint` goes back at once.
        repeats: how often `repaint` does each stretch of so many steps.

    Raises:
        UserError: there is no such method, a number is out of range, or `dps` is given an observation without noise.
    """
    operator, y = observation.operator, observation.y
    methods: dict[str, Callable[[], tuple[Any, Any]]] = {
        "pigdm": lambda: (solver, PiGDM(model, observation, scale, data_std)),
        "dps": lambda: (solver, DPS(model, observation, scale)),
        "projection": lambda: (Controlled(solver, Projection(operator, y)), model),
        "repaint": lambda: (Controlled(solver, RePaint(operator, y, jump, repeats)), model),
    }
    return choose("method", method, methods)()
