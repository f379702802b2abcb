"""How good the posteriors of simulators are that a run of `vp/posterior` learns, against the known ones.

python -m benchmarks.sbi [linear_gaussian | two_moons | gaussian_mixture | several]

linear_gaussian   log p(theta | x) and moments against the truth, and simulation-based calibration (Talts et al. 2018,
                  arXiv:1804.06788): ranks of the true parameters among 100 draws, of 500 data sets, three times
two_moons         tasks of sbibm (Lueckmann et al. 2021, arXiv:2101.04653), 10,000 simulations: a classifier's accuracy
gaussian_mixture  between posterior samples and exact ones (C2ST), of 10 observations and 3 seeds, beside that of a flow
several           ten observations of the linear-Gaussian simulator: moments and densities against the truth
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch

import score_sde
from benchmarks import npe

_A = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.4, 0.0, 0.7]])
_NOISE = 0.8
_KEPT = {"training.sample_every": 0, "data.test_share": 0.0}
_SOLVED: dict[str, Any] = {"solver": "dpmpp_2m", "num_steps": 25}
_Simulator = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def main(names: list[str]) -> None:
    """Run the tasks that are named, or all."""
    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], None]] = {
        "linear_gaussian": linear_gaussian,
        "two_moons": two_moons,
        "gaussian_mixture": gaussian_mixture,
        "several": several,
    }
    for name in names or tasks:
        tasks[name]()


def linear_gaussian() -> None:
    """Print errors of densities and moments of a run on the linear-Gaussian simulator, and its calibration.

    Beside the calibration stands that of draws of the exact posterior: of the same 500 true parameters, so that chance
    in these is told from what the run gets wrong.
    """
    run = _linear_run()
    for seed in range(1, 4):
        theta, x = _linear(500, seed)
        mean, covariance = _exact(x[:, None])
        lost = _log_normal(theta, mean, covariance) - run.posterior().log_prob_batched(theta[None], x=x)[0]
        draws = run.posterior().sample_batched(100, x, seed=0, **_SOLVED)
        z = (draws - mean) / np.sqrt(np.diag(covariance))
        # The mean of 100 draws is off by 1/10 in the root mean square itself.
        off = np.sqrt(np.maximum(np.square(z.mean(0)).mean(0) - 0.01, 0))
        normal = np.random.default_rng(seed).normal(size=draws.shape)
        exact = mean + normal @ np.linalg.cholesky(covariance).T
        print(
            f"linear_gaussian: set {seed}: log p lost {lost.mean():.4f} ± {lost.std() / math.sqrt(500):.4f} nats; "
            f"means off by {_listed(off)} deviations, variances {_listed(z.var(0, ddof=1).mean(0))} of the truth; "
            f"SBC p {_listed(_uniform(draws, theta))}, of exact draws {_listed(_uniform(exact, theta))}",
            flush=True,
        )


def _uniform(draws: np.ndarray, theta: np.ndarray) -> list[float]:
    """Return the p of a chi-square test, for each parameter, that ranks of the true ones among draws are uniform."""
    from scipy.stats import chisquare

    count, sets = len(draws), len(theta)
    ranks = (draws < theta).sum(0)
    edges = np.linspace(0, count + 1, 11).round().astype(int)
    expected = sets * np.diff(edges) / (count + 1)
    return [chisquare(np.histogram(of_one, edges - 0.5)[0], expected).pvalue for of_one in ranks.T]


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def several() -> None:
    """Print how far the posterior of ten observations is from the truth, composed with each prior there is."""
    run = _linear_run()
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


def two_moons() -> None:
    """Print the C2ST of the two moons."""
    _compared("two_moons", 1.0, _moons, _posterior_moons)


def gaussian_mixture() -> None:
    """Print the C2ST of the mixture of two Gaussians."""
    _compared("gaussian_mixture", 10.0, _mixture, _posterior_mixture)


def _compared(name: str, edge: float, simulate: _Simulator, truth: _Sampler) -> None:
    """Print the C2ST of ten observations and three seeds, of a run, and of a flow beside it; the prior is uniform."""
    found: dict[str, list[float]] = {"ours": [], "npe": []}
    for seed in range(3):
        generator = np.random.default_rng(seed)
        theta = generator.uniform(-edge, edge, (10_000, 2))
        x = simulate(theta, generator)
        run = _fitted(theta, x, seed, box=(-edge, edge))
        flow = _Rival(theta, x, seed, edge)
        generator = np.random.default_rng(1000)
        asked = simulate(generator.uniform(-edge, edge, (10, 2)), generator)
        for k, x_o in enumerate(asked):
            true = truth(x_o, 1000, np.random.default_rng(k))
            draws = run.posterior(x_o).sample(1000, seed=10_000 * k, solver="heun", num_steps=40)
            assert (np.abs(draws) <= edge).all()
            found["ours"].append(_c2st(draws, true))
            found["npe"].append(_c2st(flow.sample(x_o, 1000), true))
        for who, values in found.items():
            print(
                f"{name}: {who}, seed {seed}, C2ST of each: {', '.join(f'{v:.3f}' for v in values[-10:])}", flush=True
            )
    for who, values in found.items():
        low, median, high = np.quantile(values, [0.0, 0.5, 1.0])
        print(f"{name}: {who}, C2ST {median:.3f} ({low:.3f} to {high:.3f}), mean {np.mean(values):.3f}", flush=True)


class _Rival:
    """A flow is trained on the same simulations, and draws in the prior's box alone."""

    def __init__(self, theta: np.ndarray, x: np.ndarray, seed: int, edge: float) -> None:
        started = time.perf_counter()
        self.edge = edge
        self.scales = [(part.mean(0), part.std(0)) for part in (theta, x)]
        parts = [(part - m) / s for part, (m, s) in zip((theta, x), self.scales, strict=True)]
        self.flow = npe.fit(parts[0], parts[1], seed)
        print(f"npe: trained in {time.perf_counter() - started:.0f} s", flush=True)

    def sample(self, x_o: np.ndarray, count: int) -> np.ndarray:
        (mean, std), (mean_x, std_x) = self.scales
        told = torch.as_tensor((x_o - mean_x) / std_x, dtype=torch.float32).expand(20 * count, -1)
        noise = torch.randn(20 * count, 2, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            drawn = mean + std * self.flow.draw(noise, told).double().numpy()
        return drawn[(np.abs(drawn) <= self.edge).all(1)][:count]


def _fitted(theta: np.ndarray, x: np.ndarray, seed: int = 0, box: Any = None) -> Any:
    started = time.perf_counter()
    run = score_sde.fit(theta, condition=x, box=box, config="vp/posterior", settings={**_KEPT, "seed": seed})
    print(f"trained in {time.perf_counter() - started:.0f} s", flush=True)
    return run


@cache
def _linear_run() -> Any:
    return _fitted(*_linear(10_000, 0))


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


def _mixture(theta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return parameters `(N, 2)` with noise of deviation 1, or, as often, 0.1."""
    std = generator.choice([1.0, 0.1], (len(theta), 1))
    return theta + std * generator.normal(size=theta.shape)


def _posterior_mixture(x: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return exact draws `(count, 2)` of the posterior: the mixture around `x`; what leaves the box is rejected."""
    theta = _mixture(np.broadcast_to(x, (20 * count, 2)), generator)
    return theta[(np.abs(theta) <= 10).all(1)][:count]


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
