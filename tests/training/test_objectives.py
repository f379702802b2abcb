"""Objectives against closed forms.

For data `N(m, diag(l))` and an exact network, the noise error at time t is the posterior variance of the noise,

    E ||eps* - eps||^2 / d = mean_j alpha^2 l_j / (alpha^2 l_j + sigma^2),

so every loss is a one-dimensional integral.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import MLP, GaussianMixture, ScoreModel
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    NCSNLadder,
    RectifiedFlow,
    SubVPSDE,
    cosine_betas,
    geometric_sigmas,
)
from score_sde.sde.times import TimeShape, sample_times
from score_sde.training.objectives import get_discrete_objective, get_objective, noise_losses

VARIANCES = (1.0, 0.09)
MEAN = (0.3, -0.5)
T_MIN = 1e-3
SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(), "narrow ve": VESDE(0.05, 3.0)}
DATA_STD = 0.7


class Exact:
    """The best noise prediction for the Gaussian."""

    def __init__(self, sde: SDE) -> None:
        covariance = torch.diag(torch.tensor(VARIANCES, dtype=torch.float64))[None]
        self.mixture = GaussianMixture(sde, torch.ones(1), torch.tensor([MEAN], dtype=torch.float64), covariance)

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sde = self.mixture.sde
        return -SDE.expand(sde.sigma(t), x_0) * self.mixture.score(sde.perturb(x_0, noise, t), t) - noise


class Wave(nn.Module):
    """The network is some smooth function of the input and the noise label."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(2 * x + labels[:, None])


def data(count: int, seed: int = 0) -> Tensor:
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(MEAN, dtype=torch.float64) + torch.tensor(VARIANCES, dtype=torch.float64).sqrt() * noise


def scalar(function, t: float) -> float:
    return function(torch.tensor(t, dtype=torch.float64)).item()


def least_loss(sde: SDE, t: float) -> float:
    """Return the exact network's error at t."""
    signal, noise = scalar(sde.alpha, t) ** 2, scalar(sde.sigma, t) ** 2
    return sum(signal * variance / (signal * variance + noise) for variance in VARIANCES) / len(VARIANCES)


def weighted(sde: SDE, weighting: str, t: float) -> float:
    """Return the weighting as the papers have it, up to the stated normalisation; `t` in [t_min, T]."""
    ends = [scalar(sde.log_snr, end) for end in (T_MIN, sde.T)]
    rho = math.exp(-scalar(sde.log_snr, t) / 2)
    rate = scalar(sde.diffusion_squared, t) / scalar(sde.sigma, t) ** 2
    if weighting == "sigma2":
        return 1 / (sde.T - T_MIN)
    if weighting == "likelihood":
        return rate / (ends[0] - ends[1])
    z = [(-end / 2 + 1.2) / 1.2 for end in (*ends, -2 * math.log(rho))]
    kept = (math.erf(z[1] / 2**0.5) - math.erf(z[0] / 2**0.5)) / 2
    density = math.exp(-(z[2] ** 2) / 2) / (1.2 * (2 * math.pi) ** 0.5 * kept) * rate / 2
    # lambda(sigma) ||D - y||^2 of table 1, where D - y = rho (eps - eps_hat)
    return density * (rho**2 + DATA_STD**2) / (rho * DATA_STD) ** 2 * rho**2


def integral(function) -> float:
    """Compute `∫ function(t) dt` over [t_min, T], in log t, since some integrands crowd at small t."""
    ends = math.log(T_MIN), 0.0
    value, error = quad(lambda s: math.exp(s) * function(math.exp(s)), *ends, limit=200, epsrel=1e-5)
    assert error < 1e-4 * abs(value)
    return value


def seeded(count: int, seed: int) -> BatchNoise:
    return BatchNoise(count, torch.Generator().manual_seed(seed))


def within_standard_errors(samples: Tensor, expected: float, number: float = 4) -> bool:
    return abs(samples.mean().item() - expected) < number * samples.std().item() / len(samples) ** 0.5


# Log-normal levels seldom reach the ends of a wide process, so other weights against them have a huge variance there.
PAIRS = [
    (name, weighting, levels)
    for name in SDES
    for weighting in ("sigma2", "likelihood", "edm")
    for levels in ("uniform", "log_snr", "edm")
    if levels != "edm" or weighting == "edm" or name == "narrow ve"
]


@pytest.mark.parametrize(("name", "weighting", "times"), PAIRS)
def test_loss_of_the_exact_network(name: str, weighting: str, times: str) -> None:
    """Each weighting's loss is what it should be, whatever the levels are drawn from."""
    sde = SDES[name]
    objective = get_objective(sde, weighting=weighting, times=times, t_min=T_MIN, stratified=False, data_std=DATA_STD)
    losses = objective(Exact(sde), Batch(data(20_000)), seeded(20_000, 1)).values
    expected = integral(lambda t: weighted(sde, weighting, t) * least_loss(sde, t))
    assert within_standard_errors(losses, expected)


