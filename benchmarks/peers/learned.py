"""Solvers that learn their coefficients for a model and a number of calls, written from their papers.

    DyWeight    Zhao et al. 2026, arXiv:2603.11607: weights of the last three noises, and a factor on the noise level
                that the model is told, of each step; a first step for nothing; from iPNDM on the grid `karras`
    GS          Oganov et al. 2025, arXiv:2510.17699, without its adversarial loss: times, shifts of the time that the
                model is told, and weights of all past states and outputs, added to those of DPM-Solver++(3M)

Both learn by Adam from the distance to exact ends, from other noise than they are tried on, as many iterations as make
`CALLS` calls of the model for each example, and no fewer than published; the rate rises for a tenth of them and falls
along a cosine. DyWeight is published with the grid `karras` down to 0.002, GS from times uniform in `t`; both learn
better here from other starts, which are tried, too. GS has ten times the published rate for a tenth of the iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.grids import SMALLEST_TIME, levels, of_time, time_of
from benchmarks.peers.ipndm import WEIGHTS
from benchmarks.problems import SIGMA_MAX, SIGMA_MIN
from score_sde.solvers.base import Model
from score_sde.solvers.fast.tuning import accurate_solution

CALLS = 3000
_EXAMPLES = 512
_WINDOW = 3


class DyWeight(nn.Module):
    """DyWeight goes from noise to samples with so many calls of a model, on a grid to the smallest noise level."""

    rate, batch, least_iterations = 1e-2, 16, 625

    def __init__(self, grid: str, smallest: float, model: Model, budget: int) -> None:
        super().__init__()
        self.model, steps = model, budget + 1
        self.sigma = levels(grid, steps + 1, smallest)
        rows = torch.zeros(steps, _WINDOW, dtype=torch.float64)
        for k in range(steps):
            own = WEIGHTS[min(_WINDOW, k + 1) - 1]
            rows[k, : len(own)] = torch.tensor(own, dtype=torch.float64)
        self.weights = nn.Parameter(rows)
        self.scale = nn.Parameter(torch.ones(budget, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return samples of noise `x`."""
        outputs: list[Tensor] = []
        for k in range(len(self.weights)):
            if k == 0:
                outputs.insert(0, x / torch.sqrt(1 + self.sigma[0] ** 2).to(x))
            else:
                told = (self.scale[k - 1] * self.sigma[k]).clamp(SIGMA_MIN, SIGMA_MAX)
                denoised = self.model.denoise(x, time_of(told))
                outputs.insert(0, (x - denoised) / told.to(x))
            used = outputs[:_WINDOW]
            x = x + (self.sigma[k + 1] - self.sigma[k]).to(x) * combine(self.weights[k, : len(used)], used)
        return x


