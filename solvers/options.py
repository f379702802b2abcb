"""Checks on solver options: each mistake gives one clear line."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from errors import UserError
from sde import SDE
from sde.noise import SampleNoise, Stream, seeds_from_generator


def check_at_least(what: str, value: float, least: float) -> None:
    """Raise `UserError` unless `value >= least`."""
    if not value >= least:
        raise UserError(f"{what} must be at least {least:g}, not {value:g}")


def check_positive(what: str, value: float) -> None:
    """Raise `UserError` unless `value > 0`."""
    if not value > 0:
        raise UserError(f"{what} must be positive, not {value:g}")


def check_density(model: object) -> None:
    """Raise `UserError` if a model says that its score is not that of a diffused density, and why: `no_density`."""
    reason = getattr(model, "no_density", "")
    if reason:
        raise UserError(f"this model has no log-likelihood: {reason}")


def last_time(sde: SDE, t_min: float | None) -> float:
    """`t_min`, or the process's own if left out.

    Raises:
        UserError: it is not in `[0, T)`.
    """
    t_min = sde.t_min if t_min is None else t_min
    if not 0 <= t_min < sde.T:
        raise UserError(f"t_min must lie in [0, {sde.T:g}), not {t_min:g}")
    return t_min


def sample_noise(
    x: Tensor, seeds: Iterable[int] | None, generator: torch.Generator | None, stream: Stream = "solver"
) -> SampleNoise:
    """A noise source with one generator for each example of `x` `(B, *dims)`.

    Raises:
        UserError: the number of seeds is not the batch size.
    """
    seeds = seeds_from_generator(x.shape[0], generator) if seeds is None else list(seeds)
    if len(seeds) != x.shape[0]:
        raise UserError(f"{len(seeds)} seeds for a batch of {x.shape[0]}: give one seed an example")
    return SampleNoise(seeds, stream)
