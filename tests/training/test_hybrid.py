"""IDDPM's objective and its rungs: expectations by hand, and resumption to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models.learned_variance import LearnedVariance
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.sde import DDPMLadder, cosine_betas
from score_sde.training import checkpoint
from score_sde.training.hybrid import HybridObjective, LossAwareRung
from score_sde.training.objectives import LearningObjective, Losses
from score_sde.training.trainer import Trainer
from tests.training.test_trainer import assert_same_checkpoint, image_trainer, settings

FLOAT = torch.float64
LADDER = DDPMLadder(cosine_betas(8))


class Says(nn.Module):
    """A network says the same noise and variance of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.said = torch.tensor([0.3, 0.4], dtype=FLOAT)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.said[None, :, None].expand(len(x), 2, x.shape[2]) + 0.05 * label.to(x)[:, None, None]


def warmed_up(size: Tensor) -> LossAwareRung:
    """Rungs, ten losses of each of which have been seen, after larger ones that are forgotten."""
    rungs = LossAwareRung(LADDER)
    for repeat in range(13):
        factor = 100.0 if repeat < 3 else 1.0
        rungs.learn(LADDER.time(torch.arange(8)), factor * size)
    return rungs


def test_rungs_are_as_likely_as_the_root_mean_square_of_their_last_ten_losses() -> None:
    size = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 6.0], dtype=FLOAT)
    times = LADDER.time(torch.arange(8))
    rungs = LossAwareRung(LADDER)
    for _ in range(9):
        rungs.learn(times, size)
    rungs.learn(times[1:], size[1:])
    # One of them was seen nine times.
    torch.testing.assert_close(rungs.density(times), torch.full((8,), 1 / 8, dtype=FLOAT), rtol=0, atol=0)
    rungs = warmed_up(size)
    expected = 0.999 * size / 24 + 0.001 / 8
    torch.testing.assert_close(rungs.density(times), expected, rtol=1e-12, atol=0)
    # A quantile takes an interval of the length of its probability.
    u = (torch.arange(100_000, dtype=FLOAT) + 0.5) / 100_000
    share = torch.bincount(LADDER.index(rungs.quantile(u)).round().long(), minlength=8) / len(u)
    torch.testing.assert_close(share.double(), expected, rtol=0, atol=2e-5)
    # Of losses that differ, the root mean square counts.
    rungs.learn(times[:1], torch.tensor([10.0]))
    root = math.sqrt((9 * 64 + 100) / 10)
    assert float(rungs.density(times[0])) == pytest.approx(0.999 * root / (16 + root) + 0.001 / 8)


@pytest.mark.parametrize("loss_aware", [False, True])
def test_the_loss_is_that_of_the_paper_however_rungs_are_drawn(loss_aware: bool) -> None:
    """`L_simple + 0.5 L_vlb` in bits, rung by rung with the same noise, against many draws of rungs."""
    model, objective = LearnedVariance(Says(), LADDER, noise_label="rung"), HybridObjective(LADDER, loss_aware, 0.5)
    if loss_aware:
        objective.times = warmed_up(torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 6.0]))
    count = 40_000
    x_0 = torch.full((count, 1, 2), 0.7, dtype=FLOAT)
    losses = objective(model, Batch(x_0), BatchNoise(count, torch.Generator().manual_seed(0)))
    mean, error = float(losses.values.mean()), float(losses.values.std()) / math.sqrt(count)
    simple, vlb = 0.0, 0.0
    noise = torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    for t in LADDER.time(torch.arange(8)):
        wrong, divergence = model.error_and_divergence(x_0, noise, t.expand(count))
        simple += float(wrong.square().mean()) / 8
        vlb += float(divergence.mean()) / math.log(2)
    assert abs(mean - (simple + 0.5 * vlb)) < 4 * error * math.sqrt(2)
    # What rungs are drawn by is the loss before it is divided by their probability.
    assert losses.unweighted is not None
    weight = 1 / (8 * objective.times.density(losses.times))
    torch.testing.assert_close(losses.unweighted * weight, losses.values, rtol=1e-12, atol=0)


def test_it_is_told_of_losses_and_goes_on_from_its_state() -> None:
    objective = HybridObjective(LADDER, loss_aware=True)
    assert isinstance(objective, LearningObjective)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        losses = torch.rand(8, generator=generator)
        objective.learn(Losses(losses, LADDER.time(torch.arange(8)), 2 * losses))
    other = HybridObjective(LADDER, loss_aware=True)
    other.restore(objective.state())
    times = LADDER.time(torch.arange(8))
    assert torch.equal(other.times.density(times), objective.times.density(times))
    assert float(other.times.density(times).std()) > 0.01
    assert HybridObjective(LADDER).state() == {}
    with pytest.raises(UserError, match="of 8 rungs were remembered, and the ladder has 9"):
        HybridObjective(DDPMLadder(cosine_betas(9)), loss_aware=True).restore(objective.state())


def hybrid_trainer(folder, stop_at: int = 0, **values) -> Trainer:
    """A small network for random pictures, on a ladder of two rungs, so that losses are soon known."""
    plain, ladder = image_trainer(folder / "plain"), DDPMLadder(torch.tensor([0.3, 0.8]))
    torch.manual_seed(0)
    network = NCSNpp(4, 1, channels=8, channel_multipliers=(1, 2), num_blocks=1, dropout=0.2, out_channels=2)

    class Stopping(HybridObjective):
        def __call__(self, model, batch, noise=None):
            if model.training and trainer.step == stop_at > 0:
                raise KeyboardInterrupt
            return super().__call__(model, batch, noise)

    model = LearnedVariance(network, ladder, noise_label="rung")
    config = settings(log_every=5, **values)
    trainer = Trainer(model, Stopping(ladder, True), plain._batches, plain._held_out, config, folder)
    return trainer


def test_a_killed_run_draws_the_same_rungs_when_it_goes_on(tmp_path) -> None:
    whole = hybrid_trainer(tmp_path / "whole", num_steps=8)
    whole.train()
    kept = checkpoint.load(checkpoint.path_at(tmp_path / "whole/checkpoints", 8))["objective"]
    assert kept["counts"].sum() == 8 * 16
    with pytest.raises(KeyboardInterrupt):
        hybrid_trainer(tmp_path / "killed", stop_at=5, num_steps=8, checkpoint_every=3).train()
    resumed = hybrid_trainer(tmp_path / "killed", num_steps=8, checkpoint_every=3)
    assert resumed.step == 3
    resumed.train()
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "killed", 8)
    again = checkpoint.load(checkpoint.path_at(tmp_path / "killed/checkpoints", 8))["objective"]
    assert all(torch.equal(kept[name], again[name]) for name in kept)
