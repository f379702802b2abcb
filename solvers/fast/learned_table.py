r"""A table of the fast family with learned times and weights (see `solvers.fast.tuning`).

In the axes of the Gaussian that the data look like, whose scales fall into bands (octaves below the largest), a step's
result is the recommended solver's plus a correction, for each band `b` a combination of the state and of the last
outputs,

    y_{k+1} = recommended + q_e ( theta_kb y_k / q_k + sum_j theta_kjb J_k q_{k-j} F_{k-j} ),   J_k = ∫_s^e drho / q^2,

each term of which has the size of what it corrects. Given the times, the best `theta` of a step are those of a least
squares problem: its result is to be the accurate trajectory's state (`fit_weights`). So they are known, step by step,
from one run of the table, without any derivative of the model.

The times have learned gaps of half log-SNR, through a softmax, so that their order cannot change; what the model is
told of the noise is learned beside them. When times are learned by gradient, the weights are too, in coordinates that
are whitened on the trajectories: outputs of neighbouring calls are nearly alike, so one direction of `theta` changes
the sample a million times as much as another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score_sde.common.gaussian import Gaussian
from score_sde.sde import SDE
from score_sde.solvers.base import Model, noise_of
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.default import Rule, recommended_table
from score_sde.solvers.fast.table import Table, first_answer, steps_of, which_scale
from score_sde.solvers.fast.trajectories import Trajectories, root_variance, spread

# Added to the diagonal of a least squares problem, relative to it: it bounds the weights, and with them how much each
# step amplifies the errors of those before.
_RIDGE = 1e-4
# The most bands.
_MOST_BANDS = 6
# Numbers that a band must have, in all examples together: each of its weights is learned from no fewer.
_LEAST_NUMBERS = 500
# The same relative to the sum of the diagonal, and absolutely.
_ROUNDING, _NOTHING = 1e-14, 1e-30
# What a step of 1 in the whitened coordinates changes a state by, in units of the examples' size.
_UNIT = 3e-3
# Rounds of reweighting, which make squares into roots of distances, and the least distance in units of the median.
_ROUNDS = 3
_LEAST_DISTANCE = 0.1


class LearnedTable(nn.Module):
    """Called, it gives the table; the recommended weights for its times at first.

    Args:
        sde: the forward process.
        times: where it begins, float64, shape `(n,)`, of which the first is `T`.
        gaussian: in whose axes it works.
        rule: of the recommended solver: variable and order of its polynomials, and whether the first output is free.
        memory: how many past outputs a step may use.
        bands: the band of each of the Gaussian's scales, `(S,)`.
    """

    def __init__(self, sde: SDE, times: Tensor, gaussian: Gaussian, rule: Rule, memory: int, bands: Tensor) -> None:
        super().__init__()
        self.sde, self.gaussian, self.rule, self.memory, self.bands = sde, gaussian, rule, memory, bands
        limits = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
        self._first, last = sde.at(limits).lam.unbind()
        self._range = last - self._first
        gaps = torch.cat([sde.at(times).lam, last[None]]).diff()
        least = 1e-3 * float(self._range) / len(times)
        self.log_gaps = nn.Parameter(torch.log(gaps.clamp(min=least)))
        self.shift = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))
        count, features = int(bands.max()) + 1, memory + 1
        self.theta = nn.Parameter(torch.zeros(len(times), count, features, dtype=torch.float64))
        # What is known of the weights, and the coordinates in which more is learned.
        self.register_buffer("known", torch.zeros_like(self.theta))
        self._basis = torch.zeros(len(times), count, features, features, dtype=torch.float64)

    known: Tensor

    def forward(self) -> Table:
        """Return the table, differentiable by the parameters."""
        gone = torch.softmax(self.log_gaps, 0).cumsum(0)[:-1]
        inner = 2 * (self._first + self._range * gone)
        times = torch.cat([gone.new_full((1,), self.sde.T), self._times(inner)])
        table = recommended_table(self.sde, times, None, self.gaussian, self.rule)
        weights = self.known + (self._basis @ self.theta[..., None]).squeeze(-1)
        # `(n, S)` for the state, `(n, memory, S)` for the outputs.
        each = weights[:, self.bands].movedim(2, 0)
        state_unit, output_unit = self._units(times)
        lags = self.memory - table.outputs.shape[1]
        outputs = nn.functional.pad(table.outputs, (0, 0, 0, max(lags, 0)))
        correction = torch.stack([each[1 + j] * output_unit[:, j] for j in range(self.memory)], dim=1)
        correction = nn.functional.pad(correction, (0, 0, 0, max(-lags, 0)))
        told = torch.cat([times[:1], self._times(inner + 2 * self.shift[1:])])
        return table._replace(
            state=table.state + each[0] * state_unit,
            outputs=outputs + correction,
            told=told if torch.is_grad_enabled() or bool(self.shift.any()) else None,
        )

    def _times(self, log_snr: Tensor) -> Tensor:
        return self.sde.time_at_log_snr(log_snr).clamp(self.sde.t_min, self.sde.T)

    def _units(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a correction of 1 adds to the weight of the state, `(n, S)`, and to those of the last outputs,
        `(n, memory, S)`."""
        nodes, scales = self.sde.at(times), self.gaussian.scales
        rho, alpha = torch.cat([nodes.rho, times.new_zeros(1)]), torch.cat([nodes.alpha, times.new_ones(1)])
        q = torch.sqrt(rho[:, None] ** 2 + scales**2)
        ratio = alpha[1:, None] * q[1:]
        whole = (torch.atan(rho[1:, None] / scales) - torch.atan(rho[:-1, None] / scales)) / scales
        number = torch.arange(len(times))[:, None] - torch.arange(self.memory)
        past = q[number.clamp(min=0)] * (number >= 0)[..., None]
        return ratio / (alpha[:-1, None] * q[:-1]), (ratio * whole)[:, None] * past

    @torch.no_grad()
    def fit_weights(self, model: Model, exact: Trajectories) -> Tensor:
        """Find the weights of each step from one run on accurate trajectories; return the ends, in the axes.

        The coordinates for learning more are chosen as well.
        """
        self.known.zero_()
        self.theta.data.zero_()
        table = self()
        nodes = self.sde.at(table.times)
        rho = torch.cat([nodes.rho, table.times.new_zeros(1)])
        alpha = [*nodes.alpha.tolist(), 1.0]
        there, which = InAxes(model, self.gaussian, exact.latents), which_scale(self.gaussian, exact.latents)
        band = self.bands.to(which.device)[which].expand(exact.latents.shape[1:])
        state_unit, output_unit = self._units(table.times)
        unit_error = _UNIT * float(exact.end.flatten(1).norm(dim=1).median())
        steps, outputs = steps_of(table, self.sde), list[Tensor]()
        x = there.turned(exact.latents, alpha[0])
        for k, step in enumerate(steps):
            given = first_answer(table, step, there, x) if k == 0 else None
            output = noise_of(there, x, self.sde.at(step.told)) if given is None else given.expand(x.shape)
            outputs.append(output if given is not None else output + table.blend[k].to(x)[which] * x)
            past = outputs[::-1][: self.memory]
            plain = x * table.state[k].to(x)[which]
            for weight, output in zip(table.outputs[k], outputs[::-1], strict=False):
                plain = plain + weight.to(x)[which] * output
            terms = [x * state_unit[k].to(x)[which]]
            terms += [output * output_unit[k, j].to(x)[which] for j, output in enumerate(past)]
            wanted = alpha[k + 1] * exact.state(rho[k + 1])
            # Errors count by what is left of them in the end.
            left = spread(self.gaussian.scales, self.gaussian, x) / (
                alpha[k + 1] * root_variance(self.gaussian, rho[k + 1], x)
            )
            rows = torch.stack([left * term for term in terms])
            solved, lower = _solve(rows, left * (wanted - plain), band, len(self.known[k]))
            used = len(terms)
            self.known[k, :, :used] = solved
            self._basis[k, :, :used, :used] = unit_error * torch.linalg.inv(lower).mT
            each = solved.to(x)[band]
            x = plain + sum(each[..., f] * term for f, term in enumerate(terms))
        return x