class GeneralisedSolver(nn.Module):
    """The Generalised Solver goes from noise to samples with so many calls of a model.

    Its states are those of the variance-preserving process of the grids in time, in which it is published; it starts
    from times whose root of this power is uniform.
    """

    rate, batch, least_iterations = 1e-2, 24, 1000

    def __init__(self, power: int, model: Model, budget: int) -> None:
        super().__init__()
        self.model, self.budget = model, budget
        shares = torch.linspace(1.0, 0.0, budget + 1, dtype=torch.float64)[:-1] ** power
        self.logits = nn.Parameter(torch.logit(shares[1:] / shares[:-1]))
        self.shift = nn.Parameter(torch.zeros(budget, dtype=torch.float64))
        self.of_states = nn.Parameter(torch.zeros(budget, budget, dtype=torch.float64))
        self.of_outputs = nn.Parameter(torch.zeros(budget, budget, dtype=torch.float64))

    def times(self) -> Tensor:
        """Return times from 1 down to the smallest, by a stick that is broken again and again."""
        left = torch.cumprod(torch.sigmoid(self.logits), 0)
        inner = SMALLEST_TIME + (1 - SMALLEST_TIME) * left
        return torch.cat([inner.new_ones(1), inner, inner.new_full((1,), SMALLEST_TIME)])

    def forward(self, x: Tensor) -> Tensor:
        """Return samples of noise `x`."""
        t = self.times()
        rho = of_time(t, SIGMA_MIN)
        alpha = torch.rsqrt(1 + rho**2)
        sigma, lam = rho * alpha, -rho.log()
        state = x * alpha[0].to(x)
        states, outputs = [], []
        for k in range(self.budget):
            states.append(state)
            told = of_time((t[k] + self.shift[k]).clamp(SMALLEST_TIME, 1), SIGMA_MIN).clamp(SIGMA_MIN, SIGMA_MAX)
            y = state / alpha[k].to(x)
            # The model is told another time than that of the state, whose scale follows.
            scale = torch.sqrt((1 + told**2) / (1 + rho[k] ** 2)).to(x)
            noise = -told.to(x) * self.model.score(scale * y, time_of(told))
            outputs.append(y - rho[k].to(x) * noise)
            weights = self.of_outputs[k, : k + 1]
            known = alpha[k + 1] * multistep_weights(lam[: k + 2])
            weights = weights + nn.functional.pad(known, (k + 1 - len(known), 0))
            of_states = self.of_states[k, : k + 1] + nn.functional.pad((sigma[k + 1] / sigma[k])[None], (k, 0))
            state = combine(weights, outputs) + combine(of_states, states)
        return state / alpha[-1].to(x)


def combine(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return the sum of values, each times its weight."""
    return torch.tensordot(weights.to(values[0]), torch.stack(list(values)), 1)


def multistep_weights(lam: Tensor) -> Tensor:
    """Return the weights of DPM-Solver++(3M), oldest output first, for the step to the last of half log-SNRs."""
    lam = lam[-4:]
    h = lam[-1] - lam[-2]
    phi_1 = torch.expm1(-h)
    if len(lam) == 2:
        return -phi_1.reshape(1)
    r_0 = (lam[-2] - lam[-3]) / h
    if len(lam) == 3:
        return torch.stack([0.5 * phi_1 / r_0, -phi_1 - 0.5 * phi_1 / r_0])
    r_1 = (lam[-3] - lam[-4]) / h
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    # Rows: the newest difference quotient, the one before; columns: outputs, the oldest first.
    d_0 = torch.stack([torch.zeros_like(h), -1 / r_0, 1 / r_0])
    d_1 = torch.stack([-1 / r_1, 1 / r_1, torch.zeros_like(h)])
    first = d_0 + r_0 / (r_0 + r_1) * (d_0 - d_1)
    second = (d_0 - d_1) / (r_0 + r_1)
    return phi_2 * first - phi_3 * second + torch.stack([torch.zeros_like(h), torch.zeros_like(h), -phi_1])


def learn(
    kind: Callable[[Model, int], Any], model: Model, budget: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Learn on noise of seeds from 0, and return what goes from noise to samples."""
    solver = kind(model, budget)
    x = model.sde.prior_sample((_EXAMPLES, *shape), seeds=range(_EXAMPLES), dtype=dtype)
    exact = accurate_solution(model, x)
    iterations = max(solver.least_iterations, CALLS // budget)
    optimiser = torch.optim.Adam(solver.parameters(), lr=solver.rate)
    warm = max(1, iterations // 10)
    generator = torch.Generator().manual_seed(0)
    for iteration in range(iterations):
        progress = max(0.0, (iteration - warm) / (iterations - warm))
        share = min(1.0, (iteration + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        optimiser.param_groups[0]["lr"] = solver.rate * share
        rows = torch.randint(_EXAMPLES, (solver.batch,), generator=generator)
        optimiser.zero_grad()
        (solver(x[rows]) - exact[rows]).flatten(1).norm(dim=1).mean().backward()
        nn.utils.clip_grad_norm_(solver.parameters(), 1.0)
        optimiser.step()
    return solver
