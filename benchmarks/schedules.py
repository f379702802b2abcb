"""How much the bound's estimate fluctuates, by schedule: from one time and one noise an example.

    python -m benchmarks.schedules                                  a mixture with exact scores; its schedule is learned
    python -m benchmarks.schedules --workdir runs/vp_digits_vdm     the trained network of configs/vp/digits_vdm.py

The same model is asked under each schedule between the same log-SNRs, which its network is told, so that all estimate
the same number. The variance is that of one loss with times drawn independently; and that of a batch's mean, times its
size, with times that are spread evenly over the batch.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.trained import trained_network
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, LearnedSDE
from score_sde.sde.times import TimeShape
from score_sde.training.objectives import get_objective
from score_sde.training.variational import VariationalBound

BATCH = 64
# Batches of the mixture, and of a network.
BATCHES, FEW = 160, 32
DIMENSION, STD = 32, 0.05
STEPS = 1500
# Times of configs/vp/digits.py, chosen by hand.
BY_HAND = TimeShape(edm_mean=-2.0, edm_std=2.5)

Draw = Callable[[torch.Generator], Tensor]


class Exact:
    """A mixture of narrow Gaussians has the exact noise under any process."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde
        means = 0.2 * torch.randn(3, DIMENSION, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        covariances = STD**2 * torch.eye(DIMENSION).expand(3, -1, -1)
        self.mixture = GaussianMixture(sde, torch.ones(3), means, covariances)

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `eps_hat - eps` at `x_t`; shape of `x_0`."""
        x_t = self.sde.perturb(x_0, noise, t)
        return -self.sde.expand(self.sde.sigma(t), x_0) * self.mixture.score(x_t, t) - noise

    def examples(self, generator: torch.Generator) -> Tensor:
        """Draw a batch of data."""
        means = self.mixture.means[torch.randint(3, (BATCH,), generator=generator)]
        return means + STD * torch.randn(means.shape, generator=generator, dtype=torch.float64)


def learned_for_the_mixture() -> Exact:
    """Learn a schedule for the mixture, and nothing else."""
    model, generator = Exact(LearnedSDE(13.3, -9.0)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.sde.parameters(), lr=5e-3, betas=(0.9, 0.99))  # type: ignore[attr-defined]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        VariationalBound()(
            model, Batch(model.examples(generator)), BatchNoise(BATCH, generator)
        ).values.mean().backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def variances(model: Any, objective: Callable[..., Any], draw: Draw, count: int) -> tuple[float, ...]:
    """Return the mean of the losses, their variance, and that of a batch's mean times its size."""
    generator = torch.Generator().manual_seed(2)
    batches = [Batch(draw(generator)) for _ in range(count)]
    losses = torch.stack([objective(model, batch, BatchNoise(BATCH, generator)).values.double() for batch in batches])
    return float(losses.mean()), float(losses.var()), BATCH * float(losses.mean(1).var())


def compare(learned: Any, linear: Any, draw: Draw, count: int) -> None:
    """Print a row for each schedule."""

    def by_hand(stratified: bool) -> Callable[..., Any]:
        return get_objective(
            linear.sde, weighting="likelihood", times="edm", t_min=0.0, stratified=stratified, shape=BY_HAND
        )

    print("| schedule | mean | variance, independent | of linear | stratified | of linear |\n|---|---|---|---|---|---|")
    first: list[float] = []
    for name, model, make in (
        ("linear log-SNR", linear, VariationalBound),
        ("times by hand", linear, by_hand),
        ("learned", learned, VariationalBound),
    ):
        mean, independent, _ = variances(model, make(False), draw, count)
        _, _, stratified = variances(model, make(True), draw, count)
        first = first or [independent, stratified]
        print(
            f"| {name} | {mean:.4f} | {independent:.4f} | {independent / first[0]:.3f} "
            f"| {stratified:.4f} | {stratified / first[1]:.3f} |",
            flush=True,
        )
    print(f"({count} batches of {BATCH}: the stratified are known to {100 * math.sqrt(2 / count):.0f} percent)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="of a run with a learned schedule")
    workdir = parser.parse_args().workdir
    if workdir is None:
        learned = learned_for_the_mixture()
        compare(learned, Exact(LearnedSDE(*learned.sde.first_ends)), learned.examples, BATCHES)  # type: ignore[attr-defined]
        return
    model, dataset, config, _ = trained_network(workdir)
    linear = copy.deepcopy(model)
    linear.sde = LearnedSDE(*model.sde.ends.tolist())  # type: ignore[attr-defined]
    data = dataset.encode(dataset.test, config.seed)
    compare(model, linear, lambda generator: data[torch.randint(len(data), (BATCH,), generator=generator)], FEW)


if __name__ == "__main__":
    main()
