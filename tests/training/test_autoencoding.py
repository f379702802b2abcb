"""The losses of autoencoders: terms by hand, whose gradient goes where, resumption, and what an adversary does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models.networks.discriminator import PatchDiscriminator
from score_sde.training import checkpoint
from score_sde.training.adversary import Adversary
from score_sde.training.autoencoding import Autoencoding
from score_sde.training.objectives import Losses
from score_sde.training.optimization import make_optimizer
from score_sde.training.perceptual import PerceptualDistance
from tests.reading import table
from tests.training.test_trainer import assert_same_checkpoint
from tests.training.tiny_autoencoder import NOISE_FROM, autoencoder, discriminator, series, settings, trainer_of

DOUBLE = torch.float64


class Seen(nn.Module):
    """Two hidden states: a map of as many channels as colours, times 2, and tokens that are pairs of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE), requires_grad=False)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool) -> SimpleNamespace:
        assert output_hidden_states
        tokens = torch.stack([pixel_values[:, 0].mean(2), pixel_values[:, 1].square().mean(2)], 2)
        return SimpleNamespace(hidden_states=(self.scale * pixel_values, tokens))


def test_the_perceptual_distance_by_hand() -> None:
    """Of grey pictures in [-1, 1], by loops over positions."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.5)
    generator = torch.Generator().manual_seed(0)
    x, y = 2 * torch.rand(2, 3, 1, 4, 5, generator=generator, dtype=DOUBLE) - 1
    found = PerceptualDistance(Seen(), mean, std, -1.0, 1.0)(x, y)

    def unit(numbers: np.ndarray) -> np.ndarray:
        return numbers / np.sqrt((numbers**2).sum() + 1e-8)

    for example in range(3):
        seen = [
            np.stack([((picture[0] + 1) / 2 - m) / s for m, s in zip(mean, std, strict=True)])
            for picture in (x[example].numpy(), y[example].numpy())
        ]
        of_map = [
            ((unit(2 * seen[0][:, i, j]) - unit(2 * seen[1][:, i, j])) ** 2).sum() for i in range(4) for j in range(5)
        ]
        tokens = [np.stack([each[0].mean(1), (each[1] ** 2).mean(1)], 1) for each in seen]
        of_tokens = [((unit(tokens[0][i]) - unit(tokens[1][i])) ** 2).sum() for i in range(4)]
        assert found[example].item() == pytest.approx(np.mean(of_map) + np.mean(of_tokens), rel=1e-12)


def test_the_perceptual_distance_has_gradients_where_nothing_is_seen() -> None:
    x = torch.zeros(1, 3, 2, 2, dtype=DOUBLE)
    y = x.clone().requires_grad_()
    distance = PerceptualDistance(Seen(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.0, 1.0)
    distance(x, y).sum().backward()
    assert y.grad is not None
    assert torch.equal(y.grad, torch.zeros_like(y))


def by_hand(model, judge, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Return the terms of an autoencoder of series and its adversary, `()` each, means over examples."""
    mean, log_variance = model.encoder(x).chunk(2, 1)
    decoded = model.decoder(mean + (0.5 * log_variance).exp() * noise)
    width = model.decoded.log_width.exp()
    density = torch.distributions.Normal(decoded, width).log_prob(x)
    rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2)).mean()
    return {
        "distortion": -density.mean(),
        "rate": rate / x[0].numel(),
        "doubt": -judge(decoded).mean(),
        "discriminator": 0.5 * (F.relu(1 - judge(x)).mean() + F.relu(1 + judge(decoded.detach())).mean()),
    }


