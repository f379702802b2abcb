"""iPNDM (Zhang & Chen 2023, arXiv:2204.13902, section 3) with its grids and ends, written from the paper.

Adams–Bashforth with the weights of equal steps, on the noise, in `sigma`. A first step for nothing ("analytical first
step", Dockhorn et al. 2022, arXiv:2210.05475) takes the noise at 80 for `x / sqrt(1 + sigma^2)`. It ends at the
smallest standard deviation; or goes on to 0, by one more call and its denoised mean, or by a last step like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from benchmarks.peers.grids import POWERS, TIMES, Sampler, levels, noise
from score_sde.solvers.base import Model

End = Literal["smallest", "denoised", "zero"]

# By order, the newest output first.
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm_peer(order: int, grid: Callable[[int], Tensor], free: bool, end: End) -> Sampler:
    """Return iPNDM on a grid, a function of the number of its standard deviations; see the module."""

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        steps = budget + free - (end == "denoised")
        sigma = grid(steps + (end != "zero"))
        outputs: list[Tensor] = []
        if end == "zero":
            sigma = torch.cat([sigma, sigma.new_zeros(1)])
        for k in range(steps):
            is_free = free and k == 0
            outputs.insert(0, x / torch.sqrt(1 + sigma[0] ** 2).to(x) if is_free else noise(model, x, sigma[k]))
            weights = WEIGHTS[min(order, k + 1) - 1]
            slope = sum(w * output for w, output in zip(weights, outputs, strict=False))
            x = x + (sigma[k + 1] - sigma[k]).to(x) * slope
        return x - sigma[-1].to(x) * noise(model, x, sigma[-1]) if end == "denoised" else x

    return run


def ipndm_family() -> Iterator[tuple[str, Sampler]]:
    """Return iPNDM of every order, on every grid, to every end."""
    grids, smallest_ones = ("log", *POWERS, *TIMES), (0.002, 0.01)
    for order, grid, smallest, free, end in product((1, 2, 3, 4), grids, smallest_ones, (False, True), get_args(End)):

        def sigmas(count: int, grid: str = grid, smallest: float = smallest) -> Tensor:
            return levels(grid, count, smallest)

        yield f"iPNDM-{order} {grid} {smallest:g} {end}{', free first' * free}", ipndm_peer(order, sigmas, free, end)
