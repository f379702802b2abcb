"""What is missing given the rest, and the density of what is there: `python -m benchmarks.missing`.

A network is trained once on whole examples with `data.missing` and asked, of test examples that lack a share of their
numbers, for what is missing and for densities. Beside it: the exact answers.

    mixture    vectors of 8 numbers from two Gaussians, whose conditionals are known: error of the mean in conditional
               deviations, of the covariance relative to them, of `log p` of what is observed and of `log p` of what is
               missing given it, in nats a number; means of absolute values, over pairs of numbers and examples, and of
               the densities' errors the mean with its sign, too
    digits     8 x 8 digits with half of the pixels gone, levels with uniform noise: root mean square error of the mean
               of what is filled in, in levels, and nats a pixel of what is missing given the rest, beside those of
               mixtures of Gaussians fitted to the same examples, exactly conditioned

Each takes some minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import score_sde
from score_sde.common.part import missing
from score_sde.experiment.run import Run
from score_sde.models import GaussianMixture
from score_sde.models.gaussian_mixture import fit_mixture
from score_sde.models.mixture_part import MixturePart

SHARES = (0.1, 0.5, 0.9)
MIXTURE: dict[str, Any] = {"model.width": 256, "training.batch_size": 512, "training.weight_decay": 0.0}
DIGITS: dict[str, Any] = {"training.batch_size": 64}
COMPONENTS = (1, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=(10000, 1500), help="training steps of the two")
    parser.add_argument("--only", choices=("mixture", "digits"))
    arguments = parser.parse_args()
    if arguments.only != "digits":
        of_mixture(arguments.steps[0])
    if arguments.only != "mixture":
        of_digits(arguments.steps[1])


def trained(x: np.ndarray, num_steps: int, settings: dict[str, Any]) -> Run:
    """Train on whole examples, so that any part can be asked for given any other."""
    settings = {"data.missing": True, "data.test_share": 0.0, "training.sample_every": 0, **settings}
    return score_sde.fit(x.astype(np.float32), num_steps=num_steps, settings=settings)


def with_gaps(x: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Return examples `(N, *dims)` that lack this share of their numbers, others in each."""
    flat = x.reshape(len(x), -1)
    order = generator.random(flat.shape).argsort(1)
    return np.where(order < max(1, round(share * flat.shape[1])), np.nan, flat).reshape(x.shape)


def two_gaussians() -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    factors = 0.35 * torch.randn(2, 8, 8, dtype=torch.float64, generator=generator)
    means = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    covariances = factors @ factors.mT + 0.3 * torch.eye(8, dtype=torch.float64)
    return GaussianMixture(score_sde.VPSDE(), torch.tensor([0.6, 0.4]), means, covariances)


def drawn(mixture: GaussianMixture, count: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(mixture.log_weights.exp(), count, True, generator=generator)
    z = torch.randn(count, 8, dtype=torch.float64, generator=generator) * mixture.eigenvalues[which].sqrt()
    return (mixture.means[which] + torch.einsum("bj,bij->bi", z, mixture.basis[which])).numpy()


def of_mixture(num_steps: int) -> None:
    mixture = two_gaussians()
    run = trained(drawn(mixture, 20_000, 1), num_steps, MIXTURE)
    whole, generator = drawn(mixture, 300, 2), np.random.default_rng(0)
    print("missing  mean  covariance  log p(observed)            log p(missing | observed)")
    for share in SHARES:
        x = with_gaps(whole, share, generator)
        exact = MixturePart(mixture, missing(torch.from_numpy(x)))
        mean, covariance = (moment.numpy() for moment in exact.moments())
        filled = run.fill(x[:50], 1000, num_steps=20)
        errors = np.array([moment_errors(filled[:, i], np.isnan(x[i]), mean[i], covariance[i]) for i in range(50)])
        known, unknown = (~np.isnan(x)).sum(1), np.isnan(x).sum(1)
        observed = (run.log_prob(x, divergence="exact") - exact.log_prob_given.numpy()) / known
        log_p = mixture.log_prob(torch.from_numpy(whole), torch.tensor(0.0)) - exact.log_prob_given
        rest = (run.log_prob(whole, given=~np.isnan(x), divergence="exact") - log_p.numpy()) / unknown
        densities = "  ".join(f"{abs(e).mean():.3f} ({e.mean():+.3f} ± {error_of(e):.3f})" for e in (observed, rest))
        print(f"{share:7.0%}  {errors[:, 0].mean():.3f}  {errors[:, 1].mean():10.3f}  {densities}", flush=True)


def moment_errors(
    filled: np.ndarray, gone: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[float, float]:
    """Return errors of the mean and of the covariance of what is missing, in conditional deviations."""
    x, exact = filled[:, gone], covariance[np.ix_(gone, gone)]
    std = np.sqrt(np.diag(exact))
    found = np.cov(x.T).reshape(exact.shape)
    return float((abs(x.mean(0) - mean[gone]) / std).mean()), float((abs(found - exact) / np.outer(std, std)).mean())


def of_digits(num_steps: int) -> None:
    data = score_sde.load_dataset("digits")
    noise = torch.Generator().manual_seed(0)
    train, test = ((part + torch.rand(part.shape, generator=noise)).numpy() for part in (data.train, data.test[:100]))
    run = trained(train, num_steps, DIGITS)
    x = with_gaps(test, 0.5, np.random.default_rng(0))
    gone = np.isnan(x)
    filled = run.fill(x, 20, num_steps=20).mean(0)
    nats = -run.log_prob(test, given=~gone) / gone.reshape(len(x), -1).sum(1)
    print("half of the pixels missing      RMSE   nats/pixel of the missing given the others")
    print(row("trained network", filled, nats, test, gone), flush=True)
    for components in COMPONENTS:
        mixture = fit_mixture(score_sde.VPSDE(), torch.from_numpy(train), components)
        exact = MixturePart(mixture, missing(torch.from_numpy(x).double()))
        mean = exact.moments()[0].numpy().reshape(x.shape)
        log_p = mixture.log_prob(torch.from_numpy(test).double(), torch.tensor(0.0)) - exact.log_prob_given
        nats = -log_p.numpy() / gone.reshape(len(x), -1).sum(1)
        print(row(f"mixture of {components}, exact", mean, nats, test, gone), flush=True)
    print(row("mean of the training part", np.broadcast_to(train.mean(0), test.shape), None, test, gone))


def row(name: str, filled: np.ndarray, nats: np.ndarray | None, test: np.ndarray, gone: np.ndarray) -> str:
    error = math.sqrt(np.square(filled - test)[gone].mean())
    return f"{name:30}  {error:.3f}" + ("" if nats is None else f"  {nats.mean():.3f} ± {error_of(nats):.3f}")


def error_of(values: np.ndarray | Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


if __name__ == "__main__":
    main()
