r"""Adaptive steps for the reverse SDE (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, Algorithm 1).

With `F(x, t) = f x - g^2 score(x, t)`, a step `h` and the increment `dw` of the Brownian motion over it,

    x'  = x - h F(x, t) + g(t) dw                               Euler-Maruyama
    x'' = x - h/2 [F(x, t) + F(x', t - h)] + 1/2 [g(t) + g(t - h)] dw          stochastic improved Euler, weak order 2
    E   = | (x' - x'') / delta | / sqrt(d),       delta = max(atol, rtol max(|x'|, |x'_previous|))

The step is accepted, with `x''`, if `E <= 1`; the next one is `h <- 0.9 h E^{-0.9}`. Each example has its own steps
and its own Brownian path, so a sample does not depend on its batch mates. The published code draws `dw` anew after a
rejection, which biases the samples (in one dimension it inflates their variance by half and more); here a rejected
increment is split by the Brownian bridge (see
`solvers.stochastic.brownian_path`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.score import check_score
from score_sde.sde.marginals import on_host
from score_sde.solvers.base import Draw, Model, Solution, Solver, arrive, leave_noise
from score_sde.solvers.options import check_at_least, check_positive, check_tolerance
from score_sde.solvers.process import last_time, log_snr_range
from score_sde.solvers.stochastic.brownian_path import BrownianPath
from score_sde.solvers.trajectory import Watch

_SAFETY = 0.9
_EXPONENT = 0.9
# Errors below this let a step grow no further; also keeps 0^-0.9 finite.
_SMALLEST_ERROR = 1e-6
# Steps below this part of [0, T] are a failure.
_SMALLEST_STEP = 1e-10


@dataclass(frozen=True)
class AdaptiveSDE(Solver):
    """Solver `adaptive_sde`: two network calls an attempted step, until the slowest example arrives.

    Args:
        rtol: relative tolerance. The paper uses 0.01 to 0.5; smaller is slower and more accurate.
        atol: absolute tolerance in the units of the data. The paper takes one grey level: 2/256 for images in [-1, 1].
        first_step: first step, as a part of `T`.
        t_min: last time; the process's own if left out.
        denoise: end with the denoised mean, at `sigma = 0`; otherwise stop at `t_min`.

    Raises:
        UserError: an option is out of range; when called: steps become too small, or the error is not finite.
    """

    rtol: float = 1e-2
    atol: float = 2 / 256
    first_step: float = 1e-2
    t_min: float | None = None
    denoise: bool = True

    def __post_init__(self) -> None:
        check_tolerance("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_positive("first_step", self.first_step)
        check_at_least("first_step", self.first_step, _SMALLEST_STEP)

    @property
    def chooses_steps(self) -> bool:
        return True

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        """Return the solution; examples that have arrived wait at `t_min` for the others. Arguments as of a `Solver`'s.

        Times, steps and errors are numbers on the CPU, one an example.
        """
        check_score(model, "solver 'adaptive_sde'")
        end, t_min = model.sde.t_max, last_time(model.sde, self.t_min)
        log_snr_range(model.sde, t_min)
        path = BrownianPath(x_T, draw("brownian"))
        t = torch.full(x_T.shape[:1], end, dtype=torch.float64)
        step = torch.full_like(t, self.first_step * end)
        x, nfe = leave_noise(model, x_T, watch)
        previous = x
        told: Tensor | None = None
        while bool((t > t_min).any()):
            if watch is not None and not (told is not None and torch.equal(t, told)):
                watch.reached(t, x)
                told = t
            wanted = torch.minimum(step, t - t_min)
            h, increment = path.propose(wanted)
            s = torch.where(h < t - t_min, t - h, t_min)
            euler, improved = improved_euler(model, x, t, s, increment)
            nfe += 2
            error = self._error(euler, improved, previous)
            accepted = error <= 1
            path.accept(accepted)
            chosen = accepted.to(x.device).reshape(-1, *(1,) * (x.ndim - 1))
            x, previous = torch.where(chosen, improved, x), torch.where(chosen, euler, previous)
            # A step cut short by what is known of the path says little about the next one.
            cut_short = accepted & (h < wanted)
            step = torch.where(cut_short, step, _SAFETY * h * error.clamp(min=_SMALLEST_ERROR) ** -_EXPONENT)
            t = torch.where(accepted, s, t)
            self._check_progress(error, step, t, t_min, end)
        return arrive(model, x, t, nfe, denoise=self.denoise, watch=watch)

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities."""
        return (
            "solver 'adaptive_sde' has steps that are no Gaussians: their length depends on the noise, which goes "
            "through the model; take solver 'pc'"
        )

    def _error(self, euler: Tensor, improved: Tensor, previous: Tensor) -> Tensor:
        """Return `E` of each example, `(B,)`, float64, on the CPU."""
        delta = (self.rtol * torch.maximum(euler.abs(), previous.abs())).clamp(min=self.atol)
        return on_host(((euler - improved) / delta).flatten(1)).square().mean(1).sqrt()

    def _check_progress(self, error: Tensor, step: Tensor, t: Tensor, t_min: float, end: float) -> None:
        stuck = ~error.isfinite() | ((step < _SMALLEST_STEP * end) & (t > t_min))
        if bool(stuck.any()):
            example = int(stuck.long().argmax())
            raise UserError(
                f"the adaptive steps of example {example} failed at t = {float(t[example]):.3g} (error "
                f"{float(error[example]):.3g}, step {float(step[example]):.3g}): loosen rtol={self.rtol:g} or "
                f"atol={self.atol:g}, or raise t_min={t_min:g}"
            )


def improved_euler(model: Model, x: Tensor, t: Tensor, s: Tensor, increment: Tensor) -> tuple[Tensor, Tensor]:
    """Take one Euler-Maruyama step `x'` and one stochastic improved Euler step `x''`, from `t` to `s < t`.

    Args:
        model: gives the score; called twice.
        x: state at `t`, shape `(B, *dims)`.
        t: current times, shape `(B,)`.
        s: next times, shape `(B,)`.
        increment: of the Brownian motion over each step; shape of `x`.
    """
    sde = model.sde

    def move(x: Tensor, time: Tensor) -> Tensor:
        drift = sde.reverse_drift(x, time, model.score(x, time), eta=1.0)
        return sde.expand(sde.diffusion(time), x) * increment - sde.expand(t - s, x) * drift

    first = move(x, t)
    second = move(x + first, s)
    return x + first, x + 0.5 * (first + second)
