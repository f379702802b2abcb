"""How good the posteriors of simulators are that a default run learns, against the known ones.

python -m benchmarks.sbi [linear_gaussian | two_moons | several]

linear_gaussian   log p(theta | x) against the truth, and simulation-based calibration (Talts et al. 2018,
                  arXiv:1804.06788): ranks of the true parameters among 100 draws, of 500 data sets
two_moons         sbibm's task (Lueckmann et al. 2021, arXiv:2101.04653), 10,000 simulations: a classifier's accuracy
                  between posterior samples and the truth's (C2ST), of 10 observations and as many seeds as named
several           ten observations of the linear-Gaussian simulator: moments and densities against the truth
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import score_sde

_A = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.4, 0.0, 0.7]])
_NOISE = 0.8
_KEPT = {"training.sample_every": 0, "data.test_share": 0.0}
_SOLVED: dict[str, Any] = {"solver": "dpmpp_2m", "num_steps": 25}


def main(names: list[str]) -> None:
    """Run the tasks that are named, or all."""
    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], None]] = {
        "linear_gaussian": linear_gaussian,
        "two_moons": two_moons,
        "several": several,
    }
    for name in names or tasks:
        tasks[name]()


def linear_gaussian() -> None:
    """Print the error of the log-density and the calibration of a run on the linear-Gaussian simulator."""
    from scipy.stats import chisquare

    run = _fitted(*_linear(10_000, 0))
    theta, x = _linear(500, 1)
    mean, covariance = _exact(x[:, None])
    lost = _log_normal(theta, mean, covariance) - run.posterior().log_prob_batched(theta[None], x=x)[0]
    print(f"linear_gaussian: log p lost {lost.mean():.4f} ± {lost.std() / math.sqrt(500):.4f} nats", flush=True)
    draws = run.posterior().sample_batched(100, x, seed=0, **_SOLVED)
    ranks = (draws < theta).sum(0)
    edges = np.linspace(0, 101, 11).round().astype(int)
    expected = 500 * np.diff(edges) / 101
    for k in range(theta.shape[1]):
        counts = np.histogram(ranks[:, k], edges - 0.5)[0]
        print(f"linear_gaussian: SBC of theta_{k}, chi-square p = {chisquare(counts, expected).pvalue:.3f}", flush=True)


def several() -> None:
    """Print how far the posterior of ten observations is from the truth, composed with each prior there is."""
    run = _fitted(*_linear(10_000, 0))
    for seed in range(3):
        theta, _ = _linear(1, 100 + seed)
        x = theta @ _A + _NOISE * np.random.default_rng(seed).normal(size=(10, 3))
        mean, covariance = _exact(x)
        for name, prior in (("learnt", None), ("known", (np.zeros(3), np.eye(3)))):
            started = time.perf_counter()
            posterior = run.posterior(x, prior=prior)
            draws = posterior.sample(1000, seed=0, **_SOLVED)
            off = np.abs(draws.mean(0) - mean[0]) / np.sqrt(np.diag(covariance))
            ratio = np.diag(np.cov(draws.T)) / np.diag(covariance)
            true = np.random.default_rng(seed).multivariate_normal(mean[0], covariance, 100)
            lost = _log_normal(true, mean, covariance) - posterior.log_prob(true)
            print(
                f"several: prior {name}, means off by {off.max():.2f} deviations, variances {ratio.min():.2f} to "
                f"{ratio.max():.2f} of the truth; log p lost {lost.mean():.3f} nats, error of log Z "
                f"{posterior.normaliser.error:.3f}; {time.perf_counter() - started:.0f} s",
                flush=True,
            )


def two_moons(seeds: int = 1) -> None:
    """Print the C2ST of ten observations of the two moons."""
    found = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        theta = generator.uniform(-1, 1, (10_000, 2))
        run = _fitted(theta, _moons(theta, generator), seed, box=(-1.0, 1.0))
        generator = np.random.default_rng(1000)
        asked = _moons(generator.uniform(-1, 1, (10, 2)), generator)
        for k, x in enumerate(asked):
            draws = run.posterior(x).sample(1000, seed=10_000 * k, solver="heun", num_steps=40)
            assert (np.abs(draws) <= 1).all()
            found.append(_c2st(draws, _posterior_moons(x, 1000, np.random.default_rng(k))))
        print(f"two_moons: seed {seed}, C2ST of each: {', '.join(f'{value:.3f}' for value in found[-10:])}", flush=True)
    print(f"two_moons: median C2ST {np.median(found):.3f}", flush=True)


def _fitted(theta: np.ndarray, x: np.ndarray, seed: int = 0, box: Any = None) -> Any:
    started = time.perf_counter()
    run = score_sde.fit(theta, condition=x, box=box, num_steps=3000, settings={**_KEPT, "seed": seed})
    print(f"trained in {time.perf_counter() - started:.0f} s", flush=True)
    return run


def _linear(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters `(N, 3)`, from `N(0, I)`, and what the simulator makes of them."""
    generator = np.random.default_rng(seed)
    theta = generator.normal(size=(count, 3))
    return theta, theta @ _A + _NOISE * generator.normal(size=(count, 3))


def _exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean `(…, 3)` and covariance of the posterior given all observations `(…, n, 3)`."""
    rows = x if x.ndim == 3 else x[None]
    covariance = np.linalg.inv(np.eye(3) + rows.shape[1] * _A @ _A.T / _NOISE**2)
    return rows.sum(1) @ _A.T @ covariance / _NOISE**2, covariance


def _log_normal(theta: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    residual = theta - mean
    distance = np.einsum("ni,ij,nj->n", residual, np.linalg.inv(covariance), residual)
    return -distance / 2 - np.linalg.slogdet(2 * np.pi * covariance)[1] / 2


def _moons(theta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return what the simulator makes of parameters `(N, 2)`: half a circle, moved by them."""
    angle = generator.uniform(-np.pi / 2, np.pi / 2, len(theta))
    r = generator.normal(0.1, 0.01, len(theta))
    first = r * np.cos(angle) + 0.25 - np.abs(theta.sum(1)) / math.sqrt(2)
    return np.stack([first, r * np.sin(angle) + (theta[:, 1] - theta[:, 0]) / math.sqrt(2)], 1)


def _posterior_moons(x: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return exact draws `(count, 2)` of the posterior: simulated half circles, moved back; what leaves is rejected."""
    angle = generator.uniform(-np.pi / 2, np.pi / 2, 20 * count)
    r, sign = generator.normal(0.1, 0.01, 20 * count), generator.choice([-1.0, 1.0], 20 * count)
    along, across = r * np.cos(angle) + 0.25 - x[0], x[1] - r * np.sin(angle)
    theta = np.stack([sign * along - across, sign * along + across], 1) / math.sqrt(2)
    return theta[(along >= 0) & (np.abs(theta) <= 1).all(1)][:count]


def _c2st(first: np.ndarray, second: np.ndarray) -> float:
    """Return a classifier's accuracy, held out, as sbibm has it: an MLP, standardised inputs, five folds."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    data = np.concatenate([first, second])
    data = (data - first.mean(0)) / first.std(0)
    labels = np.repeat([0, 1], [len(first), len(second)])
    size = 10 * data.shape[1]
    classifier = MLPClassifier((size, size), max_iter=1000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(classifier, data, labels, cv=folds, scoring="accuracy").mean())


if __name__ == "__main__":
    main(sys.argv[1:])
