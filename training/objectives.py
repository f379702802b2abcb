r"""Training objectives: weighted averages over time of the noise error.

    loss = ∫ w(t) E ||eps_hat(x_t, t) - eps||^2 / d  dt,          x_t = alpha x_0 + sigma eps

(`d` the number of dimensions: a mean, where the papers have a sum. Of an example that is modelled in part, see
`common.part`, it is the mean over that part.) Every objective in use is one `w`. Denoising score matching weighs the
score's error by `lambda(t)` (Song et al. 2021, arXiv:2011.13456, equation 7); as `score = -eps_hat / sigma`, the same
loss weighs the noise error by `w = lambda / sigma^2`, in units of our choice:

    weighting     w(t)                                    lambda(t)
    sigma2        1 / (T - t_min)                         sigma^2, the paper's standard choice
    likelihood    (g^2 / sigma^2) / ∫ (g^2 / sigma^2)     g^2, maximum likelihood: Song et al. 2021, arXiv:2101.09258
    edm           p(t) (1 + rho^2 / s^2)                  Karras et al. 2022, arXiv:2206.00364; p: its times' density
    flow          p(t) (1 + rho)^2                        flow matching, Lipman et al. 2023, arXiv:2210.02747

The first two are normalised to `∫ w = 1`, so that a network that predicts no noise at all has loss 1; the published
constants differ. EDM's, with `rho = sigma / alpha` and `s` the data's standard deviation, weighs the error of the
output of EDM's own network by 1, and the last that of the flow `eps - x_0`, wherever times are drawn. With the
likelihood weighting, `(log_snr(t_min) - log_snr(T)) / (2 log 2)` times the loss bounds bits per dimension, up to a
constant.

DDPM's `L_simple` (Ho et al. 2020, arXiv:2006.11239, equation 14) and SMLD's loss with `lambda(sigma) = sigma^2` (Song
& Ermon 2019, arXiv:1907.05600, equation 6) are the same with `w = 1/N` at the rungs of their ladders, and a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from score_sde.common.errors import UserError, choose
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import Given
from score_sde.sde import SDE
from score_sde.sde.times import TimeDistribution, TimeShape, UniformRung, get_time_distribution, sample_times
from score_sde.training.couplings import Coupling


class NoiseModel(Protocol):
    """A model of which an objective asks the error of its noise, such as `models.ScoreModel` or `models.Given`."""

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `eps_hat - eps` at `x_t = alpha x_0 + sigma noise`, times `t` `(B,)`; shape of `x_0` `(B, *dims)`."""


def noise_losses(model: NoiseModel, x_0: Tensor, noise: Tensor, t: Tensor, modelled: Tensor | None = None) -> Tensor:
    """Return `||eps_hat - eps||^2 / d` of each example `(B,)`; `x_0` and `noise` are `(B, *dims)`, times `t` `(B,)`.

    Where only some numbers are `modelled`, `(B, *dims)`, bool, states are 0 elsewhere, and the mean is over them.
    """
    if modelled is None:
        return model.noise_error(x_0, noise, t).square().flatten(1).mean(1)
    error = model.noise_error(x_0, torch.where(modelled, noise, 0), t)
    return torch.where(modelled, error, 0).square().flatten(1).sum(1) / modelled.flatten(1).sum(1)


class Losses(NamedTuple):
    """What an objective makes of a batch: a loss for each example.

    Attributes:
        values: the losses `(B,)`.
        times: the times at which they were taken `(B,)`, float64; None where there are none.
        log_snr: the log-SNRs there `(B,)`, float64, of a schedule that has moved on since; else None.
        unweighted: the losses before they were divided by the probability of their times, `(B,)`, for an objective that
            draws times by what losses were; None for others.
        terms: what the losses are made of, `(B, K)`, for an objective that tells it; NaN is what is not there.
    """

    values: Tensor
    times: Tensor | None = None
    log_snr: Tensor | None = None
    unweighted: Tensor | None = None
    terms: Tensor | None = None


