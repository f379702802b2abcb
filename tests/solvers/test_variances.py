"""Steps and bounds with the variance of `x_0 | x_t`: against Gaussians, Bayes' rule, and fixed variances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture, Given
from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, KnownVariance, measure_variance
from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, RectifiedFlow, SubVPSDE, cosine_betas
from score_sde.solvers import get_solver, sample_path, step_log_prob
from score_sde.solvers.density.bounds import discrete_bound, gaussian_decoder
from score_sde.solvers.grids import time_grid

FLOAT = torch.float64
SDES = [VPSDE(), SubVPSDE(), VESDE(sigma_max=5.0), DDPMLadder(cosine_betas(50))]
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("pc", {"predictor": "ancestral", "corrector": "none"}),
    "reverse_diffusion": ("pc", {"predictor": "reverse_diffusion", "corrector": "none"}),
    "ddim": ("ddim", {"eta": 1.0}),
    "ddim, less noise": ("ddim", {"eta": 0.4}),
}


def normal_data(sde: SDE) -> GaussianMixture:
    """Independent normal numbers of three sizes."""
    return GaussianMixture(
        sde, torch.ones(1), torch.tensor([[0.3, -0.5, 0.1]]), torch.diag(torch.tensor([0.5, 0.04, 1e-4]))[None]
    )


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_backward_is_bayes_rule(sde: SDE) -> None:
    """The posterior of `x_s`, from its prior given `x_0` and the likelihood of `x_t`, precision by precision."""
    s, t = torch.tensor([0.1, 0.3, 0.6], dtype=FLOAT), torch.tensor([0.25, 0.31, 1.0], dtype=FLOAT)
    scale, variance = sde.backward(s, t)
    forward, noise = sde.transition(s, t)
    precision = 1 / sde.sigma(s) ** 2 + forward**2 / noise
    torch.testing.assert_close(variance, 1 / precision, rtol=1e-10, atol=0)
    torch.testing.assert_close(scale, sde.alpha(s) / sde.sigma(s) ** 2 / precision, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_on_normal_data_every_step_keeps_the_marginals(sde: SDE, name: str) -> None:
    """However long steps are: what a step makes of `p_t` is `p_s`; of ancestral ones, step by step, `x_s | x_t` too."""
    model = KnownVariance(normal_data(sde))
    solver_name, options = STEPS[name]
    solver = get_solver(solver_name, num_steps=4, grid="uniform_log_snr", **options)
    x_T = sde.prior_sample((2, 3), seeds=range(2), dtype=FLOAT)
    x_T[1] = x_T[0] + 1
    path = sample_path(solver, model, x_T, seeds=range(2))
    found = step_log_prob(solver, model, path.states, path.times)
    here = sde.at(path.times)
    size = model.model.eigenvalues[0][torch.argsort(model.model.basis[0].abs().argmax(0))]
    marginal = here.alpha[:, None] ** 2 * size + here.sigma[:, None] ** 2
    slope = (found.mean[:, 1] - found.mean[:, 0]) / (path.states[:-1, 1] - path.states[:-1, 0])
    assert found.std.shape == found.mean.shape == (3, 2, 3)
    if name != "reverse_diffusion":
        whole = slope**2 * marginal[:-1] + found.std[:, 0] ** 2
        torch.testing.assert_close(whole, marginal[1:], rtol=1e-8, atol=0)
    if name in ("ancestral", "reverse_diffusion"):
        forward, _ = sde.transition(path.times[1:], path.times[:-1])
        covariance = forward[:, None] * marginal[1:]
        expected = marginal[1:] - covariance**2 / marginal[:-1]
        torch.testing.assert_close(found.std[:, 1] ** 2, expected, rtol=1e-8, atol=0)
    expected = Normal(found.mean, found.std).log_prob(path.states[1:]).sum(2).T
    torch.testing.assert_close(found.log_prob, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(path.log_prob, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sde", [*SDES, RectifiedFlow()], ids=lambda sde: type(sde).__name__)
def test_ancestral_sampling_and_ddim_with_all_noise_are_one(sde: SDE) -> None:
    """And so they are where the posterior of a whole mixture gives their variances, and the states are watched."""
    model = mixture(sde)
    x_T, seeds = sde.prior_sample((5, 2), seeds=range(5), dtype=FLOAT), range(5)
    ancestral, ddim = (
        get_solver(name, num_steps=6, grid="uniform_log_snr", **STEPS[kind][1])(
            KnownVariance(model), x_T, seeds=seeds, trajectory=True
        )
        for name, kind in (("pc", "ancestral"), ("ddim", "ddim"))
    )
    torch.testing.assert_close(ancestral.x, ddim.x, rtol=1e-7, atol=1e-7)
    for one, other in zip(ancestral.trajectory, ddim.trajectory, strict=True):
        torch.testing.assert_close(one.denoised, other.denoised, rtol=1e-7, atol=1e-7)
    fixed = get_solver("ddim", num_steps=6, grid="uniform_log_snr", eta=1.0)(model, x_T, seeds=seeds)
    assert float((fixed.x - ddim.x).abs().max()) > 0.1
    # Without noise nothing is added: the flow is the flow.
    flow = get_solver("ddim", num_steps=6)
    assert torch.equal(flow(KnownVariance(model), x_T).x, flow(model, x_T).x)


def test_the_larger_fixed_variance_is_the_forward_steps() -> None:
    """Under VP, for any steps: that of standard normal data."""
    s, t = torch.tensor([0.01, 0.3], dtype=FLOAT), torch.tensor([0.2, 1.0], dtype=FLOAT)
    model = FixedVariance(normal_data(VPSDE()), 1.0)
    scale, floor = model.sde.backward(s, t)
    _, variance = model.posterior(torch.zeros(2, 3, dtype=FLOAT), t).both
    _, forward = model.sde.transition(s, t)
    torch.testing.assert_close(floor + scale**2 * variance[:, 0], forward, rtol=1e-12, atol=0)


def test_a_variance_of_nothing_is_the_fixed_one() -> None:
    """The steps with it are those without any, to rounding, one by one and in the bound; through `Given`, too."""
    model = mixture(VPSDE())
    none = Given(FixedVariance(model, 0.0), None)
    x_T, seeds = model.sde.prior_sample((5, 2), seeds=range(5), dtype=FLOAT), range(5)
    for name, options in STEPS.values():
        if options.get("predictor") != "reverse_diffusion":
            solver = get_solver(name, num_steps=5, **options)
            torch.testing.assert_close(solver(none, x_T, seeds=seeds).x, solver(model, x_T, seeds=seeds).x)


def mixture(sde: SDE, width: float = 0.2) -> GaussianMixture:
    means = torch.tensor([[0.6, 0.0], [-0.5, 0.6], [-0.2, -0.7]], dtype=FLOAT)
    roots = torch.tensor([[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.3]], [[0.25, 0], [0.1, 0.15]]], dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT), means, width**2 * roots @ roots.mT)


def samples_of(model: GaussianMixture, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    share = torch.multinomial(model.log_weights.exp(), count, replacement=True, generator=generator)
    scaled = model.eigenvalues[share].sqrt() * torch.randn(count, 2, generator=generator, dtype=FLOAT)
    return model.means[share] + torch.einsum("bij,bj->bi", model.basis[share], scaled)


def carried(model: Any, num_steps: int, x: Tensor) -> Tensor:
    """Return the density at `t_min` of ancestral samples, `(n,)`, from the prior by all steps, by quadrature on `x`."""
    options = {"predictor": "ancestral", "corrector": "none", "t_min": 0.01, "denoise": False}
    times = time_grid(model.sde, "uniform_t", num_steps, 0.01)
    states = x[:, None].expand(num_steps, -1, 1)
    steps = step_log_prob(get_solver("pc", num_steps=num_steps, **options), model, states, times)
    density = model.sde.prior_log_prob(x[:, None]).exp()
    std = steps.std if steps.std.ndim > 1 else steps.std.reshape(-1, 1, 1).expand_as(steps.mean)
    for mean, width in zip(steps.mean[..., 0], std[..., 0], strict=True):
        density = Normal(mean, width).log_prob(x[:, None]).exp() @ density * (x[1] - x[0])
    return density


@pytest.mark.parametrize("num_steps", [10, 25])
def test_ancestral_samples_are_closer_to_the_mixture_than_with_either_fixed_variance(num_steps: int) -> None:
    """In their moments and in two distances, without any sampling error."""
    sde, x = VPSDE(), torch.linspace(-4.8, 4.8, 641, dtype=FLOAT)
    model = GaussianMixture(
        sde, torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[0.8], [-0.4], [-1.3]]), torch.full((3, 1, 1), 0.09)
    )
    exact = model.log_prob(x[:, None], torch.tensor(0.01, dtype=FLOAT)).exp()
    share = torch.multinomial(model.log_weights.exp(), 600, True, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(600, 1, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    variances: dict[str, Any] = {
        "small": model,
        "large": FixedVariance(model, 1.0),
        "exact": KnownVariance(model),
        "by its derivative": JacobianVariance(model, seed=3),
        "by its errors": measure_variance(model, model.means[share] + 0.3 * noise, num_times=24),
    }
    worst: dict[str, tuple[float, ...]] = {}
    for name, known in variances.items():
        found = carried(known, num_steps, x)
        assert float(found.sum() * (x[1] - x[0])) == pytest.approx(1, abs=1e-3)
        moments = [float((x**k * (found - exact)).sum() * (x[1] - x[0])) for k in (2, 4)]
        variation = 0.5 * float((found - exact).abs().sum() * (x[1] - x[0]))
        wasserstein = float((found - exact).cumsum(0).abs().sum() * (x[1] - x[0]) ** 2)
        worst[name] = (math.hypot(*moments), variation, wasserstein)
        print(num_steps, f"{name:18}", *(f"{value:.4f}" for value in worst[name]))
    for name in ("exact", "by its derivative"):
        for measure, small, large in zip(worst[name], worst["small"], worst["large"], strict=True):
            assert measure < 0.65 * min(small, large)
    # One number for all states of a time is less.
    assert all(a < b for a, b in zip(worst["by its errors"], worst["small"], strict=True))


def test_one_step_of_the_bound_is_the_divergence_of_its_two_gaussians() -> None:
    """`q(x_s | x_t, x_0)` and the step, each number with its own variance; less what is 0 in the mean."""
    model = KnownVariance(mixture(VPSDE()))
    x_0, sde = samples_of(model.model, 4, 0), model.sde
    s, t = torch.tensor(0.3, dtype=FLOAT), torch.tensor(1.0, dtype=FLOAT)
    bound = discrete_bound(model, x_0, gaussian_decoder(x_0), num_steps=2, grid=[1.0, 0.3], t_min=0.3, seeds=range(4))
    noise = SampleNoise(range(4), "bound")
    noise.uniform(x_0[:, :1])
    eps = noise.normal(x_0)
    mean, variance = model.posterior(sde.perturb(x_0, eps, t), t).both
    scale, floor = sde.backward(s, t)
    q = Independent(Normal(scale * x_0, floor.sqrt()), 1)
    p = Independent(Normal(scale * mean, (floor + scale**2 * variance).sqrt()), 1)
    square = x_0.square().mean(1, keepdim=True)
    k = square / (square + torch.exp(-sde.log_snr(t)))
    w = torch.expm1(sde.log_snr(s) - sde.log_snr(t))
    known = (0.5 * w * k**2 / (1 + w * k) * (eps.square() - 1)).sum(1)
    torch.testing.assert_close(bound.diffusion, kl_divergence(q, p) - known, rtol=1e-9, atol=0)
    assert bound.nfe == 2


def test_bounds_with_it_lie_below_the_truth_and_nearer_than_without(one_generator: torch.Generator) -> None:
    """With exact scores, example by example."""
    model, repeats = mixture(VPSDE()), 600
    x_0 = samples_of(model, 4, 0)
    # At time 0 there is no noise.
    truth = model.log_prob(x_0, torch.tensor(0.0, dtype=FLOAT))
    repeated = x_0.repeat_interleave(repeats, dim=0)
    variances: dict[str, Any] = {"fixed": model, "large": FixedVariance(model, 1.0), "exact": KnownVariance(model)}
    gaps: dict[str, list[float]] = {name: [] for name in variances}
    for num_steps in (20, 40):
        for name, known in variances.items():
            bound = discrete_bound(
                known, repeated, gaussian_decoder(repeated), num_steps=num_steps, t_min=1e-5, seeds=range(len(repeated))
            )
            values = bound.log_prob.reshape(4, repeats)
            gap, error = truth - values.mean(1), values.std(1) / math.sqrt(repeats)
            print(name, num_steps, gap.tolist(), error.tolist())
            gaps[name].append(float(gap.mean()))
            assert bool((gap > -3 * error).all())
    print(gaps)
    assert np.all(np.array(gaps["exact"]) < 0.5 * np.minimum(gaps["fixed"], gaps["large"]))
