r"""Samplers as tables of coefficients.

With `y = x / alpha` and `rho = sigma / alpha`, every sampler of the fast family asks the model at times `t_0, t_1, …`
and combines
linearly: its state, the model's outputs `F_0, F_1, …` so far (noise `eps` or data `D`, which follow from each other
by Tweedie's
formula `D = y - rho eps`), and fresh noise `z`,

    x_{k+1} = a_k x_k + sum_{j <= k} b_kj F_j + c_k z_k.

Multistep, singlestep and predictor-corrector methods are all of this form: where a method goes back to an earlier
state (Heun's second stage, UniPC's corrector), the way back is a combination of outputs too. So a sampler *is* its
table `(t, a, b, c)`.

A method is written down as in its paper, with ordinary arithmetic on states and outputs, and run once on a `Tape`:
there each state is not an array but the vector of its coefficients in `y_0, F_0, F_1, …, z_0, z_1, …`. The tape then
reads off the table, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from score_sde.sde import SDE

Prediction = Literal["noise", "data", "residual"]

# A table takes memory with the square of its steps, 11 GB for these. (The longest ladder published has as many.)
MOST_STEPS_OF_TABLE = 4000

# A coefficient this small beside the terms whose difference it is, is a rounding error.
_ROUNDING = 1e-12


class Table(NamedTuple):
    """A sampler: `x_{k+1} = state_k x_k + sum_j outputs_kj F_j + noise_k z_k`; all float64.

    Attributes:
        times: when the model is asked, shape `(n,)`.
        state: shape `(n,)`.
        outputs: lower triangular, shape `(n, n)`.
        noise: shape `(n,)`.
        prediction: what `F` is made from: the model's noise `eps` or its denoised data `D`.
        blend: multiple of `x_k` that is added to it, shape `(n,)`; zero but for residuals.
        end: time of the last state; None for `sigma = 0`.
    """

    times: Tensor
    state: Tensor
    outputs: Tensor
    noise: Tensor
    prediction: Literal["noise", "data"]
    blend: Tensor
    end: Tensor | None = None


@dataclass(frozen=True)
class Nodes:
    """Times with their noise levels, float64, shape `(N,)` each.

    Attributes:
        t: times.
        rho: `sigma / alpha`.
        lam: `-log rho`, half the log-SNR.
    """

    t: Tensor
    rho: Tensor
    lam: Tensor

    @staticmethod
    def at_times(sde: SDE, t: Tensor) -> Nodes:
        """The nodes at these times."""
        lam = 0.5 * sde.log_snr(t)
        return Nodes(t, torch.exp(-lam), lam)

    @staticmethod
    def at_lambdas(sde: SDE, lam: Tensor) -> Nodes:
        """The nodes with these half log-SNRs."""
        return Nodes(sde.time_at_log_snr(2 * lam), torch.exp(-lam), lam)

    def __getitem__(self, index: int) -> Nodes:
        """One node."""
        return Nodes(self.t[index], self.rho[index], self.lam[index])


class Output(NamedTuple):
    """The model's answer at a state, as coefficient vectors: the output the tape records, noise and data."""

    recorded: Tensor
    eps: Tensor
    data: Tensor


class Tape:
    """Runs a method on coefficient vectors and writes its table down.

    Args:
        sde: the forward process.
        capacity: at least the number of calls the method makes.
        prediction: which of the model's outputs the table combines; choose the one the method is written in, to keep
        it sparse.
    """

    def __init__(
        self, sde: SDE, capacity: int, prediction: Prediction, denoises: bool = True, data_std: float = 0.5
    ) -> None:
        self.sde = sde
        self.data_std = data_std
        self.denoises = denoises
        self._capacity = capacity
        self.prediction = prediction
        self._states: list[Tensor] = []
        self._nodes: list[Nodes] = []
        self._noises = 0
        self.start = self._unit(0)

    def _unit(self, index: int) -> Tensor:
        unit = torch.zeros(1 + 2 * self._capacity, dtype=torch.float64)
        unit[index] = 1
        return unit

    def evaluate(self, y: Tensor, node: Nodes) -> Output:
        """Ask the model at the state `y`, at a node."""
        output = self._unit(1 + len(self._states))
        self._states.append(y)
        self._nodes.append(node)
        if self.prediction == "data":
            return Output(output, (y - output) / node.rho, output)
        eps = output - self._blend(node.rho) * y
        return Output(output, eps, y - node.rho * eps)

    def _blend(self, rho: Tensor) -> Tensor:
        return -rho / (rho**2 + self.data_std**2) if self.prediction == "residual" else torch.zeros_like(rho)

    def noise(self) -> Tensor:
        """Fresh standard normal noise; at most one between two calls of the model."""
        self._noises += 1
        return self._unit(self._capacity + self._noises)

    def table(self, y: Tensor, end: Nodes | None) -> Table:
        """The table of what was done, with final state `y` at the node `end` (at `sigma = 0` if None)."""
        count = len(self._states)
        times = torch.stack([node.t for node in self._nodes])
        alpha = self.sde.alpha(times)
        # At sigma = 0 the state is y itself.
        next_alpha = torch.cat([alpha[1:], alpha.new_ones(1) if end is None else self.sde.alpha(end.t).reshape(1)])
        states = torch.stack([*self._states, y])
        state = states[1:, 0] / states[:-1, 0]
        carried = state[:, None] * states[:-1]
        rest = states[1:] - carried
        rest = rest * (rest.detach().abs() > _ROUNDING * (states[1:].abs() + carried.abs()).detach())
        outputs, noise = rest[:, 1 : 1 + count], rest[:, 1 + self._capacity :]
        return Table(
            times,
            state * next_alpha / alpha,
            outputs * next_alpha[:, None],
            torch.linalg.vector_norm(noise.detach(), dim=1) * next_alpha.detach(),
            "data" if self.prediction == "data" else "noise",
            self._blend(torch.stack([node.rho for node in self._nodes])) / alpha,
            None if end is None else end.t,
        )
