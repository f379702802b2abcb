"""Every prediction type gives the mixture's own score, denoised mean and noise back, if its network is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models import MLP, GaussianMixture, ScoreModel
from score_sde.models.score_model import PARAMETRISATIONS
from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, NCSNLadder, SubVPSDE, ddpm_betas, geometric_sigmas

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE()}
DATA_STD = 0.7


def as_time(t: Tensor) -> Tensor:
    """Return the time itself as the noise label."""
    return t


def combination(prediction: str, alpha: Tensor, sigma: Tensor, denoised: Tensor, noise: Tensor) -> Tensor:
    """The exact output of a network, written out from the papers."""
    rho = sigma / alpha
    c_skip = DATA_STD**2 / (rho**2 + DATA_STD**2)
    c_out = rho * DATA_STD / torch.sqrt(rho**2 + DATA_STD**2)
    return {
        "noise": noise,
        "score": -noise / sigma,
        "denoised": denoised,
        "velocity": (alpha * noise - sigma * denoised) / torch.sqrt(alpha**2 + sigma**2),
        "edm": (denoised - c_skip * (denoised + rho * noise)) / c_out,
        "flow": noise - denoised,
    }[prediction]


class ExactNetwork(nn.Module):
    """Answers as a perfectly trained network would, in float64, then cast to the dtype of its input."""

    def __init__(self, mixture: GaussianMixture, prediction: str, scale_input: bool) -> None:
        super().__init__()
        self.mixture, self.prediction, self.scale_input = mixture, prediction, scale_input

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value.reshape(-1, 1, 1) for value in (self.mixture.sde.alpha(t), self.mixture.sde.sigma(t)))
        if self.scale_input:
            x = x * torch.sqrt(DATA_STD**2 * alpha**2 + sigma**2)
        noise = -sigma * self.mixture.score(x, t)
        return combination(self.prediction, alpha, sigma, self.mixture.denoise(x, t), noise)


class Wave(nn.Module):
    """The network is some smooth function of the input and the noise label."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(2 * x + labels.reshape(-1, *[1] * (x.ndim - 1)))


class Listener(nn.Module):
    """Remembers what it was told of the time."""

    labels: Tensor

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.labels = labels
        return x


def mixture_of(sde: SDE) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64) / 3
    means = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return GaussianMixture(sde, torch.tensor([1.0, 2.0, 3.0]), means, factor @ factor.mT)


def states(mixture: GaussianMixture, t: Tensor) -> Tensor:
    """States `(B, 2, 3)` about as far out as samples of `p_t`."""
    generator = torch.Generator().manual_seed(1)
    x_0, noise = torch.randn(2, len(t), 2, 3, generator=generator, dtype=torch.float64)
    return mixture.sde.perturb(x_0, noise, t)