@runtime_checkable
class LearningObjective(Protocol):
    """An objective learns along: what losses there were, to draw times by it, or to tell examples from others.

    It is told of a step before the next one begins. What it has learnt is kept in checkpoints.
    """

    def learn(self, losses: Losses) -> None:
        """Learn of a step, whose losses these are; of several processes, all must ask, each with its own."""

    def state(self) -> dict[str, Any]:
        """Return what has been learnt, tensors and plain values by name; an empty dict if nothing ever is."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


class Weighting(NamedTuple):
    """A weight of the noise error is a product, `w(t) = factor(t) density(t)`.

    Attributes:
        measure: the distribution that has the density.
        factor: a function of `t` `(B,)`; None for 1.
    """

    measure: TimeDistribution
    factor: Callable[[Tensor], Tensor] | None = None


class Objective:
    """A weighted loss is estimated without bias, from one time and one noise an example.

    Args:
        times: the distribution `p` that times are drawn from.
        weighting: the weight `w`.
        stratified: whether the times of a batch are spread evenly.
        reduce_mean: average over dimensions; otherwise take half their sum, `d / 2` times as much.
        coupling: which noise goes with which data; independent of them if left out.
    """

    def __init__(
        self,
        times: TimeDistribution,
        weighting: Weighting,
        stratified: bool = True,
        reduce_mean: bool = True,
        coupling: Coupling | None = None,
    ) -> None:
        self.times = times
        self.weighting = weighting
        self.stratified = stratified
        self.reduce_mean = reduce_mean
        self.coupling = coupling

    def __call__(self, model: NoiseModel, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; their mean estimates the loss.

        Args:
            model: what is trained.
            batch: the examples, with what the network is told of them.
            noise: source of times and noise; torch's own generator if left out.
        """
        x_0, source = batch.x_0, noise or BatchNoise(len(batch))
        t = sample_times(self.times, source, self.stratified)
        eps = source.normal(x_0)
        if self.coupling is not None:
            x_0, eps = self.coupling(batch, eps)
        given = Given(model, batch.condition)
        weight = self.weight(t).to(x_0.device, x_0.dtype, non_blocking=True)
        losses = weight * noise_losses(given, x_0, eps, t, batch.modelled)
        if self.reduce_mean:
            return Losses(losses, t)
        count = x_0[0].numel() if batch.modelled is None else batch.modelled.flatten(1).sum(1)
        return Losses(losses * (count / 2), t)

    def weight(self, t: Tensor) -> Tensor:
        """Return `w(t) / p(t)`; float64, shape of `t` `(B,)`."""
        measure, factor = self.weighting
        weight = torch.ones_like(t, dtype=torch.float64) if factor is None else factor(t)
        return weight if measure is self.times else weight * measure.density(t) / self.times.density(t)


# Each weighting has the density of this distribution of times, "flow" that of the times that are drawn; two have a
# factor beside.
WEIGHTINGS = {"sigma2": "uniform", "likelihood": "log_snr", "edm": "edm", "flow": None}


def get_objective(
    sde: SDE,
    *,
    weighting: str = "sigma2",
    times: str = "uniform",
    t_min: float = 1e-5,
    stratified: bool = True,
    reduce_mean: bool = True,
    shape: TimeShape | None = None,
    data_std: float = 1.0,
    coupling: Coupling | None = None,
) -> Objective:
    """Make the loss of continuous denoising score matching.

    Args:
        sde: the forward process.
        weighting: "sigma2", "likelihood", "edm" or "flow".
        times: the distribution of times: "uniform" in t, "log_snr" (uniform in it), "edm" (log-normal), "logit_normal"
            or "mode". Any may go with any weighting: the loss stays the one that was asked for, but for "flow", whose
            own they are. ("edm" seldom reaches the ends of a wide process, and other weightings then have a large
            variance.)
        t_min: smallest time trained on.
        stratified: whether the times of a batch are spread evenly.
        reduce_mean: average over dimensions; otherwise take half their sum.
        shape: the numbers of the distributions; the published ones if left out.
        data_std: standard deviation of the data, for the "edm" weighting.
        coupling: which noise goes with which data; see `training.couplings`.

    Raises:
        UserError: there is no such weighting or distribution, or `t_min` is out of range.
    """
    drawn = get_time_distribution(times, sde, t_min, shape)
    name = choose("weighting", weighting, WEIGHTINGS)
    # Its own times, unshifted, are those of a weighting.
    shifted = shape is not None and shape.shift != 1
    if name is None or (name == times and not shifted):
        measure = drawn
    else:
        measure = get_time_distribution(name, sde, t_min, shape and shape._replace(shift=1.0))
    factors: dict[str, Callable[[Tensor], Tensor]] = {
        "edm": lambda t: 1 + torch.exp(-sde.log_snr(t)) / data_std**2,
        "flow": lambda t: (1 + sde.at(t).rho) ** 2,
    }
    return Objective(drawn, Weighting(measure, factors.get(weighting)), stratified, reduce_mean, coupling)


def get_discrete_objective(
    sde: SDE, *, stratified: bool = True, reduce_mean: bool = True, coupling: Coupling | None = None
) -> Objective:
    """Make DDPM's loss on a `DDPMLadder`, SMLD's on an `NCSNLadder`; arguments are as for `get_objective`.

    Raises:
        UserError: the process is no ladder.
    """
    if sde.ladder is None:
        raise UserError(f"discrete training needs a ladder (DDPM's or NCSN's), not {type(sde).__name__}")
    rungs = UniformRung(sde.ladder)
    return Objective(rungs, Weighting(rungs), stratified, reduce_mean, coupling)