@pytest.mark.parametrize("weighting", ["sigma2", "likelihood"])
def test_predicting_nothing_has_loss_one(weighting: str) -> None:
    class Nothing:
        def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            return -noise

    for sde in SDES.values():
        objective = get_objective(sde, weighting=weighting, times="log_snr", t_min=T_MIN)
        assert within_standard_errors(objective(Nothing(), Batch(data(20_000)), seeded(20_000, 2)).values, 1.0)


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_importance_sampling_has_the_same_gradient_with_less_variance(name: str) -> None:
    """For `eps_hat = theta x`, whose gradient is `∫ w 2 (theta v - sigma) dt` with `v = E x^2`."""
    sde, theta, count = SDES[name], 0.3, 50_000
    second_moment = sum(variance + mean**2 for variance, mean in zip(VARIANCES, MEAN, strict=True)) / 2

    def gradient(t: float) -> float:
        sigma = scalar(sde.sigma, t)
        variance = scalar(sde.alpha, t) ** 2 * second_moment + sigma**2
        return weighted(sde, "likelihood", t) * 2 * (theta * variance - sigma)

    class Linear:
        def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            return theta_each[:, None] * sde.perturb(x_0, noise, t) - noise

    variances = {}
    for times in ("uniform", "log_snr"):
        objective = get_objective(sde, weighting="likelihood", times=times, t_min=T_MIN, stratified=False)
        # One copy of the parameter an example, so that each example's gradient is seen.
        theta_each = torch.full((count,), theta, dtype=torch.float64, requires_grad=True)
        losses = objective(Linear(), Batch(data(count)), seeded(count, 3)).values
        (gradients,) = torch.autograd.grad(losses.sum(), theta_each)
        assert within_standard_errors(gradients, integral(gradient))
        variances[times] = gradients.var().item()
    assert variances["log_snr"] < 0.5 * variances["uniform"]


def test_stratification_reduces_the_variance_of_the_loss_as_computed() -> None:
    """For a noise error `h(t)^(1/2)`, the batch mean has variance `Var h / B`, or stratified `sum_i Var_i h / B^2`."""
    sde, size, count = VPSDE(), 16, 2000

    class Known:
        def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            return SDE.expand(sde.alpha(t), x_0).expand(x_0.shape)

    u = (torch.arange(size * 1000, dtype=torch.float64) + 0.5) / (size * 1000)
    strata = sde.alpha(T_MIN + (1 - T_MIN) * u).square().reshape(size, 1000)
    expected = {False: strata.var() / size, True: strata.var(dim=1).sum() / size**2}
    assert expected[False] / expected[True] > 100
    for stratified, variance in expected.items():
        objective = get_objective(sde, t_min=T_MIN, stratified=stratified)
        generator = torch.Generator().manual_seed(4)
        x_0 = torch.zeros(size, 1, dtype=torch.float64)
        means = torch.stack(
            [objective(Known(), Batch(x_0), BatchNoise(size, generator)).values.mean() for _ in range(count)]
        )
        assert math.isclose(means.var().item(), variance.item(), rel_tol=4 * (2 / count) ** 0.5)


LADDERS = {"ddpm": DDPMLadder(cosine_betas(12)), "smld": NCSNLadder(geometric_sigmas(12, 0.05, 5.0))}


@pytest.mark.parametrize("ladder", LADDERS.values(), ids=LADDERS.keys())
def test_discrete_loss_of_the_exact_network(ladder) -> None:
    times = ladder.time(torch.arange(12)).tolist()
    expected = sum(least_loss(ladder, t) for t in times) / 12
    objective = get_discrete_objective(ladder, stratified=False)
    assert within_standard_errors(objective(Exact(ladder), Batch(data(20_000)), seeded(20_000, 5)).values, expected)


