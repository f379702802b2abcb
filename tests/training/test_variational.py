"""The bound with a learned schedule: the same for all, its gradients, and what is gained by learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import MLP, GaussianMixture, QuantisedModel, ScoreModel
from score_sde.sde import SDE, VPSDE, LearnedSDE
from score_sde.solvers import get_solver
from score_sde.solvers.quadrature import gauss_legendre
from score_sde.training import checkpoint
from score_sde.training.objectives import noise_losses
from score_sde.training.trainer import Trainer
from score_sde.training.variational import VariationalBound
from tests.schedules import random_schedule
from tests.training.least_squares import Points, settings

DOUBLE = torch.float64
HIGH, LOW = 11.0, -7.0


class Exact:
    """The exact noise of a mixture of narrow Gaussians, under any process."""

    def __init__(self, sde: SDE, dimension: int = 2) -> None:
        self.sde = sde
        means = 0.2 * torch.randn(3, dimension, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        self.mixture = GaussianMixture(sde, torch.ones(3), means, 0.0025 * torch.eye(dimension).expand(3, -1, -1))

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        x_t = self.sde.perturb(x_0, noise, t)
        return -self.sde.expand(self.sde.sigma(t), x_0) * self.mixture.score(x_t, t) - noise

    def examples(self, count: int, generator: torch.Generator) -> Tensor:
        means = self.mixture.means
        chosen = means[torch.randint(len(means), (count,), generator=generator)]
        return chosen + 0.05 * torch.randn(chosen.shape, generator=generator, dtype=DOUBLE)


def panels(count: int) -> tuple[Tensor, Tensor]:
    """Points and weights on [0, 1]."""
    points, weights = gauss_legendre()
    return torch.cat([(k + points) / count for k in range(count)]), weights.repeat(count) / count


def test_the_bound_is_the_same_for_every_schedule_between_its_ends() -> None:
    """Of each example and noise, by quadrature: of two schedules, and over the log-SNR itself under VP."""
    generator = torch.Generator().manual_seed(1)
    x_0, eps = Exact(VPSDE()).examples(3, generator), torch.randn(3, 2, generator=generator, dtype=DOUBLE)
    t, weights = panels(48)

    def integral(losses: Tensor) -> Tensor:
        return losses.reshape(3, -1) @ weights

    x_0, eps, times = (value.repeat_interleave(len(t), 0) for value in (x_0, eps, torch.zeros(3, dtype=DOUBLE)))
    times += t.repeat(3)
    bounds = [
        integral(VariationalBound().losses_at(Exact(random_schedule(seed, HIGH, LOW)), Batch(x_0), eps, times)).detach()
        for seed in range(2)
    ]
    of_vp = noise_losses(Exact(VPSDE()), x_0, eps, VPSDE().time_at_log_snr(HIGH - (HIGH - LOW) * times))
    torch.testing.assert_close(bounds[1], bounds[0], rtol=1e-8, atol=0)
    torch.testing.assert_close(bounds[0], integral(of_vp), rtol=1e-8, atol=0)


class Network(nn.Module):
    """Some smooth function of the state and the noise label, with `share` numbers for each one."""

    def __init__(self, share: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1, 1, 3 * share, dtype=DOUBLE).reshape(3, share))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        place = label.reshape(-1, *(1,) * (x.ndim - 1)) / 50
        a, b, c = self.weights
        return torch.cat([torch.sin(a[k] * x + b[k] * place + c[k]) for k in range(len(a))], 1)


@pytest.mark.parametrize("learn_ends", [False, True])
@pytest.mark.parametrize("kind", ["data", "levels"])
def test_gradients_are_finite_differences(kind: str, learn_ends: bool) -> None:
    """The network's and the ends' of the bound, the schedule's of the mean square of what depends on the time."""
    sde = random_schedule(0, HIGH, LOW, learn_ends=learn_ends)
    network = Network(1 if kind == "data" else 4)
    model = ScoreModel(network, sde) if kind == "data" else QuantisedModel(network, sde, 4)
    model, generator = model.double(), torch.Generator().manual_seed(2)
    x_0 = 2 * torch.rand(6, 1, 5, generator=generator, dtype=DOUBLE) - 1
    eps, t = torch.randn(x_0.shape, generator=generator, dtype=DOUBLE), torch.linspace(0.05, 0.95, 6, dtype=DOUBLE)
    batch, objective = Batch(x_0), VariationalBound()
    objective.losses_at(model, batch, eps, t).mean().backward()

    @torch.no_grad()
    def losses() -> tuple[Tensor, Tensor]:
        whole = objective.losses_at(model, batch, eps, t)
        constant = objective.terms_of_ends(model, x_0, eps) if learn_ends else torch.zeros(6, dtype=DOUBLE)
        return whole.mean(), (whole - constant).square().mean()

    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        values = []
        for sign in (1, -1):
            parameter.data += sign * 1e-5 * direction
            values.append(losses()[name.startswith("sde.") and name != "sde.learned_ends"])
            parameter.data -= sign * 1e-5 * direction
        assert parameter.grad is not None
        found, expected = float((parameter.grad * direction).sum()), float(values[0] - values[1]) / 2e-5
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-10), name