def test_terms_and_their_gradients_by_hand() -> None:
    """Gradients of the doubt reach the autoencoder alone, those of the discriminator's loss itself alone."""
    model, judge, x = autoencoder().double(), discriminator().double(), series(6, 3).double()
    adversary = Adversary(judge, settings().training)
    objective = Autoencoding(0.05, adversary=adversary, adversarial_weight=0.7)
    losses = objective(model, Batch(x), BatchNoise(6, torch.Generator().manual_seed(5)))
    noise = BatchNoise(6, torch.Generator().manual_seed(5)).normal(torch.empty(6, 1, 8, dtype=DOUBLE))
    terms = by_hand(model, judge, x, noise)
    assert objective.names == tuple(terms)
    assert losses.terms is not None
    torch.testing.assert_close(losses.terms.mean(0), torch.stack(list(terms.values())).detach(), rtol=1e-10, atol=0)
    wanted = terms["distortion"] + 0.05 * terms["rate"] + 0.7 * terms["doubt"]
    torch.testing.assert_close(losses.values.mean(), wanted, rtol=1e-10, atol=0)

    of_judge = torch.autograd.grad(terms["discriminator"], list(judge.parameters()))
    losses.values.mean().backward()
    for weight, gradient in zip(judge.parameters(), of_judge, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-14)
    for weight, gradient in zip(model.parameters(), torch.autograd.grad(wanted, list(model.parameters())), strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-14)


def test_nothing_is_asked_of_an_adversary_before_it_begins_and_of_held_out_examples() -> None:
    model, x = autoencoder(), series(6, 3)
    adversary = Adversary(discriminator(), settings(adversarial_start=2).training)
    objective = Autoencoding(0.05, adversary=adversary, adversarial_weight=0.7)
    plain = Autoencoding(0.05)(model, Batch(x), BatchNoise(6, torch.Generator().manual_seed(5)))
    assert plain.terms is None
    for step in range(3):
        losses = objective(model, Batch(x), BatchNoise(6, torch.Generator().manual_seed(5)))
        assert losses.terms is not None
        assert torch.equal(losses.values, plain.values) == (step < 2)
        assert losses.terms.isnan().any(0).tolist() == [False, False, step < 2, step < 2]
        assert (next(adversary.discriminator.parameters()).grad is None) == (step < 2)
        objective.learn(losses)
    with torch.no_grad():
        losses = objective(model, Batch(x), BatchNoise(6, torch.Generator().manual_seed(5)))
    assert torch.equal(losses.values, plain.values)


@pytest.mark.usefixtures("on_cpu")
def test_an_adversary_whose_weight_is_zero_changes_nothing(tmp_path) -> None:
    """Its own steps draw nothing, and are taken beside: the autoencoder is the same to the last bit."""
    trainers = {}
    for name, weight in {"alone": None, "watched": 0.0, "deceiving": 0.2}.items():
        trainers[name] = trainer_of(tmp_path / name, weight)
        trainers[name].train()
    states = {name: trainer.model.state_dict() for name, trainer in trainers.items()}
    assert all(torch.equal(states["alone"][name], weight) for name, weight in states["watched"].items())
    assert not torch.equal(states["alone"]["decoder.0.weight"], states["deceiving"]["decoder.0.weight"])
    learnt = checkpoint.load(checkpoint.path_at(tmp_path / "watched" / "checkpoints", 8))["objective"]
    assert not torch.equal(learnt["discriminator"]["0.weight"], discriminator().state_dict()["0.weight"])
    assert "objective" not in checkpoint.load(checkpoint.path_at(tmp_path / "alone" / "checkpoints", 8))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("stopped", [2, 5])
