"""A learned variance against equation 15 of IDDPM, and how its gradients go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import Given, ScoreModel
from score_sde.models.learned_variance import LearnedVariance
from score_sde.sde import VPSDE, DDPMLadder, NCSNLadder, cosine_betas, ddpm_betas, geometric_sigmas
from score_sde.solvers import get_solver, sample_path
from score_sde.solvers.density.bounds import discrete_bound, gaussian_decoder
from score_sde.training.hybrid import HybridObjective

FLOAT = torch.float64
LADDERS = {"linear": ddpm_betas(20, beta_max=12.0), "cosine": cosine_betas(20)}


class Network(nn.Module):
    """A trunk with a head for the mean, and one for the variance that trains nothing of the trunk."""

    def __init__(self, says_variance: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.mean = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.variance = nn.Conv2d(8, 2, 3, padding=1) if says_variance else None

    def forward(self, x: Tensor, label: Tensor, condition: Condition | None = None) -> Tensor:
        h = torch.tanh(self.trunk(x) + label.to(x)[:, None, None, None] / 10)
        mean = self.mean(h)
        return mean if self.variance is None else torch.cat([mean, self.variance(h.detach())], dim=1)


def model_on(betas: Tensor) -> LearnedVariance:
    return LearnedVariance(Network(True).double(), DDPMLadder(betas), noise_label="rung")


def states(model: LearnedVariance, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, count, 2, 4, 4, generator=generator, dtype=FLOAT).unbind()


@pytest.mark.parametrize("name", LADDERS)
def test_steps_from_rung_to_rung_are_those_of_equation_15(name: str) -> None:
    """With the paper's own formulas for betas: mean of equation 11, and a variance between beta-tilde and beta."""
    betas = LADDERS[name]
    model = model_on(betas)
    alpha_bar = torch.cumprod(1 - betas, 0)
    solver = get_solver("pc", predictor="ancestral", corrector="none", grid=[(i + 1) / 20 for i in range(19, -1, -1)])
    x_T = model.sde.prior_sample((3, 2, 4, 4), seeds=range(3), dtype=FLOAT)
    path = sample_path(solver, model, x_T, seeds=range(3))
    for k, i in enumerate(range(19, 0, -1)):
        x = path.states[k]
        eps, v = model.network(x / 1.0, torch.full((3,), float(i))).chunk(2, dim=1)
        tilde = betas[i] * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i])
        nu = (v + 1) / 2
        variance = torch.exp(nu * betas[i].log() + (1 - nu) * tilde.log())
        mean = (x - betas[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        log_prob = Normal(mean, variance.sqrt()).log_prob(path.states[k + 1]).flatten(1).sum(1)
        torch.testing.assert_close(path.log_prob[:, k], log_prob, rtol=1e-9, atol=1e-9)


def test_any_other_step_has_the_variance_of_the_data_from_the_same_answer() -> None:
    """By way of what `x_s` is for a longer step: its own conditional variance, and the spread of `x_0`."""
    model = model_on(LADDERS["linear"])
    x, _ = states(model, 3)
    s, t = torch.tensor(0.2, dtype=FLOAT), torch.tensor(0.8, dtype=FLOAT)
    scale, floor = model.sde.backward(s, t)
    path = sample_path(get_solver("ddim", eta=1.0, grid=[1.0, 0.8, 0.2], num_steps=3), model, x, seeds=range(3))
    mean, variance = model.posterior(path.states[1], t)
    carry = model.sde.transition(s, t)[0] * (model.sde.sigma(s) / model.sde.sigma(t)) ** 2
    step = Normal(scale * mean + carry * path.states[1], (floor + scale**2 * variance).clamp(min=1e-3 * floor).sqrt())
    torch.testing.assert_close(path.log_prob[:, 1], step.log_prob(path.states[2]).flatten(1).sum(1))


@pytest.mark.parametrize("name", LADDERS)
def test_the_trained_divergence_is_that_of_two_gaussians(name: str) -> None:
    """Of the two that the discrete bound compares, in their own units."""
    betas = LADDERS[name]
    model, count = model_on(betas), 19
    x_0, noise = states(model, count)
    t = (torch.arange(1, 20, dtype=FLOAT) + 1) / 20
    error, divergence = model.error_and_divergence(x_0, noise, t)
    x = model.sde.perturb(x_0, noise, t)
    torch.testing.assert_close(error, model.noise(x, t) - noise)
    mean, variance = model.posterior(x, t)
    scale, floor = (model.sde.expand(value, x) for value in model.sde.backward(t - 1 / 20, t))
    q = Normal(scale * x_0, floor.sqrt())
    p = Normal(scale * mean, (floor + scale**2 * variance).sqrt())
    torch.testing.assert_close(divergence, kl_divergence(q, p), rtol=1e-6, atol=1e-9)


def test_the_bounds_gradient_by_the_means_output_is_nothing_at_all() -> None:
    outputs: list[Tensor] = []

    class Told(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            outputs.append(torch.randn(len(x), 4, 4, 4, dtype=FLOAT, requires_grad=True))
            return outputs[0]

    model = LearnedVariance(Told(), DDPMLadder(LADDERS["cosine"]))
    x_0, noise = states(model, 5)
    _, divergence = model.error_and_divergence(x_0, noise, torch.linspace(0.2, 1, 5, dtype=FLOAT))
    divergence.sum().backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert bool((gradient[:, :2] == 0).all())
    assert bool((gradient[:, 2:] != 0).all())


def test_with_a_head_of_its_own_the_mean_is_trained_as_without_to_the_bit() -> None:
    """Ten steps of Adam on `L_hybrid` and on `L_simple`, with the same rungs and noise."""
    ladder = DDPMLadder(LADDERS["cosine"])
    x_0 = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    batch, trained = Batch(x_0), {}
    for says_variance in (True, False):
        network = Network(says_variance)
        kind = LearnedVariance if says_variance else ScoreModel
        model = kind(network, ladder, noise_label="rung")
        objective = HybridObjective(ladder)
        simple = copy.copy(objective)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(10):
            noise = BatchNoise(8, torch.Generator().manual_seed(step))
            if says_variance:
                losses = objective(model, batch, noise).values
            else:
                t = simple.times.quantile(_evenly(noise))
                losses = model.noise_error(x_0, noise.normal(x_0), t).square().flatten(1).mean(1)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
        trained[says_variance] = network
    with_variance, without = trained[True], trained[False]
    for name, weights in without.state_dict().items():
        assert torch.equal(weights, with_variance.state_dict()[name])
    assert not torch.equal(with_variance.variance.weight, Network(True).variance.weight)


def _evenly(noise: BatchNoise) -> Tensor:
    """Return where in [0, 1) the times of a batch lie, as `sample_times` draws them."""
    from score_sde.sde.times import sample_times

    class Itself:
        def quantile(self, u: Tensor) -> Tensor:
            return u

        def density(self, t: Tensor) -> Tensor:
            return torch.ones_like(t)

    return sample_times(Itself(), noise)


def test_the_bound_teaches_the_variance_that_is_there() -> None:
    """Of normal data with the exact mean its minimum at each rung is where the errors' mean square is."""
    size, ladder = 0.3, DDPMLadder(LADDERS["cosine"])
    t = (torch.arange(1, 20, dtype=FLOAT) + 1) / 20
    here, below = ladder.at(t), ladder.at(t - 1 / 20)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 19, 1, 100, 100, generator=generator, dtype=FLOAT)
    x = ladder.perturb(size * x_0, noise, t)
    alpha, sigma = here.to(x)
    errors = (size * x_0 - alpha * size**2 / (alpha**2 * size**2 + sigma**2) * x).square().flatten(1).mean(1)
    ratio = 1 + (below.log_snr.exp() - here.log_snr.exp()) * errors
    v = (2 * torch.log(ratio) / (2 * torch.log(here.sigma / below.sigma)) - 1).requires_grad_()

    class Known(nn.Module):
        """The exact noise of normal data, and a number for each rung."""

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            eps = sigma / (alpha**2 * size**2 + sigma**2) * x
            return torch.cat([eps, v[:, None, None, None].expand_as(x)], dim=1)

    model = LearnedVariance(Known(), ladder, noise_label="rung", scale_input=False)
    divergence = model.error_and_divergence(size * x_0, noise, t)[1].flatten(1).mean(1)
    (gradient,) = torch.autograd.grad(divergence.sum(), v)
    torch.testing.assert_close(gradient, torch.zeros_like(v), rtol=0, atol=1e-10)
    found = model.posterior(x, t).variance[:, 0, 0, 0]
    torch.testing.assert_close(found, errors, rtol=1e-9, atol=0)
    known = size**2 * here.sigma**2 / (here.alpha**2 * size**2 + here.sigma**2)
    torch.testing.assert_close(found, known, rtol=0.06, atol=0)


def test_conditions_are_handed_on_and_below_the_first_rung_there_is_an_answer() -> None:
    model = model_on(LADDERS["linear"])
    x, _ = states(model, 3)
    told = Given(model, Condition({"class": torch.zeros(3, dtype=torch.long)}))
    t = torch.tensor(0.05, dtype=FLOAT)
    torch.testing.assert_close(told.posterior(x, t), model.posterior(x, t), rtol=0, atol=0)
    # At the first rung a step goes halfway: `log (beta / beta-tilde)` is there that of the two noises.
    scale, floor = model.sde.backward(t / 2, t)
    nu = model.predict_both(x, t)[1]
    ratio = (model.sde.sigma(t) / model.sde.sigma(t / 2)) ** 2
    torch.testing.assert_close(floor + scale**2 * model.posterior(x, t).variance, floor * ratio**nu)
    bound = discrete_bound(model, x, gaussian_decoder(x), num_steps=20, grid="uniform_t", seeds=range(3))
    assert bound.nfe == 20


def test_what_cannot_be_is_refused() -> None:
    for sde in (VPSDE(), NCSNLadder(geometric_sigmas(10)), DDPMLadder(torch.tensor([0.5]))):
        with pytest.raises(UserError, match="between the rungs of a ladder"):
            LearnedVariance(Network(True), sde)
    model = LearnedVariance(Network(False), DDPMLadder(LADDERS["linear"]), noise_label="rung")
    with pytest.raises(UserError, match="twice the channels"):
        model.denoise(torch.zeros(1, 2, 4, 4), torch.tensor(0.5))
