r"""A table of the fast family with learned times and weights (see `solvers.fast.tuning`).

The times have learned gaps of half log-SNR, through a softmax, so that their order cannot change. The weights are the
recommended solver's for these times, plus a correction. Outputs of neighbouring calls are nearly alike, so weights
are badly scaled unknowns: one direction changes the sample a million times as much as another. Corrections are
therefore learned in coordinates `theta` that are whitened on the trajectories of the start: with `A_k` the state and
the last outputs at step `k`, one row each, and `L_k L_k^T` the mean of `A_k A_k^T` over the examples,

    correction of step k's weights = unit_k L_k^{-T} theta_k,

which changes the state after the step by `unit_k |theta_k|`, root mean square. `unit_k` is the start's error, carried
back to step `k` along the exact ODE of `N(0, c^2 I)`: a step of a given length in any `theta` does as much as in any
other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score_sde.sde import SDE
from score_sde.solvers.base import Model
from score_sde.solvers.fast.default import recommended_table, recommended_times
from score_sde.solvers.fast.table import Table

# Added to the diagonal of `A_k A_k^T`, relative to it: it bounds the weights, and with
# them how much each step amplifies the errors of those before.
_RIDGE = 1e-3


class LearnedTable(nn.Module):
    """Called, it gives the table; equal to the recommended one at first. `whiten` it before learning.

    Args:
        sde: the forward process.
        num_steps: calls of the model.
        order: of the recommended solver.
        memory: how many past outputs a step may use.
        data_std: standard deviation of the data, per dimension.
    """

    def __init__(self, sde: SDE, num_steps: int, order: int, memory: int, data_std: float) -> None:
        super().__init__()
        self._sde, self._order, self._memory, self._data_std = sde, order, memory, data_std
        times = recommended_times(sde, num_steps, sde.t_min, True, data_std)
        limits = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
        self._first, last = (0.5 * sde.log_snr(limits)).unbind()
        self._range = last - self._first
        gaps = torch.cat([0.5 * sde.log_snr(times), last[None]]).diff().clamp(min=1e-3 * self._range.item() / num_steps)
        self.log_gaps = nn.Parameter(torch.log(gaps))
        self.theta = nn.Parameter(torch.zeros(num_steps, num_steps + 1, dtype=torch.float64))
        self._basis = torch.zeros(num_steps, num_steps + 1, num_steps + 1, dtype=torch.float64)

    def forward(self) -> Table:
        gone = torch.softmax(self.log_gaps, 0).cumsum(0)[:-1]
        inner = self._sde.time_at_log_snr(2 * (self._first + self._range * gone))
        times = torch.cat([inner.new_full((1,), self._sde.T), inner.clamp(self._sde.t_min, self._sde.T)])
        table = recommended_table(self._sde, times, None, self._order, self._data_std)
        correction = (self._basis @ self.theta[:, :, None]).squeeze(-1)
        return table._replace(state=table.state + correction[:, 0], outputs=table.outputs + correction[:, 1:])

    @torch.no_grad()
    def whiten(self, model: Model, x_T: Tensor, exact: Tensor) -> None:
        """Choose the coordinates of the weights, from trajectories whose exact ends are known."""
        table = self()
        end, states, outputs = run(table, model, x_T)
        error = (end - exact).flatten(1).cpu().double().square().sum(1).mean().sqrt().item()
        nodes = self._sde.at(table.times)
        # The state's scale for N(0, c^2 I) after each step, in units of that at the end.
        sizes = torch.sqrt(nodes.alpha**2 + (nodes.sigma / self._data_std) ** 2)
        scale = torch.cat([sizes[1:], sizes.new_ones(1)])
        for k, state in enumerate(states):
            used = range(k, max(-1, k - self._memory), -1)
            index = torch.tensor([k + 1, 0, *(1 + j for j in used[1:])])
            rows = torch.stack([outputs[k], state, *(outputs[j] for j in used[1:])]).flatten(1).cpu().double()
            gram = rows @ rows.T / len(x_T)
            gram.diagonal().mul_(1 + _RIDGE)
            lower = torch.linalg.cholesky(gram)
            self._basis[k][index[:, None], index] = error * scale[k] * torch.linalg.inv(lower).T


def run(table: Table, model: Model, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run a noise table as `integrate`, with gradients for it; return the end, and all states and outputs before it.

    Of the model's calls only inputs and outputs are stored; the rest is computed again in the backward pass.
    """
    sigmas = model.sde.sigma(table.times)
    states, outputs = [], []
    for k, t in enumerate(table.times.unbind()):
        score = checkpoint(model.score, x, t, use_reentrant=False)
        scalars = torch.cat([torch.stack([-sigmas[k], table.blend[k], table.state[k]]), table.outputs[k, : k + 1]])
        to_noise, blend, state, *weights = scalars.to(x).unbind()
        states.append(x)
        outputs.append(to_noise * score + blend * x)
        x = state * x + sum(w * output for w, output in zip(weights, outputs, strict=True))
    return x, states, outputs