def test_the_terms_of_the_ends_are_those_of_the_bound() -> None:
    """The prior's is the divergence of two normals; the reconstruction's of a level, its probability by Bayes."""
    sde = random_schedule(0, 5.0, LOW, learn_ends=True)
    model = QuantisedModel(Network(4), sde, 4, dequantised=False).double()
    x_0 = torch.tensor([[[-1.0, 1 / 3]], [[1.0, -1 / 3]]], dtype=DOUBLE)
    eps = torch.tensor([[[0.5, -1.0]], [[2.0, 0.1]]], dtype=DOUBLE)
    found = VariationalBound().terms_of_ends(model, x_0, eps) * (5 - LOW) / 2
    last, first = sde.at(1.0), sde.at(0.0)
    data = torch.distributions.Normal(last.alpha * x_0, last.sigma)
    noise = torch.distributions.Normal(torch.zeros_like(x_0), torch.ones_like(x_0))
    prior = torch.distributions.kl_divergence(data, noise)
    places = torch.linspace(-1, 1, 4, dtype=DOUBLE)
    x = first.alpha * x_0 + first.sigma * eps
    log_probs = torch.log_softmax(-(((x[..., None] - first.alpha * places) / first.sigma) ** 2) / 2, -1)
    level = ((x_0 + 1) / 2 * 3).round().long()
    expected = prior - log_probs.gather(-1, level[..., None])[..., 0]
    torch.testing.assert_close(found, expected.flatten(1).mean(1), rtol=1e-10, atol=0)


def learn(model: Exact, steps: int, **options: bool) -> None:
    optimizer = torch.optim.Adam(model.sde.parameters(), lr=1e-2, betas=(0.9, 0.99))  # type: ignore[attr-defined]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        batch = Batch(model.examples(64, generator))
        VariationalBound(**options)(model, batch, BatchNoise(64, generator)).values.mean().backward()
        optimizer.step()
        schedule.step()


def test_the_variance_of_the_estimate_falls_to_a_tenth_of_that_of_a_linear_schedule() -> None:
    """With exact scores, and times drawn independently; what is left is noise of the data's, not of the times."""
    linear, learned = (Exact(LearnedSDE(13.3, -9.0), 32) for _ in range(2))
    learn(learned, 400)

    def mean_and_variance(model: Exact) -> tuple[float, float]:
        generator, count = torch.Generator().manual_seed(4), 8000
        with torch.no_grad():
            objective, batch = VariationalBound(stratified=False), Batch(model.examples(count, generator))
            losses = objective(model, batch, BatchNoise(count, generator)).values
        return float(losses.mean()), float(losses.var())

    (before, variance), (after, rest) = mean_and_variance(linear), mean_and_variance(learned)
    print(f"means {before:.4f}, {after:.4f}; variances {variance:.4f}, {rest:.4f}, ratio {rest / variance:.3f}")
    assert after == pytest.approx(before, abs=4 * ((variance + rest) / 8000) ** 0.5)
    assert rest < 0.1 * variance


def test_ends_go_where_the_bound_is_lower() -> None:
    """There is less of the data at the end, and less noise at the beginning: both make the bound tighter."""
    model = Exact(LearnedSDE(4.0, 0.0, learn_ends=True), 2)
    model.reconstruction = ScoreModel(nn.Identity(), model.sde).reconstruction  # type: ignore[attr-defined]
    learn(model, 60)
    high, low = model.sde.ends.tolist()  # type: ignore[attr-defined]
    assert high > 4.2
    assert low < -0.2


def trained(folder: Path, steps: int, learn_ends: bool = True, **values: object) -> dict:
    """Train a network and a schedule on the points of a line for so many steps; return the last checkpoint."""
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, width=16, num_blocks=1), LearnedSDE(8.0, -6.0, learn_ends=learn_ends))
    config = settings(schedule="constant", num_steps=steps, **values)
    held_out = Points(16).__next__() if distributed.world_size() == 1 else None
    trainer = Trainer(model, VariationalBound(), Points(16), held_out, config, folder)
    trainer.train()
    if held_out is not None:
        # The average is looked at by itself, with its own schedule.
        average = trainer.averaged_model()
        assert trainer.held_out_loss() == trainer.held_out_loss()
        assert not torch.equal(average.sde.log_snr(torch.tensor([0.3])), model.sde.log_snr(torch.tensor([0.3])))
    return checkpoint.load(checkpoint.path_at(folder / "checkpoints", steps))


@pytest.mark.parametrize("learn_ends", [False, True])
def test_resumed_it_is_the_run_that_was_never_stopped(learn_ends: bool, tmp_path: Path) -> None:
    one = trained(tmp_path / "one", 20, learn_ends)
    trained(tmp_path / "two", 10, learn_ends)
    two = trained(tmp_path / "two", 20, learn_ends)
    first = ScoreModel(MLP(2, width=16, num_blocks=1), LearnedSDE(8.0, -6.0, learn_ends=learn_ends)).state_dict()
    for part in ("model", "ema"):
        assert list(one[part]) == list(first)
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items())
        assert all(not torch.equal(value, first[name]) for name, value in one[part].items() if name.startswith("sde."))
    newest = checkpoint.path_at(tmp_path / "two" / "checkpoints", 20)
    weights, _, _ = checkpoint.load_weights_file(newest.with_suffix(".safetensors"))
    assert all(torch.equal(weights[name], value) for name, value in one["ema"].items())
    # What was trained is what is solved.
    model = ScoreModel(MLP(2, width=16, num_blocks=1), LearnedSDE(8.0, -6.0, learn_ends=learn_ends))
    model.load_state_dict(weights)
    assert get_solver("ddim", num_steps=3)(model, torch.zeros(1, 2)).x.isfinite().all()
