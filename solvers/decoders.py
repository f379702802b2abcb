"""The last term of variational bounds: data from the least noise, `-log p(x_0 | x_t)`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import log_ndtr

# Called with `x_t` and `D(x_t)`, `(B, *dims)`, and `alpha` and `sigma` there; returns nats, `(B,)`.
Decoder = Callable[[Tensor, Tensor, float, float], Tensor]


def gaussian_decoder(x_0: Tensor) -> Decoder:
    """For data `x_0` with a density: `N(D(x_t), (sigma / alpha)^2 I)` (Song et al. 2021, arXiv:2101.09258)."""

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        deviation = ((x_0 - denoised) * (alpha / sigma)).double().flatten(1)
        return (0.5 * deviation**2 + 0.5 * math.log(2 * math.pi) + math.log(sigma / alpha)).sum(1)

    return decoder


def discretised_gaussian_decoder(levels: Tensor, low: float, spacing: float, num_levels: int) -> Decoder:
    """For levels `(B, *dims)` at `low + spacing k`: the mass that `N(D(x_t), (sigma / alpha)^2)` has nearest to each.

    Those of the first and of the last reach to infinity (Ho et al. 2020, arXiv:2006.11239, equation 13).
    """

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        lower = (low + spacing * (levels.double() - 0.5) - denoised.double()) * (alpha / sigma)
        upper = lower + spacing * alpha / sigma
        lower = torch.where(levels == 0, -math.inf, lower)
        upper = torch.where(levels == num_levels - 1, math.inf, upper)
        # Of two tails the one that does not cancel.
        flip = lower > 0
        lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        log_mass = log_ndtr(upper) + torch.log1p(-torch.exp(log_ndtr(lower) - log_ndtr(upper)))
        return -log_mass.flatten(1).sum(1)

    return decoder


def posterior_decoder(levels: Tensor, low: float, spacing: float, num_levels: int) -> Decoder:
    """For levels `(B, *dims)` at `low + spacing k`: `P(k | x_t)` from each number by itself, levels equally likely.

    (Kingma et al. 2021, arXiv:2107.00630, appendix; no network.)
    """

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        places = low + spacing * torch.arange(num_levels, dtype=torch.float64, device=x_t.device)
        logits = -0.5 * ((x_t.double().unsqueeze(-1) - alpha * places) / sigma) ** 2
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, levels.long().unsqueeze(-1).to(x_t.device))
        return -chosen.flatten(1).sum(1)

    return decoder
