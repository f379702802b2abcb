"""The model of levels on two pixels whose joint distribution of levels is known, so that everything is exact."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from score_sde.models import QuantisedModel
from score_sde.models.quantised_model import truncated_normal
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE

LEVELS = 3
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]


def joint() -> Tensor:
    """Probabilities of the levels of two dependent pixels."""
    return torch.tensor([[0.30, 0.05, 0.02], [0.03, 0.20, 0.05], [0.01, 0.04, 0.30]], dtype=torch.float64)


def log_evidence(sde: SDE, x: Tensor, t: Tensor, dequantised: bool) -> Tensor:
    """`log p(x_t | level)` of each pixel, `(B, levels, pixels)`: bins of width 2/3 from -1, or points at -1, 0, 1."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if not dequantised:
        points = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        return torch.distributions.Normal(alpha * points[:, None], sigma).log_prob(x[:, None, :])
    edges = torch.linspace(-1, 1, LEVELS + 1, dtype=torch.float64)
    z = (alpha * edges[:, None] - x[:, None, :]) / sigma
    return torch.log((torch.special.ndtr(z[:, 1:]) - torch.special.ndtr(z[:, :-1])) / (alpha * 2 / LEVELS))


def log_prob(sde: SDE, x: Tensor, t: Tensor, dequantised: bool) -> Tensor:
    evidence = log_evidence(sde, x, t, dequantised)
    return torch.logsumexp(joint().log() + evidence[:, :, None, 0] + evidence[:, None, :, 1], dim=(1, 2))


class Context(nn.Module):
    """The best logits: `log p(level of a pixel | noisy value of the other)`. Noise labels are times."""

    def __init__(self, sde: SDE, dequantised: bool = True) -> None:
        super().__init__()
        self.sde = sde
        self.dequantised = dequantised

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        evidence = log_evidence(self.sde, x, t[0], self.dequantised)
        first = torch.logsumexp(joint().log() + evidence[:, None, :, 1], dim=2)
        second = torch.logsumexp(joint().log() + evidence[:, :, None, 0], dim=1)
        return torch.stack([first, second], dim=2).flatten(1)


def exact_model(sde: SDE, dequantised: bool = True) -> QuantisedModel:
    network = Context(sde, dequantised)
    return QuantisedModel(network, sde, LEVELS, noise_label=lambda t: t, scale_input=False, dequantised=dequantised)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("log_snr", [3.0, 0.0, -6.0])
@pytest.mark.parametrize("dequantised", [True, False], ids=["bins", "points"])
def test_score_is_the_gradient_of_the_log_density(sde: SDE, log_snr: float, dequantised: bool) -> None:
    t = sde.time_at_log_snr(torch.tensor(log_snr))
    x_0 = 2 * torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    x = sde.perturb(x_0, torch.ones_like(x_0), t).requires_grad_()
    (gradient,) = torch.autograd.grad(log_prob(sde, x, t, dequantised).sum(), x)
    model = exact_model(sde, dequantised)
    torch.testing.assert_close(model.score(x, t), gradient, rtol=1e-8, atol=1e-9)
    tweedie = (x + sde.expand(sde.sigma(t) ** 2, x) * gradient) / sde.expand(sde.alpha(t), x)
    torch.testing.assert_close(model.denoise(x, t), tweedie, rtol=1e-6, atol=1e-8)


