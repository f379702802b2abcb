r"""How much noise a tuned sampler adds at each step, learned from the data.

The ends of trajectories say nothing about noise: it forgets errors that the trained score makes, which the trajectories
have too. So the loss is one on distributions, the energy distance between samples `x` and data `y` (Székely & Rizzo
2013), in the units of the model,

    2 E|x - y| - E|x - x'| - E|y - y'|,

which is 0 where they are distributed alike. Samples are drawn from the same seeds for every choice, so that choices
differ by less than samples do. First an amount for all steps while pictures take shape is chosen, then that of one step
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.solvers.base import Model, States
from score_sde.solvers.fast.default import noise_amounts
from score_sde.solvers.fast.table import Table, integrate
from score_sde.solvers.fast.tuned import with_noise
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between

# Amounts for all steps together, and by how much that of one is changed.
_AMOUNTS = (0.0, 0.35, 0.7, 1.0)
_CHANGE = 0.35
# Differences of distances are computed for so many rows at once.
_ROWS = 256


@checked
def learn_noise(
    table: Table,
    model: Model,
    data: States,
    *,
    num_samples: int = 1024,
    batch_size: int = 256,
    seed: int = 0,
) -> list[float]:
    """Learn how much noise a tuned table adds at each step.

    Args:
        table: a table along the axes of a Gaussian, without noise.
        model: the model that it was tuned to.
        data: examples `(N, *dims)` that samples should be like, in model units; not those that results are measured on.
        num_samples: how many samples are compared with them.
        batch_size: how many are drawn at once.
        seed: of the samples.

    Returns:
        The amount of each step, for `get_solver("tuned", table=table, eta=amounts)`.

    Raises:
        UserError: an option is out of range, or the table has no such axes.
    """
    check_between("num_samples", num_samples, 2, MOST_STEPS)
    check_between("batch_size", batch_size, 1, MOST_STEPS)
    check_at_least("seed", seed, 0)
    if table.gaussian is None:
        raise UserError("this table is not along the axes of a Gaussian, so that noise cannot be added to it")
    seeds = range(seed, seed + num_samples)
    x_T = model.sde.prior_sample((num_samples, *data.shape[1:]), seeds=seeds, dtype=data.dtype, device=data.device)

    @torch.no_grad()
    def distance(amounts: Sequence[float]) -> float:
        made = with_noise(table, model.sde, amounts)
        parts = []
        for first in range(0, num_samples, batch_size):
            noise = SampleNoise(seeds[first : first + batch_size], "solver")
            parts.append(integrate(made, model, x_T[first : first + batch_size], noise))
        return energy_distance(torch.cat(parts), data)

    rho = torch.cat([model.sde.at(table.times).rho, torch.zeros(1, dtype=torch.float64)])
    tried = [noise_amounts(rho, table.gaussian, amount) for amount in _AMOUNTS]
    found = [distance(amounts) for amounts in tried]
    best, least = tried[found.index(min(found))], min(found)
    for k in range(len(best) - 1):
        for change in (_CHANGE, -_CHANGE):
            amounts = [max(0.0, amount + change * (j == k)) for j, amount in enumerate(best)]
            if amounts != best and (found_now := distance(amounts)) < least:
                best, least = amounts, found_now
                break
    return best


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the energy distance between the distributions of `x` `(N, *dims)` and `y` `(M, *dims)`, without bias."""
    x, y = x.flatten(1), y.flatten(1)
    between = _sum_of_distances(x, y) / (len(x) * len(y))
    within = [_sum_of_distances(z, z) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * between - within[0] - within[1]


def _sum_of_distances(x: Tensor, y: Tensor) -> float:
    return sum(float(torch.cdist(rows, y).cpu().double().sum()) for rows in x.split(_ROWS))
