r"""The steps of each stochastic solver on Gaussian data, written by hand in NumPy from the papers' equations.

All are in `y = x / alpha`, `rho = sigma / alpha`, where data `N(m, C)` have, under every process,

    D = m + C (C + rho^2 I)^{-1} (y - m),        eps = (y - D) / rho,

but for those that are written in `x` in their papers. Each function goes along a path of known states and yields the
mean and the standard deviation of each step that has noise; a step without any is part of the next mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad

Conditional = tuple[np.ndarray, float]


@dataclass
class Process:
    """Alpha and sigma, drift and squared diffusion at times, for VP (20, 0.1) and VE (0.01, 5)."""

    name: str

    def alpha(self, t):
        return np.exp(-0.5 * (0.1 * t + 9.95 * t**2)) if self.name == "vp" else np.ones_like(t)

    def sigma(self, t):
        return np.sqrt(-np.expm1(-(0.1 * t + 9.95 * t**2))) if self.name == "vp" else 0.01 * 500.0**t

    def f(self, t):
        return -0.5 * (0.1 + 19.9 * t) if self.name == "vp" else 0.0 * t

    def g_squared(self, t):
        return 0.1 + 19.9 * t if self.name == "vp" else 2 * np.log(500.0) * self.sigma(t) ** 2

    def alpha_at(self, rho):
        return 1 / np.sqrt(1 + rho**2) if self.name == "vp" else np.ones_like(rho)


@dataclass
class Data:
    """Gaussian data."""

    mean: np.ndarray
    covariance: np.ndarray

    def D(self, y, rho):  # noqa: N802
        gain = self.covariance @ np.linalg.inv(self.covariance + rho**2 * np.eye(len(self.mean)))
        return self.mean + (y - self.mean) @ gain.T

    def eps(self, y, rho):
        return (y - self.D(y, rho)) / rho


@dataclass
class Chain:
    """A path of known states, and where it is.

    Attributes:
        process: alpha and sigma.
        data: the Gaussian.
        states: `(K + 1, B, d)`.
        t: the solver's times, `(N,)`.
    """

    process: Process
    data: Data
    states: np.ndarray
    t: np.ndarray

    def __post_init__(self):
        self.a, self.s = self.process.alpha(self.t), self.process.sigma(self.t)
        self.rho = self.s / self.a
        self.lam = -np.log(self.rho)
        self.y = [x / self.a[k] for k, x in enumerate(self.states)] if len(self.t) == len(self.states) else []

    def score(self, x, k):
        return -self.data.eps(x / self.a[k], self.rho[k]) / self.s[k]

    # In x.

    def predictor(self, kind: str) -> Iterator[Conditional]:
        for k, x in enumerate(self.states[:-1]):
            yield self._predicted(kind, x, k)

    def _predicted(self, kind: str, x: np.ndarray, k: int) -> Conditional:
        step, ratio = self.t[k] - self.t[k + 1], self.a[k] / self.a[k + 1]
        v = self.s[k] ** 2 - ratio**2 * self.s[k + 1] ** 2
        if kind == "euler_maruyama":
            f, g_squared = self.process.f(self.t[k]), self.process.g_squared(self.t[k])
            return x - step * (f * x - g_squared * self.score(x, k)), np.sqrt(g_squared * step)
        if kind == "reverse_diffusion":
            return x - (ratio - 1) * x + v * self.score(x, k), np.sqrt(v)
        # q(x_s | x_t, x_0) with D for x_0.
        D = self.data.D(x / self.a[k], self.rho[k])
        mean = ratio * self.s[k + 1] ** 2 / self.s[k] ** 2 * x + self.a[k + 1] * v / self.s[k] ** 2 * D
        return mean, np.sqrt(v) * self.s[k + 1] / self.s[k]

    def predictor_corrector(self, kind: str, corrector: str, snr: float, repeats: int) -> Iterator[Conditional]:
        states = iter(self.states[:-1])
        for k in range(len(self.t) - 1):
            if kind != "none":
                yield self._predicted(kind, next(states), k)
            for _ in range(repeats):
                epsilon = 2 * snr**2 * self.s[k + 1] ** 2 * (self.a[k + 1] if corrector == "langevin" else 1)
                x = next(states)
                yield x + epsilon * self.score(x, k + 1), np.sqrt(2 * epsilon)

    def reverse_sde(self, eta: float) -> Iterator[Conditional]:
        """Euler on `du = [s^2 u + (1 + eta^2) s sigma score] dlambda + eta sqrt(2) s dw`; `u = x / r`."""
        r = np.hypot(self.a, self.s)
        for k, x in enumerate(self.states[:-1]):
            h, share = self.lam[k + 1] - self.lam[k], self.s[k] / r[k]
            drift = share**2 * x / r[k] + (1 + eta**2) * share * self.s[k] * self.score(x, k)
            yield r[k + 1] * (x / r[k] + h * drift), r[k + 1] * eta * np.sqrt(2 * h) * share

    def ddim(self, eta: float) -> Iterator[Conditional]:
        for k, x in enumerate(self.states[:-1]):
            (a_s, a_e), (s_s, s_e) = self.a[k : k + 2], self.s[k : k + 2]
            D = self.data.D(x / a_s, self.rho[k])
            std = eta * s_e / s_s * np.sqrt(s_s**2 - (a_s / a_e) ** 2 * s_e**2)
            yield a_e * D + np.sqrt(s_e**2 - std**2) * (x - a_s * D) / s_s, std

    # In y.

    def in_x(self, k: int, mean: np.ndarray, std: float) -> Conditional:
        return self.a[k + 1] * mean, self.a[k + 1] * std

    def noise_prediction(self, order: int) -> Iterator[Conditional]:
        """Exponential Adams–Bashforth of order 1 or 2 in lambda on the noise, `eta = 1`."""
        eps = [self.data.eps(y, rho) for y, rho in zip(self.y, self.rho, strict=True)]
        for k in range(len(self.t) - 1):
            s, e, h = self.rho[k], self.rho[k + 1], self.lam[k + 1] - self.lam[k]
            mean = self.y[k] - 2 * (s - e) * eps[k]
            if order == 2 and k:
                slope = (eps[k] - eps[k - 1]) / (self.lam[k] - self.lam[k - 1])
                mean = mean - 2 * (s - e - h * e) * slope
            yield self.in_x(k, mean, np.sqrt(s**2 - e**2))

    def dpmpp_2m(self, eta: float, order: int = 2) -> Iterator[Conditional]:
        """The midpoint variant; with `1 + eta^2` where k-diffusion has `1 + eta`."""
        D = [self.data.D(y, rho) for y, rho in zip(self.y, self.rho, strict=True)]
        for k in range(len(self.t) - 1):
            h = self.lam[k + 1] - self.lam[k]
            new = -np.expm1(-h * (1 + eta**2))
            mean = (1 - new) * self.y[k] + new * D[k]
            if order == 2 and k:
                mean = mean + 0.5 * new * h / (self.lam[k] - self.lam[k - 1]) * (D[k] - D[k - 1])
            yield self.in_x(k, mean, self.rho[k + 1] * np.sqrt(-np.expm1(-2 * eta**2 * h)))

    def dpmpp_3m(self) -> Iterator[Conditional]:
        """Order 3 in lambda on the data, `eta = 1`: the parabola's powers integrated by parts."""
        D = [self.data.D(y, rho) for y, rho in zip(self.y, self.rho, strict=True)]
        for k in range(len(self.t) - 1):
            h, used = self.lam[k + 1] - self.lam[k], range(max(0, k - 2), k + 1)
            powers = np.vander([self.lam[j] - self.lam[k] for j in used], increasing=True)
            coefficients = np.linalg.solve(powers, np.stack([D[j] for j in used]).reshape(len(used), -1))
            moments = [-np.expm1(-2 * h)]
            for j in range(1, len(used)):
                moments.append(h**j - j / 2 * moments[-1])
            mean = np.exp(-2 * h) * self.y[k] + (np.array(moments) @ coefficients).reshape(D[0].shape)
            yield self.in_x(k, mean, self.rho[k + 1] * np.sqrt(-np.expm1(-2 * h)))

    def dpmpp_2s(self, eta: float) -> Iterator[Conditional]:
        for k in range(len(self.t) - 1):
            s, e = self.rho[k], self.rho[k + 1]
            up = eta * e * np.sqrt(1 - (e / s) ** 2)
            down = np.sqrt(e**2 - up**2)
            middle = max(np.sqrt(s * down), e)
            y = middle / s * self.y[k] + (1 - middle / s) * self.data.D(self.y[k], s)
            mean = down / s * self.y[k] + (1 - down / s) * self.data.D(y, middle)
            yield self.in_x(k, mean, up)

    def edm(self, churn: float, second_order: bool) -> Iterator[Conditional]:
        """EDM's algorithm 2; the states with noise are those that churn has raised, all but the first's."""
        gamma = min(churn / len(self.t), np.sqrt(2) - 1)
        raised = np.minimum(self.rho * (1 + gamma), self.rho[0])
        alpha = self.process.alpha_at(raised)
        for k in range(len(self.t) - 2):
            y, step = self.states[k] / alpha[k], self.rho[k + 1] - raised[k]
            slope = self.data.eps(y, raised[k])
            if second_order:
                slope = (slope + self.data.eps(y + step * slope, self.rho[k + 1])) / 2
            std = np.sqrt(raised[k + 1] ** 2 - self.rho[k + 1] ** 2)
            yield alpha[k + 1] * (y + step * slope), alpha[k + 1] * std

    def residual(
        self, mean: np.ndarray, axes: np.ndarray, scales: np.ndarray, A: float, B: float, eta: float, free: bool
    ) -> Iterator[Conditional]:
        """Solver `default` at order 2, for data taken for `N(mean, axes diag(scales^2) axes^T)`."""
        q = np.sqrt(self.rho[:, None] ** 2 + scales**2)
        largest, typical = scales.max(), np.sqrt(np.mean(scales**2))
        v = np.log((self.rho + A * largest) / (self.rho + B * largest))
        # Of a free first step, the line goes through a zero as long before it as it is long.
        before = [2 * v[0] - v[1]] if free else []
        v, states, values = np.array([*before, *v]), iter(self.states[1:]), [0.0 for _ in before]
        u = (self.states[0] / self.a[0] - mean) @ axes
        for k in range(len(self.t) - 1):
            s, e, asked = self.rho[k], self.rho[k + 1], 0 * u if free and k == 0 else u
            F = self.data.eps(asked @ axes.T + mean, s) @ axes - s * asked / q[k] ** 2
            values.append(q[k] * F)
            noisy = 0.3 * typical <= e <= 3 * typical
            up = eta * e * np.sqrt(1 - (e / s) ** 2) if noisy else 0.0
            down = np.sqrt(e**2 - up**2)
            q_down = np.sqrt(down**2 + scales**2)
            used, integral = range(max(0, len(values) - 2), len(values)), np.zeros_like(u)
            for j in used:
                weight = [self._weight(v, used, j, s, down, c, A * largest, B * largest) for c in scales]
                integral = integral + np.array(weight) * values[j]
            u = q_down * (u / q[k] + integral)
            if noisy:
                yield self.in_x(k, u @ axes.T + mean, up)
                u = (next(states) / self.a[k + 1] - mean) @ axes

    @staticmethod
    def _weight(v, used, j, start, end, scale, A, B) -> float:
        def integrand(rho):
            at = np.log((rho + A) / (rho + B))
            return np.prod([(at - v[i]) / (v[j] - v[i]) for i in used if i != j]) / (rho**2 + scale**2)

        return quad(integrand, start, end, epsabs=1e-14, epsrel=1e-13)[0]


def log_normal(x: np.ndarray, mean: np.ndarray, std: float) -> np.ndarray:
    return -0.5 * (((x - mean) / std) ** 2 + np.log(2 * np.pi * std**2)).sum(-1)