def _solve(rows: Tensor, wanted: Tensor, band: Tensor, bands: int) -> tuple[Tensor, Tensor]:
    """Return the weights `(bands, F)` of rows `(F, M, *dims)` whose sum comes nearest to `wanted` `(M, *dims)`, in the
    mean of roots of the distances; and the triangular factors of their products, `(bands, F, F)`."""
    features, count = rows.shape[:2]
    rows, wanted = rows.reshape(features, count, -1).cpu().double(), wanted.reshape(count, -1).cpu().double()
    in_band = [(band.flatten().cpu() == b) for b in range(bands)]
    solved = torch.zeros(bands, features, dtype=torch.float64)
    importance = torch.ones(count, dtype=torch.float64)
    factors: list[Tensor] = []
    for _ in range(_ROUNDS):
        rest, factors = wanted.clone(), []
        for b, chosen in enumerate(in_band):
            part, target = rows[:, :, chosen], wanted[:, chosen]
            weighted = part * importance[:, None]
            gram = torch.einsum("fmd,gmd->fg", weighted, part) / importance.sum()
            gram.diagonal().mul_(1 + _RIDGE).add_(_ROUNDING * gram.trace() + _NOTHING)
            lower = torch.linalg.cholesky(gram)
            product = torch.einsum("fmd,md->f", weighted, target) / importance.sum()
            solved[b] = torch.cholesky_solve(product[:, None], lower)[:, 0]
            rest[:, chosen] -= torch.einsum("f,fmd->md", solved[b], part)
            factors.append(lower)
        distance = rest.norm(dim=1)
        importance = (distance + _LEAST_DISTANCE * distance.median() + _NOTHING) ** -1.5
    return solved, torch.stack(factors)


