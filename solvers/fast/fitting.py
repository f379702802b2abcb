r"""Learning tables from trajectories: what all numbers of steps have in common, and how one of them is learned.

See `solvers.fast.tuning`, which says what is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from score_sde.solvers.base import Model
from score_sde.solvers.fast.default import recommended_table, recommended_times, rule_for
from score_sde.solvers.fast.learned_table import LearnedTable, bands_of, run
from score_sde.solvers.fast.table import Table
from score_sde.solvers.fast.trajectories import Trajectories, equal_shares

# The power of the bending, and the even share, of the densities of times that are tried.
_DENSITIES = ((0.3, 0.3), (0.5, 0.2), (0.7, 0.15))
_VALIDATE_EVERY = 8
_PATIENCE = 5
# A loss this much above the best (both in log, and relative to the start's on the same batch) is a blow-up.
_BLOW_UP = 0.7
# Keeps roots differentiable at zero.
_SMALLEST_SQUARE = 1e-12


class Problem(NamedTuple):
    """Trajectories to learn from and held-out ones, and what all samplers that are learned from them have in common.

    Attributes:
        models: the model, of the rows of the one and of the other.
        exact: the trajectories.
        free: whether the first step is.
        memory: how many past outputs a step may use.
        bending: how much trajectories bend at their nodes.
    """

    models: list[Model]
    exact: list[Trajectories]
    free: bool
    memory: int
    bending: Tensor

    def recommended(self, number: int) -> Table:
        """Return the recommended solver's table, in the axes of the trajectories' Gaussian."""
        sde, gaussian = self.models[0].sde, self.exact[0].gaussian
        rule = rule_for(number, True)
        rule = rule._replace(free=rule.free and self.free)
        times = recommended_times(sde, number + rule.free, sde.t_min, True, gaussian, rule)
        return recommended_table(sde, times, None, gaussian, rule)

    def start(self, number: int) -> tuple[LearnedTable, float, float]:
        """Return the best table that is known without derivatives, its error, and that of the recommended solver."""
        found = []
        for power, even in _DENSITIES:
            learned = self.learned(number, power, even)
            learned.fit_weights(self.models[0], self.exact[0])
            found.append((self.error(learned()), learned))
        error, best = min(found, key=lambda pair: pair[0])
        return best, error, self.error(self.recommended(number))

    def learned(self, number: int, power: float, even: float) -> LearnedTable:
        """Return a table whose times have equal shares of a density, with the recommended weights."""
        sde, exact = self.models[0].sde, self.exact[0]
        density = self.bending**power
        density = (1 - even) * density / density.mean() + even
        rule = rule_for(6, True)._replace(free=self.free)
        end = exact.variable(exact.nodes.new_zeros(1))
        nodes, density = torch.cat([exact.nodes, end]), torch.cat([density, density[-1:]])
        v = equal_shares(nodes, density, number + rule.free)
        rho = exact.variable.inverse(v)
        inner = sde.time_at_log_snr(-2 * torch.log(rho)).clamp(sde.t_min, sde.T)
        times = torch.cat([inner.new_full((1,), sde.T), inner])
        bands = bands_of(exact.gaussian, len(exact.latents), exact.latents)
        return LearnedTable(sde, times, exact.gaussian, rule, self.memory, bands)

    @torch.no_grad()
    def error(self, table: Table) -> float:
        """Return the error of a table on held-out trajectories; infinite if it has numbers that are none."""
        if not all(bool(array.isfinite().all()) for array in (table.times, table.state, table.outputs)):
            return math.inf
        error = _mean(self.distances(table, 1)).item()
        return error if math.isfinite(error) else math.inf

    @torch.no_grad()
    def distances(self, table: Table, part: int) -> Tensor:
        """Return the distances from the ends of the trajectories of a part, `(M,)`."""
        exact = self.exact[part]
        return (run(table, self.models[part], exact.latents) - exact.end).flatten(1).norm(dim=1)

    def polish(
        self,
        learned: LearnedTable,
        error: float,
        iterations: int,
        learning_rate: float,
        batch_size: int,
        report: Callable[[int, float], None],
    ) -> float:
        """Learn a table further, by gradient, in place; return its error, which is never more than it was."""
        best_error, best = error, _copy(learned)
        report(0, error)
        if not iterations:
            return error
        at_start = self.distances(learned(), 0)
        good_loss, good = math.inf, best
        scale, since = 1.0, 0
        optimiser = torch.optim.Adam(learned.parameters(), lr=learning_rate)
        for iteration, batch in zip(range(iterations), _batches(len(at_start), batch_size), strict=False):
            now, gradients = self._error_and_gradients(learned, batch)
            loss = math.log(now / _mean(at_start[batch]).item())
            if not (math.isfinite(loss) and loss < good_loss + _BLOW_UP):
                learned.load_state_dict(good)
                scale /= 2
                optimiser = torch.optim.Adam(learned.parameters(), lr=learning_rate)
                continue
            if loss < good_loss:
                good_loss, good = loss, _copy(learned)
            for group in optimiser.param_groups:
                group["lr"] = scale * learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
            for parameter, gradient in zip(learned.parameters(), gradients, strict=True):
                parameter.grad = gradient.nan_to_num()
            optimiser.step()
            if (iteration + 1) % _VALIDATE_EVERY == 0 or iteration + 1 == iterations:
                error = self.error(learned())
                since = 0 if error < best_error else since + 1
                if error < best_error:
                    best_error, best = error, _copy(learned)
                report(iteration + 1, error)
                if since >= _PATIENCE:
                    break
        learned.load_state_dict(best)
        return best_error

    def _error_and_gradients(self, learned: LearnedTable, batch: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        """Return the error on some of the trajectories, and the gradients of its logarithm."""
        exact, model = self.exact[0], self.models[0]
        model = model.rows(batch) if hasattr(model, "rows") else model
        with torch.enable_grad():
            ends = run(learned(), model, exact.latents[batch])
            squares = (ends - exact.end[batch]).flatten(1).square().sum(1)
            error = _mean(torch.sqrt(squares + _SMALLEST_SQUARE))
            gradients = torch.autograd.grad(error.log(), list(learned.parameters()), allow_unused=True)
        parameters = zip(learned.parameters(), gradients, strict=True)
        return error.item(), tuple(torch.zeros_like(p) if g is None else g for p, g in parameters)


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield indices of examples, without end: each example once before any comes again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from (batch for batch in torch.randperm(count, generator=generator).split(size) if len(batch) >= size)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _mean(distances: Tensor) -> Tensor:
    return distances.sqrt().mean().square()
