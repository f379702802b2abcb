"""Inverse problems by name: what is observed of an example, and how answers are found.

Methods are `pigdm`, `dps` and `mmps` (score controls), `tds` (a sampler) and `projection` and `repaint` (state
controls); see `control.posterior`, `control.twisted` and `control.projection`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError, choose
from score_sde.control.operators import check_linear
from score_sde.control.posterior import DPS, MMPS, Observation, PiGDM
from score_sde.control.projection import Controlled, Projection, RePaint
from score_sde.control.twisted import TDS
from score_sde.sde import SDE
from score_sde.solvers import Model, Solver
from score_sde.solvers.base import Draw, Solution
from score_sde.solvers.options import check_between
from score_sde.solvers.trajectory import Watch

METHODS = ("pigdm", "dps", "mmps", "tds", "projection", "repaint")
# An axis has at most so many places.
_MOST_PLACES = 100_000
# What a box is along one, two or three axes: starts, then lengths.
_BOXES = {
    1: "(start, length)",
    2: "(top, left, height, width)",
    3: "(front, top, left, depth, height, width)",
}


@checked
def box_mask(sizes: Sequence[int], box: tuple[float, ...]) -> Tensor:
    """Return a mask `(1, 1, *sizes)`, bool, that is false in a box.

    Args:
        sizes: the sizes of one to three axes: a series' length, a picture's height and width.
        box: where the box starts along each axis, then how long it is, in parts of the size: of a picture `(top, left,
            height, width)`; or one start and one length for every axis.

    Raises:
        UserError: a size is out of range, or the box does not lie in the example.
    """
    axes = _check_sizes(sizes)
    starts, lengths = ([box[0]] * axes, [box[1]] * axes) if len(box) == 2 else (box[:axes], box[axes:])
    inside = len(starts) == len(lengths) == axes and all(0 <= part <= 1 for part in box)
    if not inside or any(start + length > 1 for start, length in zip(starts, lengths, strict=True)):
        such = ",".join(["0.25"] * axes + ["0.5"] * axes)
        raise UserError(f"a box is {_BOXES[axes]} in parts of the example, such as {such}, not {tuple(box)}")
    keep = torch.ones(1, 1, *sizes, dtype=torch.bool)
    places = (
        slice(round(start * size), round((start + length) * size))
        for start, length, size in zip(starts, lengths, sizes, strict=True)
    )
    inside_box: tuple[Any, ...] = (..., *places)
    keep[inside_box] = False
    return keep


@checked
def random_mask(sizes: Sequence[int], hidden: float, seed: int) -> Tensor:
    """Return a mask `(1, 1, *sizes)`, bool, that is false for a share of the places, drawn by the seed.

    Raises:
        UserError: a size, the share or the seed is out of range.
    """
    _check_sizes(sizes)
    check_between("hidden", hidden, 0, 1)
    check_between("seed", seed, 0, 2**63 - 1)
    count = math.prod(sizes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(count, dtype=torch.bool)
    keep[order[: round(hidden * count)]] = False
    return keep.reshape(1, 1, *sizes)


def _check_sizes(sizes: Sequence[int]) -> int:
    """Return the number of axes; raise UserError if there are too many, or a size is out of range."""
    if len(sizes) not in _BOXES:
        raise UserError(f"masks have one to three axes, not {len(sizes)}")
    for size in sizes:
        check_between("a size", size, 1, _MOST_PLACES)
    return len(sizes)


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
    iterations: int = 5,
    num_particles: int = 32,
    num_steps: int = 50,
) -> tuple[Solver, Model]:
    """Return the solver and the model that sample what was observed by this method: `solver(model, x_T, seeds=…)`.

    Args:
        method: `pigdm`, `dps`, `mmps`, `tds`, `projection` or `repaint`.
        solver: any solver; for `projection` and `repaint`, one that can be taken apart into steps; `tds` has its own.
        model: a model of examples.
        observation: what was observed of as many examples as are solved for at once.
        scale: multiple of the approximate gradient of `pigdm`, `dps` and `mmps`.
        data_std: standard deviation of the data per dimension, for `pigdm` and `tds`.
        jump: steps that `repaint` goes back at once.
        repeats: how often `repaint` does each stretch of so many steps.
        iterations: conjugate gradients of `mmps`.
        num_particles: particles of `tds` for each answer.
        num_steps: steps of `tds`.

    Raises:
        UserError: there is no such method, a number is out of range, or `dps` or `tds` (when called) is given an
            observation without noise.
    """
    y = observation.y
    methods: dict[str, Callable[[], tuple[Any, Any]]] = {
        "pigdm": lambda: (solver, PiGDM(model, observation, scale, data_std)),
        "dps": lambda: (solver, DPS(model, observation, scale)),
        "mmps": lambda: (solver, MMPS(model, observation, scale, iterations)),
        "tds": lambda: (
            OneParticle(TDS(num_steps=num_steps, num_particles=num_particles, data_std=data_std), observation),
            model,
        ),
        "projection": lambda: (Controlled(solver, Projection(check_linear(method, observation.operator), y)), model),
        "repaint": lambda: (
            Controlled(solver, RePaint(check_linear(method, observation.operator), y, jump, repeats)),
            model,
        ),
    }
    return choose("method", method, methods)()


class OneParticle(Solver):
    """A solver of `p(x_0 | y)`: each sample is one particle, drawn by its weight from those of a problem of its own.

    Where samples begin, `x_T`, is not used: particles begin with the seeds.

    Args:
        tds: the sampler.
        observation: what was observed of each sample.
    """

    def __init__(self, tds: TDS, observation: Observation) -> None:
        self.tds = tds
        self.observation = observation

    def calls(self, sde: SDE) -> int:
        """Count the batched network calls."""
        return self.tds.num_steps

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        noise = draw("control")
        particles = self.tds(model, self.observation, x_T.shape[1:], seeds=noise.seeds)
        # One uniform number for each sample.
        place = noise.uniform(particles.weights[:, :1])
        chosen = torch.searchsorted(particles.weights.cumsum(1), place)[:, 0].clamp(max=self.tds.num_particles - 1)
        x = particles.x[torch.arange(len(chosen)), chosen.to(x_T.device)]
        if watch is not None:
            watch.reached(0.0, x, x)
        return Solution(x, particles.nfe)
