"""Variational bounds of examples, as they are or with dequantisation noise, under one name each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from score_sde.data.units import Bins, Points
from score_sde.evaluation.likelihood.dequantisation import Dequantised
from score_sde.solvers import Model
from score_sde.solvers.density.bounds import (
    Bound,
    Decoder,
    continuous_bound,
    discrete_bound,
    discretised_gaussian_decoder,
    gaussian_decoder,
    posterior_decoder,
    score_flow_bound,
)

BOUNDS = ("discrete", "continuous", "scoreflow")

# It takes the model, levels (or vectors), those with noise, and seeds, and bounds `-log P(k)` (or `-log p(x)`).
ExampleBound = Callable[[Model, Tensor, Dequantised, list[int]], Bound]


def bounds_with_noise(num_calls: int, num_rungs: int, t_min: float | None) -> dict[str, ExampleBound]:
    """Return bounds on the density of levels with noise, less that of the noise; or on that of vectors.

    Args:
        num_calls: number of network calls for each bound.
        num_rungs: length of the discrete bound's ladder.
        t_min: first time of the bounds; the process's own if left out.
    """

    def discrete(model: Model, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Bound:
        decoder = gaussian_decoder(draw.x)
        bound = discrete_bound(
            model, draw.x, decoder, num_steps=num_rungs, num_calls=num_calls, t_min=t_min, seeds=seeds
        )
        return _of_levels(bound, draw)

    def continuous(model: Model, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Bound:
        decoder = gaussian_decoder(draw.x)
        return _of_levels(continuous_bound(model, draw.x, decoder, num_calls=num_calls, t_min=t_min, seeds=seeds), draw)

    return {"discrete": discrete, "continuous": continuous, "scoreflow": _scoreflow(num_calls, t_min)}


def bounds_of_points(
    units: Bins | Points,
    num_calls: int,
    num_rungs: int,
    t_min: float | None,
) -> dict[str, ExampleBound]:
    """Return bounds on the probability of levels at points `place + spacing k` of their units.

    The other arguments are those of `bounds_with_noise`. ScoreFlow's bound, on the density at `t_min`, needs noise.
    """

    def x_0(examples: Tensor, draw: Dequantised) -> Tensor:
        return units.place + units.spacing * examples.to(draw.x)

    def decoder(make: Callable[[Tensor, float, float, int], Decoder], examples: Tensor) -> Decoder:
        return make(examples, units.place, units.spacing, units.levels)

    def discrete(model: Model, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Bound:
        last = decoder(discretised_gaussian_decoder, examples)
        return discrete_bound(
            model, x_0(examples, draw), last, num_steps=num_rungs, num_calls=num_calls, t_min=t_min, seeds=seeds
        )

    def continuous(model: Model, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Bound:
        last = decoder(posterior_decoder, examples)
        return continuous_bound(model, x_0(examples, draw), last, num_calls=num_calls, t_min=t_min, seeds=seeds)

    return {"discrete": discrete, "continuous": continuous, "scoreflow": _scoreflow(num_calls, t_min)}


def _scoreflow(num_calls: int, t_min: float | None) -> ExampleBound:
    def scoreflow(model: Model, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Bound:
        return _of_levels(score_flow_bound(model, draw.x, num_calls=num_calls, t_min=t_min, seeds=seeds), draw)

    return scoreflow


def _of_levels(bound: Bound, draw: Dequantised) -> Bound:
    """Return a bound on the density of levels with noise as one on their probability."""
    return bound._replace(reconstruction=bound.reconstruction + draw.log_q)
