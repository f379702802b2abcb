r"""Which noise goes with which data: couplings, and what they leave of the score.

Denoising score matching draws `x_0` and `eps` independently. A flow can be learnt from any pairs whose two marginals
are right (Liu et al. 2023, arXiv:2209.03003; Albergo et al. 2023, arXiv:2303.08797): with `x_t = alpha x_0 + sigma
eps`, the field of `E[x_0 | x_t]` and `E[eps | x_t]` carries the marginals of the pairs, from the noise to the data.

    optimal transport    the noise of a batch is given to its data so that `sum_i ||x_i - eps_i||^2` is least (Tong et
                         al. 2024, arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772), which as the batch grows
                         is the optimal transport, whose trajectories are straight under rectified flow
    reflow               data are the ends of a trained model's trajectories from `eps` (Liu et al.): trajectories that
                         do not cross, of which the mean at `x_t` is nearly no mean

Examples are only given each other's noise where the model is told the same of them: the noise is then independent of
what is told, as sampling needs (a batch of which all are told something else stays as it is).

The noise of a pair depends on its data, so that the model is a flow and no score (`common.score`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data import Batch
from score_sde.solvers import Model, Solver


class Coupling(Protocol):
    """A coupling makes pairs of a batch and of as much noise."""

    def __call__(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return data and noise, each of the shape of the batch's examples, `(B, *dims)`."""


def optimal_transport(batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch's examples, and the noise in the order in which the sum of squared distances is least.

    It is given among examples alike: with the same classes, and the same of them hidden.

    Args:
        batch: the examples, all of whose numbers are modelled, told of nothing but whole numbers.
        noise: as much noise, `(B, *dims)`.

    Raises:
        UserError: the model is told of conditions of which hardly two are the same, or examples are modelled in part.
    """
    from scipy.optimize import linear_sum_assignment

    if batch.modelled is not None:
        raise UserError("optimal transport pairs whole examples with noise, and some of these lack numbers")
    flat, order = noise.flatten(1), torch.arange(len(batch))
    cost = torch.cdist(batch.x_0.flatten(1), flat.to(batch.x_0)).square().cpu()
    for rows in _alike(batch.condition, len(batch)):
        _, chosen = linear_sum_assignment(cost[rows][:, rows].numpy())
        order[rows] = rows[torch.from_numpy(chosen)]
    return batch.x_0, noise[order.to(noise.device)]


class Reflow:
    """Pairs are noise and where a trained model's flow takes it.

    Args:
        teacher: the trained model, for a condition.
        solver: a deterministic solver.
    """

    def __init__(self, teacher: Callable[[Condition | None], Model], solver: Solver) -> None:
        self.teacher = teacher
        self.solver = solver

    def __call__(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of the trajectories that start from `noise` under the batch's condition, and `noise`."""
        teacher = self.teacher(batch.condition)
        with torch.autocast(noise.device.type, enabled=False):
            return self.solver(teacher, teacher.sde.prior_std * noise, seeds=range(len(noise))).x, noise


def _alike(condition: Condition | None, count: int) -> list[Tensor]:
    """Return the rows, each `(n,)`, of which a model is told the same.

    Raises:
        UserError: something that is told is no whole number.
    """
    if condition is None:
        return [torch.arange(count)]
    columns = []
    for name, value in condition.values.items():
        if value.is_floating_point() or value.ndim > 1:
            raise UserError(
                f"optimal transport pairs examples of which the model is told the same, and of {name!r} it is told "
                "numbers of each: take independent pairs"
            )
        hidden = condition.hidden_rows.get(name)
        columns.append(value if hidden is None else torch.where(hidden, -1, value))
    _, group = torch.unique(torch.stack(columns, 1).cpu(), dim=0, return_inverse=True)
    return [torch.nonzero(group == k)[:, 0] for k in range(int(group.max()) + 1)]
