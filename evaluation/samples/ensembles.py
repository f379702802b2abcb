r"""How good an ensemble forecast is: `M` samples `x_1 … x_M` for each truth `y`.

    CRPS           ∫ (F(z) - 1[y <= z])^2 dz  =  E|X - y| - E|X - X'| / 2
                   of a forecast with distribution F; least on average for the truth's own (Gneiting & Raftery 2007,
                   JASA 102). Of M samples the mean of |x_i - y|, less the sum of |x_i - x_j| over all i, j divided by
                   2 M (M - 1), is unbiased, and does not favour ensembles by their size: the fair CRPS (Ferro 2014,
                   Q. J. R. Meteorol. Soc. 140).
    spread, skill  the root of the mean variance of ensembles, with M - 1, and the root mean square error of their
                   means. Where truth and samples are draws of one distribution, (1 + 1/M)^{1/2} spread = skill on
                   average (Fortin et al. 2014, J. Hydrometeor. 15): a smaller spread is overconfident.

With `x_(1) <= … <= x_(M)` the double sum is `2 sum_k (2 k - M - 1) x_(k)`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError


class SpreadSkill(NamedTuple):
    """Ensembles spread, and their means err.

    Attributes:
        spread: root of the mean variance of ensembles.
        skill: root mean square error of their means.
        ratio: `(1 + 1/M)^{1/2} spread / skill`, 1 where ensembles can be relied on, less where they are overconfident.
    """

    spread: float
    skill: float
    ratio: float


@checked
def crps(ensemble: Tensor, truth: Tensor) -> Tensor:
    """Return the fair CRPS of each number, of the shape of the truth, float64, in its units; an array is taken, too.

    It may be negative, being unbiased: say its mean.

    Args:
        ensemble: samples `(M, N, *dims)`, two or more.
        truth: what came, `(N, *dims)`.

    Raises:
        UserError: shapes do not fit each other, or a number is not finite.
    """
    x, y = _together(ensemble, truth)
    count = len(x)
    # Differences to the truth, so that large numbers that nearly agree lose nothing in the sum.
    x = (x - y).sort(0).values
    rank = torch.arange(1 - count, count, 2, dtype=x.dtype).reshape(-1, *[1] * y.ndim)
    return x.abs().mean(0) - (rank * x).sum(0) / (count * (count - 1))


@checked
def spread_skill(ensemble: Tensor, truth: Tensor) -> SpreadSkill:
    """Return the spread of ensembles beside the error of their means, over all numbers; arguments as of `crps`."""
    x, y = _together(ensemble, truth)
    x = x - y
    spread, skill = float(x.var(0).mean().sqrt()), float(x.mean(0).square().mean().sqrt())
    return SpreadSkill(spread, skill, math.sqrt(1 + 1 / len(x)) * spread / skill if skill else math.inf)


def _together(ensemble: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as float64, on the CPU."""
    if ensemble.shape[1:] != truth.shape or len(ensemble) < 2 or not truth.numel():
        raise UserError(
            f"an ensemble is (M, N, …), two or more samples for each of N truths (N, …), not {tuple(ensemble.shape)} "
            f"for {tuple(truth.shape)}"
        )
    x, y = ensemble.detach().cpu().double(), truth.detach().cpu().double()
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError("an ensemble, or the truth, has numbers that are not finite")
    return x, y
