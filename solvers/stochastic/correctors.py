r"""Correctors: Langevin steps that move a state towards `p_t`, at fixed `t`.

    x <- x + epsilon score(x, t) + sqrt(2 epsilon) z

A step size that depends on `t` alone leaves `p_t` invariant up to a bias that falls linearly with it: on a Gaussian
of variance `V` the stationary variance is `V / (1 - epsilon / (2 V))`. With the signal-to-noise ratio `r`:

    langevin                        epsilon = 2 alpha r^2 sigma^2
    langevin, step_size=published   epsilon = 2 alpha^2 (r |z| / |score|)^2      (Song et al. 2021, Algorithms 4 and 5)
    ald                             epsilon = 2 r^2 sigma^2                      (Song & Ermon 2019, Algorithm 1)

The first replaces `|z| / |score|` by `sigma`, about what it is in high dimension. The published `alpha_i` is DDPM's
cumulative product, here `alpha^2`. Annealed Langevin dynamics has `epsilon = (epsilon_0 / 2) sigma_i^2 / sigma_L^2`;
here `epsilon_0 = 4 r^2 sigma_L^2`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from score_sde.common.errors import UserError, choose
from score_sde.common.noise import SampleNoise
from score_sde.sde import SDE
from score_sde.solvers.base import Model
from score_sde.solvers.transitions import take

# Called as rule(sde, t, score, z, snr); of the rules that depend on time alone `z` is None.
StepSize = Callable[[SDE, Tensor, Tensor, Tensor | None, float], Tensor]


def langevin(
    model: Model, x: Tensor, t: Tensor, noise: SampleNoise, step_size: StepSize, snr: float = 0.16, num_steps: int = 1
) -> Tensor:
    """Do Langevin dynamics at fixed `t`, by one score a step.

    Args:
        model: gives the score.
        x: state, shape `(B, *dims)`.
        t: time, shape `()` or `(B,)`.
        noise: one generator an example.
        step_size: a rule for `epsilon`, from this module.
        snr: the rule's signal-to-noise ratio `r`.
        num_steps: number of steps.

    Returns:
        The state after `num_steps` steps; shape of `x`.
    """
    for _ in range(num_steps):
        score = model.score(x, t)
        z = noise.normal(x) if step_size is step_size_published else None
        epsilon = step_size(model.sde, t, score, z, snr)
        mean, std = x + model.sde.expand(epsilon, x) * score, model.sde.expand((2 * epsilon).sqrt(), x)
        x = take(noise, mean, std, t) if z is None else mean + std * z
    return x


def step_size_of_time(sde: SDE, t: Tensor, score: Tensor, z: Tensor | None, snr: float) -> Tensor:
    """Return `2 alpha r^2 sigma^2`; shape of `t`, float64."""
    here = sde.at(t)
    return 2 * here.alpha * (snr * here.sigma) ** 2


def step_size_annealed(sde: SDE, t: Tensor, score: Tensor, z: Tensor | None, snr: float) -> Tensor:
    """Return `2 r^2 sigma^2`; shape of `t`, float64."""
    return 2 * (snr * sde.at(t).sigma) ** 2


def step_size_published(sde: SDE, t: Tensor, score: Tensor, z: Tensor | None, snr: float) -> Tensor:
    """Return `2 alpha^2 (r |z| / |score|)^2` with the norms of each example; shape `(B,)`, on the device of `score`.

    A step that depends on the state and on its own noise does not leave `p_t` invariant, however small it is. On
    `N(0, I)` in `d` dimensions its stationary density tends, for `r -> 0`, to `|x|^2 exp(-d |x|^2 / (2 (d + 2)))` up
    to a factor: the variance is inflated `((d + 2) / d)^2` times, 1.27 at d = 16 and 1.001 at d = 3072. (The
    published code averages the norms over the batch instead, which makes a sample depend on its neighbours.)
    """
    assert z is not None
    ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
    return 2 * ((sde.at(t).alpha * snr).to(ratio) * ratio) ** 2


CORRECTORS: dict[str, StepSize | None] = {"langevin": step_size_of_time, "ald": step_size_annealed, "none": None}
LANGEVIN_STEP_SIZES: dict[str, StepSize] = {"time": step_size_of_time, "published": step_size_published}


def corrector_step_size(corrector: str, step_size: str) -> StepSize | None:
    """Return the rule of a corrector by its name, or None if there is nothing to correct.

    Raises:
        UserError: there is no such corrector or rule, or the corrector has no choice of rules.
    """
    rule = choose("corrector", corrector, CORRECTORS)
    chosen = choose("Langevin step size", step_size, LANGEVIN_STEP_SIZES)
    if corrector == "langevin":
        return chosen
    if step_size != "time":
        raise UserError(f"step_size={step_size!r} belongs to corrector 'langevin', not to {corrector!r}")
    return rule