def test_low_noise_needs_no_network() -> None:
    """With noise far below the bins' width, a point well inside its bin has the score 0, whatever the network."""

    class Arbitrary(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return torch.sin(1 + torch.arange(3 * x[0].numel(), dtype=x.dtype)).expand(len(x), -1)

    model = QuantisedModel(Arbitrary(), VESDE(sigma_min=1e-3), LEVELS)
    x = torch.tensor([[-0.6, 0.1]], dtype=torch.float64)
    t = torch.tensor(0.0, dtype=torch.float64)
    assert float(model.score(x, t).abs().max()) < 1e-6
    torch.testing.assert_close(model.denoise(x, t), x, rtol=0, atol=1e-12)


def test_errors_from_the_levels_mean_differ_from_noise_errors_by_a_constant() -> None:
    """`E(eps_hat - eps)^2 - E(eps_hat - E[eps | x, k])^2` is the same for the best logits as for none, and positive."""
    sde, t = VPSDE(), torch.tensor(0.25, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    levels = torch.multinomial(joint().flatten(), 100_000, replacement=True, generator=generator)
    k = torch.stack([levels // LEVELS, levels % LEVELS], dim=1)
    x_0 = (k + torch.rand(k.shape, dtype=torch.float64, generator=generator)) * 2 / LEVELS - 1
    noise = torch.randn(k.shape, dtype=torch.float64, generator=generator)
    x = sde.perturb(x_0, noise, t)

    class NoContext(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros(len(x), LEVELS * 2, dtype=x.dtype)

    differences, variances = [], []
    for network in (Context(sde), NoContext()):
        model = QuantisedModel(network, sde, LEVELS, noise_label=lambda t: t, scale_input=False)
        plain = (model.noise(x, t) - noise).square().sum(1)
        conditioned = model.noise_error(x_0, noise, t).square().sum(1)
        differences.append(plain - conditioned)
        variances.append((float(plain.var()), float(conditioned.var())))
    gap = differences[0] - differences[1]
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(gap))
    assert float(differences[0].mean()) > 20 * float(differences[0].std()) / math.sqrt(len(gap))
    assert all(conditioned < plain for plain, conditioned in variances)


def test_of_points_the_noise_error_is_the_plain_one() -> None:
    """A point leaves nothing open: `E[eps | x_t, k]` is `eps` itself."""
    sde, t = VPSDE(), torch.tensor(0.25, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x_0 = torch.randint(0, LEVELS, (50, 2), generator=generator).double() - 1
    noise = torch.randn(x_0.shape, dtype=torch.float64, generator=generator)
    model = exact_model(sde, dequantised=False)
    expected = model.noise(sde.perturb(x_0, noise, t), t) - noise
    torch.testing.assert_close(model.noise_error(x_0, noise, t), expected, rtol=0, atol=1e-10)


def test_truncated_normal_is_scipys_and_keeps_its_digits_far_out() -> None:
    low = torch.tensor([-1.0, 0.2, 3.0, -9.0, -0.001, 30.0], dtype=torch.float64)
    high = torch.tensor([0.5, 0.3, 8.0, -7.5, 0.001, 31.0], dtype=torch.float64)
    log_mass, mean = (result[:, 0] for result in truncated_normal(torch.stack([low, high], dim=1)))
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        # Relative to the density at the interval's nearest point to 0, so that nothing underflows.
        nearest = min(max(0.0, a), b)
        shift = stats.norm.logpdf(nearest)
        mass, first = (
            integrate.quad(lambda z, p=p, s=shift: z**p * math.exp(stats.norm.logpdf(z) - s), a, b, epsabs=1e-14)[0]
            for p in (0, 1)
        )
        assert float(log_mass[i]) == pytest.approx(math.log(mass) + shift, rel=1e-9)
        assert float(mean[i]) == pytest.approx(first / mass, rel=1e-7, abs=1e-9)


def test_it_differentiates_forward_for_the_divergence() -> None:
    sde, t = VPSDE(), torch.tensor(0.2, dtype=torch.float64)
    model = exact_model(sde)
    x = torch.tensor([[0.3, -0.4], [0.9, 0.2]], dtype=torch.float64)
    v = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
    product = torch.func.jvp(lambda x: model.score(x, t), (x,), (v,))[1]
    h = 1e-5
    differences = (model.score(x + h * v, t) - model.score(x - h * v, t)) / (2 * h)
    torch.testing.assert_close(product, differences, rtol=1e-6, atol=1e-7)
