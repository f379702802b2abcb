r"""How a method, written as in its paper, becomes a table.

A method is written down with ordinary arithmetic on states `y` and outputs (`solvers.fast.methods`), and run once on a
`Recorder`: there each state is not an array but the vector of its coefficients in `y_0, F_0, F_1, …, z_0, z_1, …`. The
recorder then reads off the table (`solvers.fast.table`), in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from score_sde.sde import SDE, Marginals
from score_sde.solvers.fast.table import Table

Prediction = Literal["noise", "data"]
# Called as method(recorder, nodes, **options): takes `y` from the first of the nodes, at T, to the last.
Method = Callable[..., Tensor]

# The most calls a method makes in a step.
_MAX_STAGES = 3
# A coefficient this small beside the terms whose difference it is, is a rounding error.
_ROUNDING = 1e-12


def method_table(
    method: Method,
    sde: SDE,
    times: Tensor,
    *,
    prediction: Prediction,
    denoise: bool = True,
    **options: Any,
) -> Table:
    """Return the table of a method from `solvers.fast.methods`, differentiable with respect to `times`.

    Args:
        method: what is recorded.
        sde: the forward process.
        times: the grid, float64, shape `(N,)`.
        prediction: the output in which the method is written.
        denoise: finish with a call at the last time and its denoised mean.
        options: passed to the method.
    """
    nodes = sde.at(times)
    recorder = Recorder(sde, _MAX_STAGES * len(times), prediction, denoise)
    y = method(recorder, nodes, **options)
    last = nodes[len(times) - 1]
    table = recorder.table(recorder.evaluate(y, last).data, None) if denoise else recorder.table(y, last)
    # A stage at the end of a step may lie beyond it by a rounding error.
    return table._replace(times=table.times.clamp(times[-1].item(), times[0].item()))


class Output(NamedTuple):
    """The model's answer at a state, as coefficient vectors: the output the table combines, noise and data."""

    recorded: Tensor
    eps: Tensor
    data: Tensor


class Recorder:
    """Runs a method on coefficient vectors and writes its table down.

    Args:
        sde: the forward process.
        capacity: at least the number of calls the method makes.
        prediction: which of the model's outputs the table combines; choose the one the method is written in, to keep
            it sparse.
        denoises: whether the method is followed by a step to `sigma = 0`.
    """

    def __init__(self, sde: SDE, capacity: int, prediction: Prediction, denoises: bool = True) -> None:
        self.sde = sde
        self.denoises = denoises
        self._capacity = capacity
        self.prediction = prediction
        self._states: list[Tensor] = []
        self._nodes: list[Marginals] = []
        self._noises = 0
        self._data_known: list[int] = []
        self.start = self._unit(0)

    def _unit(self, index: int) -> Tensor:
        unit = torch.zeros(1 + 2 * self._capacity, dtype=torch.float64)
        unit[index] = 1
        return unit

    def evaluate(self, y: Tensor, node: Marginals) -> Output:
        """Ask the model at the state `y`, at a node."""
        output = self._unit(1 + len(self._states))
        self._states.append(y)
        self._nodes.append(node)
        if self.prediction == "noise" and bool(node.gone):
            # The model's noise but for `y / rho`, which is all but all of it; see `Table.blend`.
            rest = output
            return Output(y / node.rho + rest, y / node.rho + rest, -node.rho * rest)
        if self.prediction == "data":
            return Output(output, (y - output) / node.rho, output)
        return Output(output, output, y - node.rho * output)

    def noise(self, data_known: bool = False) -> Tensor:
        """Draw fresh standard normal noise; at most one between two calls of the model.

        Args:
            data_known: whether it is that of `x_s | x_t, x_0`, to which what is not known of `x_0` is to be added.
        """
        if data_known:
            self._data_known.append(len(self._states) - 1)
        self._noises += 1
        return self._unit(self._capacity + self._noises)

    def table(self, y: Tensor, end: Marginals | None) -> Table:
        """Return the table of what was done, with final state `y` at the node `end` (at `sigma = 0` if None)."""
        count = len(self._states)
        times = torch.stack([node.t for node in self._nodes])
        here = self.sde.at(times)
        alpha = here.alpha
        # At sigma = 0 the state is y itself.
        next_alpha = torch.cat([alpha[1:], alpha.new_ones(1) if end is None else self.sde.alpha(end.t).reshape(1)])
        states = torch.stack([*self._states, y])
        state = states[1:, 0] / states[:-1, 0]
        carried = state[:, None] * states[:-1]
        rest = states[1:] - carried
        rest = rest * (rest.detach().abs() > _ROUNDING * (states[1:].abs() + carried.abs()).detach())
        outputs, noise = _latest_first(rest[:, 1 : 1 + count]), rest[:, 1 + self._capacity :]
        outputs = outputs * next_alpha[:, None]
        return Table(
            times,
            state * next_alpha / alpha,
            outputs,
            torch.linalg.vector_norm(noise.detach(), dim=1) * next_alpha.detach(),
            self.prediction,
            blend_of(here, self.prediction),
            None if end is None else end.t,
            of_data=self._weights_of_data(outputs.detach(), here.rho),
        )

    def _weights_of_data(self, outputs: Tensor, rho: Tensor) -> Tensor | None:
        """Return the weight of `D`, `(n,)`, in steps whose noise is drawn as if the data were known; elsewhere 0."""
        if not self._data_known:
            return None
        latest = outputs[:, 0] if self.prediction == "data" else -outputs[:, 0] / rho
        known = torch.zeros(len(latest), dtype=torch.bool)
        known[self._data_known] = True
        return torch.where(known, latest, 0.0)


def blend_of(nodes: Marginals, prediction: Prediction) -> Tensor:
    """Return what outputs have added of the state at the nodes, `(n,)`: `-1 / sigma` to the noise where nothing of the
    data is left; see `Table.blend`."""
    gone = nodes.gone & (prediction == "noise")
    return torch.where(gone, -1 / nodes.sigma, torch.zeros_like(nodes.sigma))


def _latest_first(weights: Tensor) -> Tensor:
    """Return the weights of the last `m` outputs, `(n, m)`, from those of all, lower triangular, `(n, n)`."""
    count = len(weights)
    number = torch.arange(count)
    age = number[:, None] - number
    oldest = int(torch.where(weights.detach() != 0, age, 0).max())
    output = number[:, None] - torch.arange(oldest + 1)
    return weights.gather(1, output.clamp(min=0)) * (output >= 0)