def test_discrete_losses_are_the_published_ones() -> None:
    """`L_simple` of DDPM and the weighted loss of SMLD, written with their tables, example by example."""
    x_0, noise = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    index = torch.arange(12)
    network = Wave()

    ladder = LADDERS["ddpm"]
    alpha_bar = torch.cumprod(1 - cosine_betas(12), 0)[:, None]
    x = torch.sqrt(alpha_bar) * x_0 + torch.sqrt(1 - alpha_bar) * noise
    expected = ((noise - network(x, index)) ** 2).mean(1)
    model = ScoreModel(network, ladder, "noise", "rung", scale_input=False)
    torch.testing.assert_close(noise_losses(model, x_0, noise, ladder.time(index)), expected, rtol=1e-11, atol=1e-12)

    ladder = LADDERS["smld"]
    sigma = geometric_sigmas(12, 0.05, 5.0)[:, None]
    x = x_0 + sigma * noise
    expected = sigma[:, 0] ** 2 * ((network(x, index) + noise / sigma) ** 2).mean(1)
    model = ScoreModel(network, ladder, "score", "rung", scale_input=False)
    torch.testing.assert_close(noise_losses(model, x_0, noise, ladder.time(index)), expected, rtol=1e-11, atol=1e-12)


def test_half_the_sum_over_dimensions() -> None:
    """As in SMLD's loss: a factor `d / 2`, here 1 in the plane and 3/2 in space; nothing else changes."""
    for ladder, factor in ((NCSNLadder(geometric_sigmas(20)), 1.0), (NCSNLadder(geometric_sigmas(20)), 1.5)):
        x_0 = torch.ones(5, int(2 * factor), dtype=torch.float64)
        for make in (get_objective, get_discrete_objective):
            mean, half_sum = (
                make(ladder, reduce_mean=reduce_mean)(ScoreModel(Wave(), ladder), Batch(x_0), seeded(5, 0)).values
                for reduce_mean in (True, False)
            )
            torch.testing.assert_close(half_sum, factor * mean, rtol=1e-14, atol=0)


def test_the_shares_of_a_batch_make_the_batch() -> None:
    """Each row has the time and the noise that it has in the whole batch, wherever it is."""
    objective, model, x_0 = get_objective(VPSDE()), Exact(VPSDE()), data(12)
    whole = objective(model, Batch(x_0), seeded(12, 9))
    for rows in (slice(0, None, 3), slice(1, None, 3), slice(5, None, 6)):
        share = objective(model, Batch(x_0)[rows], BatchNoise(12, torch.Generator().manual_seed(9), rows))
        assert share.times is not None
        assert whole.times is not None
        assert torch.equal(share.times, whole.times[rows])
        torch.testing.assert_close(share.values, whole.values[rows], rtol=1e-12, atol=0)


def test_an_objective_repeats_itself() -> None:
    """A seed gives the same times and noises; the default generator gives others."""
    objective, model, x_0 = get_objective(VPSDE()), Exact(VPSDE()), data(8)
    first, again = (objective(model, Batch(x_0), seeded(8, 7)) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert first.times is not None
    assert again.times is not None
    assert torch.equal(first.times, again.times)
    assert not torch.equal(first.values, objective(model, Batch(x_0)).values)


def test_training_reaches_the_least_loss() -> None:
    """A small network trained for seconds comes within 5% of the best there is."""
    sde = VPSDE()
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, width=32, num_blocks=2), sde, "velocity")
    objective = get_objective(sde, weighting="likelihood", times="log_snr", t_min=T_MIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        loss = objective(model, Batch(data(128, seed=step).float())).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = integral(lambda t: weighted(sde, "likelihood", t) * least_loss(sde, t))
    with torch.no_grad():
        reached = objective(model, Batch(data(20_000, seed=-1).float()), seeded(20_000, 8)).values.mean().item()
    assert best < reached < 1.05 * best


def test_mistakes_are_explained() -> None:
    with pytest.raises(UserError, match=r"no weighting is called 'likelyhood' \(did you mean 'likelihood'"):
        get_objective(VPSDE(), weighting="likelyhood")
    with pytest.raises(UserError, match=r"no distribution of times is called 'logsnr' \(did you mean 'log_snr'"):
        get_objective(VPSDE(), times="logsnr")
    with pytest.raises(UserError, match="needs a ladder"):
        get_discrete_objective(VPSDE())


@pytest.mark.parametrize("times", ["uniform", "logit_normal", "mode"])
def test_the_flow_weighting_is_flow_matching(times: str) -> None:
    """The loss is the mean square error of a network that predicts the flow, at times as they are drawn."""
    sde = RectifiedFlow()
    model, x_0 = ScoreModel(Wave(), sde, "flow"), data(16)
    objective = get_objective(sde, weighting="flow", times=times, shape=TimeShape(shift=2.0))
    found = objective(model, Batch(x_0), seeded(16, 5))
    source = seeded(16, 5)
    t = sample_times(objective.times, source)
    noise = source.normal(x_0)
    x_t = (1 - t)[:, None] * x_0 + t[:, None] * noise
    expected = (model.predict(x_t, t) - (noise - x_0)).square().flatten(1).mean(1)
    torch.testing.assert_close(found.values, expected, rtol=1e-9, atol=0)
