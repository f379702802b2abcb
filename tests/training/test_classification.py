"""The loss and the accuracy of a classifier of noisy states, for two Gaussians whose posterior is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import Encoder, NoisyClassifier
from score_sde.sde import VPSDE
from score_sde.sde.times import UniformLogSNR, get_time_distribution, sample_times
from score_sde.training.classification import Classification, accuracy_by_log_snr

FLOAT = torch.float64
SDE, MEAN, STD = VPSDE(), 0.8, 0.5


class Exact(nn.Module):
    """`log p_t(y | x)`, up to a constant, of classes -1 and 1: `N(±m, s^2)` on a line. Noise labels are times."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        half = alpha * MEAN / ((alpha * STD) ** 2 + sigma**2) * x[:, 0]
        return torch.stack([-half, half], 1)


MODEL = NoisyClassifier(Exact(), SDE, lambda t: t, scale_input=False)


def examples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 2
    noise = torch.randn(count, 1, generator=generator, dtype=FLOAT)
    return (2.0 * classes[:, None] - 1) * MEAN + STD * noise, classes


def test_the_loss_is_the_cross_entropy():
    """`-log p(y | x_t) = log(1 + exp(-2 half))` for the right sign of `half`."""
    x_0, classes = examples(50)
    levels = get_time_distribution("log_snr", SDE, 1e-3)
    noise = BatchNoise(50, torch.Generator().manual_seed(1))
    losses = Classification(levels)(MODEL, Batch(x_0, Condition({"class": classes})), noise)
    noise = BatchNoise(50, torch.Generator().manual_seed(1))
    t = sample_times(levels, noise)
    x = SDE.perturb(x_0, noise.normal(x_0), t)[:, 0]
    variance = (SDE.alpha(t) * STD) ** 2 + SDE.sigma(t) ** 2
    margin = (2.0 * classes - 1) * 2 * SDE.alpha(t) * MEAN * x / variance
    torch.testing.assert_close(losses.values, torch.log1p(torch.exp(-margin)))
    assert losses.times is not None
    assert torch.equal(losses.times, t)
    with pytest.raises(UserError, match="classes, which these data have not"):
        Classification(levels)(MODEL, Batch(x_0))


def test_accuracy_by_noise_level():
    """The best there is: `Phi(alpha m / sqrt(alpha^2 s^2 + sigma^2))`."""
    count = 4000
    x_0, classes = examples(count)
    found = accuracy_by_log_snr(x_0, Condition({"class": classes}), 1e-3, seed=0)(MODEL)
    assert len(found) == 9
    t = UniformLogSNR(SDE, 1e-3).quantile(torch.linspace(0, 1, 9, dtype=FLOAT))
    alpha, sigma = SDE.alpha(t), SDE.sigma(t)
    best = torch.special.ndtr(alpha * MEAN / torch.sqrt((alpha * STD) ** 2 + sigma**2))
    names = [f"accuracy_at_log_snr/{value:.1f}" for value in SDE.log_snr(t).tolist()]
    assert list(found) == names
    for value, expected in zip(found.values(), best.tolist(), strict=True):
        assert abs(value - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_an_encoder_learns_what_it_is_shown():
    """Images with a bright left or right half: from a loss of log 2 to nearly none."""
    torch.manual_seed(0)
    network = Encoder(4, 1, 2, channels=8, channel_multipliers=(1, 2), num_blocks=1, dropout=0.0)
    model = NoisyClassifier(network, SDE)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    levels = get_time_distribution("uniform", SDE, 1e-3)
    classes = torch.arange(64) % 2
    x_0 = torch.full((64, 1, 4, 4), -1.0)
    x_0[classes == 0, :, :, :2] = 1
    x_0[classes == 1, :, :, 2:] = 1
    for _ in range(100):
        loss = Classification(levels)(model, Batch(x_0, Condition({"class": classes}))).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = accuracy_by_log_snr(x_0, Condition({"class": classes}), 1e-3, seed=0)(model.eval())
    # At log-SNR 0 the two are sqrt(32) deviations apart; at -10 hardly 0.04.
    assert [value for name, value in found.items() if float(name.split("/")[1]) > 0] == [1.0] * 4
    with pytest.raises(UserError, match="6 x 6 cannot be halved"):
        Encoder(6, 1, 2, channels=8, channel_multipliers=(1, 2, 2))