def bands_of(gaussian: Gaussian, numbers: int, like: Tensor) -> Tensor:
    """Return the band of each scale `(S,)`, in octaves below the largest, from the highest number down to 0; those with
    too few numbers in so many examples join their neighbours."""
    octave = torch.log2(gaussian.scales.max() / gaussian.scales).floor().clamp(max=_MOST_BANDS - 1).long()
    which = gaussian.which.flatten() if gaussian.which.ndim else gaussian.which.expand(like[0].numel())
    held = torch.bincount(octave[which], minlength=_MOST_BANDS) * numbers
    bands, current, room = torch.zeros(_MOST_BANDS, dtype=torch.int64), 0, 0
    for number in range(_MOST_BANDS):
        bands[number] = current
        room += int(held[number])
        if room >= _LEAST_NUMBERS and int(held[number + 1 :].sum()) >= _LEAST_NUMBERS:
            current, room = current + 1, 0
    return bands[octave]


def run(table: Table, model: Model, x: Tensor) -> Tensor:
    """Run a table of noise as `integrate`, with gradients for it; return the ends, in the axes of its Gaussian.

    Of the model's calls only inputs and outputs are stored; the rest is computed again in the backward pass.
    """
    assert table.gaussian is not None
    there, which = InAxes(model, table.gaussian, x), which_scale(table.gaussian, x)
    told = table.times if table.told is None else table.told
    here, asked_at = model.sde.at(table.times), model.sde.at(told)
    alpha, asked, sigma = here.alpha, asked_at.alpha, asked_at.sigma
    u, outputs = there.turned(x, float(alpha[0].detach())), []
    for k, t in enumerate(told.unbind()):
        if k == 0 and table.free:
            with torch.no_grad():
                answer = first_answer(table, steps_of(_detached(table), model.sde)[0], there, x)
            assert answer is not None
            outputs.append(answer.expand(u.shape))
        else:
            scaled = u * (asked[k] / alpha[k]).to(u)
            eps = checkpoint(there.noise_at, scaled, t, asked[k].to(u), sigma[k].to(u), use_reentrant=False)
            outputs.append(eps + table.blend[k].to(u)[which] * u)
        u = table.state[k].to(u)[which] * u
        for weight, output in zip(table.outputs[k].to(u), outputs[::-1], strict=False):
            u = u + weight[which] * output
    return u


def _detached(table: Table) -> Table:
    told = None if table.told is None else table.told.detach()
    return table._replace(
        times=table.times.detach(),
        state=table.state.detach(),
        outputs=table.outputs.detach(),
        blend=table.blend.detach(),
        told=told,
    )