@pytest.mark.parametrize("scale_input", [True, False])
@pytest.mark.parametrize("prediction", PARAMETRISATIONS)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_exact_network_gives_the_exact_model(sde: SDE, prediction: str, scale_input: bool) -> None:
    mixture = mixture_of(sde)
    network = ExactNetwork(mixture, prediction, scale_input)
    model = ScoreModel(network, sde, prediction, as_time, DATA_STD, scale_input)
    t = torch.linspace(sde.t_min, sde.T, 9, dtype=torch.float64)
    x = states(mixture, t)
    sigma = SDE.expand(sde.sigma(t), x)
    score = mixture.score(x, t)
    torch.testing.assert_close(sigma * model.score(x, t), sigma * score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.noise(x, t), -sigma * score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.denoise(x, t), mixture.denoise(x, t), rtol=1e-10, atol=1e-10)
    # One time for the whole batch.
    torch.testing.assert_close(model.noise(x, t[3])[3], model.noise(x, t)[3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PARAMETRISATIONS)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_noise_error_is_the_difference_of_noises(sde: SDE, prediction: str) -> None:
    model = ScoreModel(Wave(), sde, prediction, as_time, DATA_STD)
    t = torch.linspace(sde.t_min, sde.T, 9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x_0, noise = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    error = model.noise(sde.perturb(x_0, noise, t), t) - noise
    torch.testing.assert_close(model.noise_error(x_0, noise, t), error, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PARAMETRISATIONS)
def test_float32_noise_error_does_not_cancel(prediction: str) -> None:
    """Where a network's output is right to float32's last digit, so is the noise error, even at sigma = 1e-4."""
    sde = SubVPSDE()
    t = torch.full((64,), sde.t_min)
    generator = torch.Generator().manual_seed(3)
    x_0, noise = torch.randn(2, 64, 4, generator=generator)

    class Right(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            alpha, sigma = sde.alpha(t.double())[:, None], sde.sigma(t.double())[:, None]
            return combination(prediction, alpha, sigma, x_0.double(), noise.double()).float()

    error = ScoreModel(Right(), sde, prediction, as_time, DATA_STD).noise_error(x_0, noise, t)
    # The denoised prediction's own rounding, 2^-24 |x_0|, is magnified by 1 / sigma; only exact zeros will do there.
    assert error.abs().max() < (1e-12 if prediction == "denoised" else 2e-6)


@pytest.mark.parametrize("prediction", ["noise", "score", "velocity", "edm"])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_float32_is_accurate_at_small_sigma(sde: SDE, prediction: str) -> None:
    mixture = mixture_of(sde)
    t = torch.full((64,), sde.t_min, dtype=torch.float64)
    x = states(mixture, t)

    class Rounded(ExactNetwork):
        def forward(self, x_scaled: Tensor, labels: Tensor) -> Tensor:
            scale = torch.sqrt(DATA_STD**2 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2).reshape(-1, 1, 1)
            return super().forward(x / scale, t).float()

    model = ScoreModel(Rounded(mixture, prediction, True), sde, prediction, as_time, DATA_STD)
    exact = -SDE.expand(sde.sigma(t), x) * mixture.score(x, t)
    torch.testing.assert_close(model.noise(x.float(), t).double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.denoise(x.float(), t).double(), mixture.denoise(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_edm_is_table_1_of_the_paper(sde: SDE) -> None:
    """`D(y; sigma) = c_skip y + c_out F(c_in y; c_noise)`, with y and sigma for x / alpha and sigma / alpha."""
    t = torch.linspace(sde.t_min, sde.T, 7, dtype=torch.float64)
    y = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None].expand(7, 3)
    rho = sde.sigma(t) / sde.alpha(t)
    c_skip = DATA_STD**2 / (rho**2 + DATA_STD**2)
    c_out = rho * DATA_STD / torch.sqrt(DATA_STD**2 + rho**2)
    c_in = 1 / torch.sqrt(rho**2 + DATA_STD**2)
    c_noise = torch.log(rho) / 4
    expected = c_skip[:, None] * y + c_out[:, None] * Wave()(c_in[:, None] * y, c_noise)
    model = ScoreModel(Wave(), sde, "edm", "edm", DATA_STD)
    torch.testing.assert_close(model.denoise(sde.alpha(t)[:, None] * y, t), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_targets_have_unit_variance(sde: SDE) -> None:
    t = torch.linspace(sde.t_min, sde.T, 50, dtype=torch.float64)
    one, zero = torch.ones(50, 1, dtype=torch.float64), torch.zeros(50, 1, dtype=torch.float64)
    for prediction, data_std in {"edm": DATA_STD, "velocity": 1.0}.items():
        model = ScoreModel(Wave(), sde, prediction, data_std=data_std)
        variance = data_std**2 * model.target(one, zero, t) ** 2 + model.target(zero, one, t) ** 2
        torch.testing.assert_close(variance, one, rtol=1e-14, atol=0)


def test_velocity_is_edm_for_data_of_unit_variance_up_to_sign() -> None:
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    x_0, noise = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for sde in SDES.values():
        velocity, edm = (ScoreModel(Wave(), sde, name).target(x_0, noise, t) for name in ("velocity", "edm"))
        torch.testing.assert_close(velocity, -edm, rtol=1e-14, atol=1e-14)


def test_input_is_scaled_to_unit_variance() -> None:
    sde, t = VESDE(), torch.tensor([0.1, 0.9], dtype=torch.float64)
    x = torch.ones(2, 1, dtype=torch.float64)
    for scale_input in (True, False):
        seen = ScoreModel(Listener(), sde, data_std=0.5, scale_input=scale_input).predict(x, t)
        expected = 1 / torch.sqrt(0.25 + sde.sigma(t) ** 2) if scale_input else torch.ones(2, dtype=torch.float64)
        torch.testing.assert_close(seen[:, 0], expected, rtol=1e-14, atol=0)


def test_labels() -> None:
    """What a network is told, at t = 1/2."""
    vp, ve = VPSDE(), VESDE()
    integral = 0.1 / 2 + 19.9 / 8
    rho = math.sqrt(math.expm1(integral))
    ladders = DDPMLadder(ddpm_betas(10, beta_max=5.0)), NCSNLadder(geometric_sigmas(11))
    for sde, label, expected in [
        (vp, "time", 499.5),
        (vp, "rho", rho),
        (vp, "edm", math.log(rho) / 4),
        (vp, "log_snr", -20 * math.log(rho)),
        (ve, "sigma", math.sqrt(0.01 * 50)),
        (ladders[0], "rung", 4.0),
        (ladders[1], "rung", 5.0),
        (ladders[1], "rung_from_noisiest", 5.0),
        (NCSNLadder(geometric_sigmas(13)), "rung_from_noisiest", 6.0),
        (NCSNLadder(geometric_sigmas(14)), "rung_from_noisiest", 6.0),
    ]:
        listener = Listener()
        ScoreModel(listener, sde, noise_label=label).predict(torch.zeros(3, 2, dtype=torch.float64), torch.tensor(0.5))
        torch.testing.assert_close(
            listener.labels, torch.full((3,), expected, dtype=torch.float64), rtol=1e-13, atol=1e-13
        )


def test_unknown_names_are_explained() -> None:
    with pytest.raises(UserError, match=r"no prediction is called 'velocty' \(did you mean 'velocity'"):
        ScoreModel(Wave(), VPSDE(), "velocty")
    with pytest.raises(UserError, match=r"no noise label is called 'logsnr' \(did you mean 'log_snr'"):
        ScoreModel(Wave(), VPSDE(), noise_label="logsnr")
    with pytest.raises(UserError, match="needs a ladder"):
        ScoreModel(Wave(), VPSDE(), noise_label="rung")


def test_float64_end_to_end() -> None:
    """The same weights in float32 and float64 agree to float32's precision; float64 is not rounded on the way."""
    torch.manual_seed(0)
    network = MLP(2, width=32)
    nn.init.normal_(network.output.weight, std=0.2)
    model = ScoreModel(network, VPSDE(), "velocity")
    x, t = torch.randn(16, 2), torch.linspace(0.01, 1, 16)
    single = model.score(x, t)
    double = model.double().score(x.double(), t.double())
    assert double.dtype == torch.float64
    assert 0 < (double - single).abs().max() < 1e-4 * double.abs().max()
