"""How good a model is while it is trained: bits/dim of test examples, and distances of its samples from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from score_sde.common import distributed
from score_sde.data import Dataset
from score_sde.evaluation.likelihood.bits_per_dim import Likelihoods
from score_sde.evaluation.likelihood.dequantisation import Dequantiser, density_time
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.evaluation.samples.distances import DataDistances
from score_sde.evaluation.samples.draw import draw_samples
from score_sde.sde import SDE
from score_sde.solvers import Model
from score_sde.solvers.base import Solver

# The likelihood's solver is a cheap one: this is to see how things go.
_LIKELIHOOD: dict[str, Any] = {"method": "adams", "num_steps": 24}
_BATCH_SIZE = 50


def progress_measure(
    dataset: Dataset,
    dequantiser: Callable[[SDE], Dequantiser],
    t_min: float | None,
    solver: Solver,
    count: int,
    seed: int,
) -> Callable[[Model], dict[str, float]]:
    """Return a function that measures a model: `test_bits_per_dim`, and `frechet`, `sliced_wasserstein` and `c2st`.

    Each time it uses the same examples and the same noise, which follow from `seed`; several processes divide the work,
    and all have the result.

    Args:
        dataset: the data, with test examples.
        dequantiser: makes what adds noise to levels, for a process, which may be learned on the way.
        t_min: where the density is taken, if the dequantiser does not say.
        solver: the solver that draws samples.
        count: number of examples and of samples, at most.
        seed: seed of all noise.
    """
    distances = DataDistances(dataset)
    examples = dataset.test[:count]
    batches = [range(first, min(first + _BATCH_SIZE, len(examples))) for first in range(0, len(examples), _BATCH_SIZE)]

    def measure(model: Model) -> dict[str, float]:
        noise = dequantiser(model.sde)
        options = {**_LIKELIHOOD, "t_min": density_time(noise, t_min)}
        measurement = Measurement(model, noise, options, device=distributed.device())
        own = []
        for rows in distributed.share(batches):
            measured = measurement(examples[rows.start : rows.stop], [seed + row for row in rows])
            found = Likelihoods(
                measured.log_prob, measured.log_q, {}, measured.latents, 0, 0, None, examples[0].numel()
            )
            own.append(found.bits_per_dim)
        bits = torch.cat(distributed.gather(own))
        seeds = list(range(seed, seed + count))
        with torch.no_grad():
            samples = draw_samples(model, solver, dataset.model_shape, seeds, _BATCH_SIZE, progress=False).x
        return {"test_bits_per_dim": bits.mean().item()} | distances(samples)

    return measure