def test_an_adversary_that_was_stopped_is_one_that_was_not(tmp_path, stopped) -> None:
    """Before it began, and after; what the log tells of terms is the same, too."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    values = {"adversarial_start": 3, "accumulation": 2, "log_every": 4, "keep_checkpoints": 9}
    trainer_of(straight, **values).train()
    trainer_of(resumed, **values, checkpoint_every=stopped).train()
    for step in range(stopped + 1, 9):
        checkpoint.path_at(resumed / "checkpoints", step).unlink(missing_ok=True)
    assert trainer_of(resumed, **values).step == stopped
    trainer_of(resumed, **values).train()
    assert_same_checkpoint(straight, resumed, 8)
    one, two = (
        checkpoint.load(checkpoint.path_at(each / "checkpoints", 8))["objective"] for each in (straight, resumed)
    )
    assert one["step"] == two["step"] == 8
    assert all(torch.equal(one["discriminator"][name], weight) for name, weight in two["discriminator"].items())
    for number, moments in one["discriminator_optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, two["discriminator_optimizer"]["state"][number][name])
    assert next(iter(one["discriminator_optimizer"]["state"].values()))["step"] == 5
    row, other = (table(each / "metrics.csv")[-1] for each in (straight, resumed))
    for name in ("step", "distortion", "rate", "doubt", "discriminator"):
        assert row[name] == other[name] != ""


def test_parts_of_a_batch_make_the_adversarys_step_of_the_batch(tmp_path) -> None:
    learnt = []
    for parts in (1, 4):
        trainer_of(tmp_path / str(parts), accumulation=parts, num_steps=1).train()
        state = checkpoint.load(checkpoint.path_at(tmp_path / str(parts) / "checkpoints", 1))["objective"]
        learnt.append(state["discriminator_optimizer"]["state"])
    for number, moments in learnt[0].items():
        torch.testing.assert_close(learnt[1][number]["exp_avg"], moments["exp_avg"], rtol=1e-3, atol=1e-7)


def test_what_does_not_fit_an_adversary_is_said(tmp_path) -> None:
    trainer_of(tmp_path, weight=None, num_steps=2).train()
    with pytest.raises(UserError, match="begun without an adversarial loss"):
        trainer_of(tmp_path)
    adversary = Adversary(discriminator(), settings().training)
    adversary.tell_apart(series(2, 0), torch.full((2, 1, 32), torch.nan))
    with pytest.raises(UserError, match="gradient of the discriminator is nan at step 1"):
        adversary.learn()
    objective = Autoencoding(perceptual=PerceptualDistance(Seen(), (0, 0, 0), (1, 1, 1), -1, 1), perceptual_weight=1.0)
    kept = objective.state()
    objective.restore(kept)
    objective.learn(Losses(torch.zeros(2)))
    other = Autoencoding(perceptual=PerceptualDistance(Seen(), (0, 0, 0), (1, 1, 2), -1, 1), perceptual_weight=1.0)
    with pytest.raises(UserError, match="the perceptual loss is another"):
        other.restore(kept)


def spectrum_decoded(weight: float) -> Tensor:
    """Return the power of what is decoded by each frequency, as a share of that of the data, after 200 steps."""
    model, config = autoencoder(), settings().training
    adversary = Adversary(discriminator(), config) if weight else None
    objective = Autoencoding(0.05, adversary=adversary, adversarial_weight=weight)
    optimizer = make_optimizer(model.parameters(), config)
    for step in range(200):
        optimizer.zero_grad()
        losses = objective(model, Batch(series(32, step)), BatchNoise(32, torch.Generator().manual_seed(step)))
        losses.values.mean().backward()
        optimizer.step()
        objective.learn(losses)
    x = series(400, seed=10**7)
    with torch.no_grad():
        decoded = model.terms(x, BatchNoise(400, torch.Generator().manual_seed(0))).decoded
    powers = [torch.fft.rfft(each).abs().square().mean((0, 1)) for each in (decoded, x)]
    return powers[0] / powers[1]


def test_what_is_decoded_gets_the_spectrum_of_the_data() -> None:
    """Noise does not pass through 8 numbers: the bound alone gives it up, and its frequencies have no power. Beside an
    adversary there is noise again, though another, and what is smooth stays."""
    alone, deceiving = (spectrum_decoded(weight) for weight in (0.0, 0.2))
    assert alone[NOISE_FROM:].mean().item() < 0.1
    assert 0.4 < deceiving[NOISE_FROM:].mean().item() < 1.6
    for each in (alone, deceiving):
        assert 0.7 < each[1:NOISE_FROM].mean().item() < 1.3


@pytest.mark.parametrize("shape", [(2, 9), (1, 8, 8), (1, 6, 7, 8)])
def test_patches_are_judged_example_by_example(shape) -> None:
    """By MONAI's discriminator, of series, pictures and volumes."""
    pytest.importorskip("monai")
    torch.manual_seed(0)
    judge = PatchDiscriminator(shape, 4).double()
    x = torch.randn(3, *shape, dtype=DOUBLE)
    together = judge(x)
    assert together.shape[:2] == (3, 1)
    torch.testing.assert_close(together[1:2], judge(x[1:2]), rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="sizes of 6 and more, not 5"):
        PatchDiscriminator((1, 5, 9), 4)
