r"""Learning the times and weights of a tuned likelihood (`solvers.density.tuned`).

Examples are followed once in many small steps, and states and divergences are kept. Between the steps these are known
from cubic polynomials, so that a choice of times costs no call. Then, by least squares,

    times   the divergences at which, along the accurate paths, say most of the log-density: of all small steps, those
            go, one after the other, without which the least is missing (the square that each adds is known in closed
            form); what remains is improved by gradient, gaps through a softmax
    a       step by step, along the table's own paths: the accurate state at the next time from all slopes so far
    b, e    the log-density, less its value at the end that is reached, from the divergences of the table's own paths

Every fourth example is held out: it takes no part, and its errors are reported. (Weights learned further, by the
derivative of the log-density along the whole path, fitted the examples they were learned on, and no others.)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.float64 import in_float64
from score_sde.common.noise import seeds_from_generator
from score_sde.solvers.base import Model, States, check_density, gaussian_of_model
from score_sde.solvers.density.divergence import Divergence
from score_sde.solvers.density.likelihood import divergence_of
from score_sde.solvers.density.path import DensityPath, LogDensity
from score_sde.solvers.density.tuned import HeldOutError, TunedLikelihood, advanced, model_digest, tuned_flow
from score_sde.solvers.fast.learned_table import bands_of
from score_sde.solvers.ode.adams import integrate_adams
from score_sde.solvers.options import check_at_least, check_between
from score_sde.solvers.process import last_time

# Steps of the accurate solution, of which a table can have so many.
FINE_STEPS = 80
MOST_STEPS = 40
_HELD_OUT = 4
# Fewest examples: those, and as many again for each step.
_FEWEST, _FOR_A_STEP = 32, 4
# Added to the diagonals of least squares problems whose columns have unit size.
_RIDGE = 1e-6
# Improving times by gradient.
_ITERATIONS, _RATE = 200, 0.05


class _Batches:
    """Examples are followed in batches, of which each has its own path; whoever asks sees all of them together."""

    def __init__(self, paths: list[DensityPath]) -> None:
        self._paths = paths
        self._sizes = [len(path.start) for path in paths]
        self.start = torch.cat([path.start for path in paths])
        self.dimension, self.which, self.flow = paths[0].dimension, paths[0].which, paths[0].flow
        self.knows_gaussian = paths[0].coordinates is not None

    def derivative(self, s: Tensor, state: Tensor) -> Tensor:
        """Return the slopes of all states at `s` `()`."""
        parts = zip(self._paths, state.split(self._sizes), strict=True)
        return torch.cat([path.derivative(s, part) for path, part in parts])

    def latents(self, state: Tensor) -> Tensor:
        """Return where the flow is at its end."""
        return torch.cat([path.latents(part) for path, part in zip(self._paths, state.split(self._sizes), strict=True)])


class _Recording:
    """What is kept of an accurate solution: states `(K, B, d)` and divergences `(K, B)` at `K` places, and its end.

    Examples that are learned from, and their dimension, are known beside it.
    """

    def __init__(self, path: _Batches, ends: Tensor) -> None:
        start, end = path.flow.position(ends)
        self.places = torch.linspace(float(start), float(end), FINE_STEPS + 1, dtype=torch.float64)
        self.dimension = path.dimension
        states, traces = list[Tensor](), list[Tensor]()

        def recorded(s: Tensor, state: Tensor) -> Tensor:
            slope = path.derivative(s, state)
            states.append(state[:, : path.dimension])
            traces.append(in_float64(slope[:, path.dimension :].mean(1)).cpu())
            return slope

        self.last = integrate_adams(recorded, path.start, self.places)
        self.states = torch.stack([*states[:-1], self.last[:, : path.dimension]])
        self.traces = torch.stack(traces)
        self.integral = in_float64(self.last[:, path.dimension :].mean(1)).cpu()
        self.learned = torch.arange(len(self.last)) % _HELD_OUT != 0

    def at(self, values: Tensor, s: Tensor) -> Tensor:
        """Return what was kept, `values` `(K, …)`, at places `s` `(N,)`, shape `(N, …)`; differentiable by `s`."""
        first = (torch.searchsorted(self.places, s.detach()) - 2).clamp(0, FINE_STEPS - 3)
        found = torch.zeros_like(values[first])
        for j in range(4):
            weight = torch.ones_like(s)
            for i in {0, 1, 2, 3} - {j}:
                weight = weight * (s - self.places[first + i]) / (self.places[first + j] - self.places[first + i])
            found = found + weight.to(values).reshape(-1, *[1] * (values.ndim - 1)) * values[first + j]
        return found

    def left_over(self, nodes: Tensor) -> Tensor:
        """Return the mean square of what divergences at `nodes` `(N,)` leave of the integrals; differentiable."""
        traces = self.at(self.traces, nodes).T[self.learned]
        target = self.integral[self.learned]
        return (_predict(traces, _regress(traces, target)) - target).square().mean()


@checked
@torch.no_grad()
def tune_likelihood(
    model: Model,
    num_steps: int,
    x: States,
    *,
    divergence: str = "hutchinson",
    num_probes: int = 1,
    probe: str = "rademacher",
    prior: LogDensity | None = None,
    t_min: float | None = None,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> TunedLikelihood:
    """Return learned times and weights for likelihoods by `num_steps` calls, with their error on examples held out.

    Args:
        model: the model; `FINE_STEPS + 1 + num_steps` calls of it are made for every batch.
        num_steps: number of calls.
        x: examples at `t_min`, `(B, *dims)`, such as those the model was trained on; every fourth is held out.
        divergence: the divergence that it is learned with, and to be used with, like what follows, as `log_likelihood`
            has them.
        num_probes: random vectors an example.
        probe: their distribution.
        prior: log-density at `T`.
        t_min: where the trajectory begins.
        seeds: one an example, for its probes.
        generator: source of seeds.
        batch_size: the most examples that the model is asked about at once.

    Raises:
        UserError: there are too few examples, an option is out of range, or the model has no density.
    """
    check_density(model)
    check_between("num_steps", num_steps, 2, MOST_STEPS)
    if len(x) < fewest_examples(num_steps):
        raise UserError(f"{len(x)} examples are too few for {num_steps} steps: give {fewest_examples(num_steps)}")

    check_at_least("batch_size", batch_size, 1)
    ends = torch.tensor([last_time(model.sde, t_min), model.sde.T], dtype=torch.float64)
    all_seeds = seeds_from_generator(len(x), generator) if seeds is None else list(seeds)

    def path_of(rows: slice) -> DensityPath:
        def make_divergence(z: Tensor) -> tuple[Divergence, Tensor | None, int]:
            return divergence_of(divergence, z, num_probes, probe, all_seeds[rows], None)

        part = x[rows]
        flow = tuned_flow(model, part.shape, float(ends[0]))
        return DensityPath(flow, part, ends, make_divergence, gaussian_of_model(model))

    path = _Batches([path_of(slice(first, first + batch_size)) for first in range(0, len(x), batch_size)])
    record = _Recording(path, ends)
    nodes = _choose_nodes(record, num_steps)
    state, traces, weights = _follow(path, record, nodes)

    reached, accurate = path.latents(state), path.latents(record.last)
    log_prob = model.sde.prior_log_prob if prior is None else prior
    # What the integral has to be, so that the log-density is right.
    missed = in_float64(log_prob(accurate) - log_prob(reached)).cpu() / path.dimension
    target, learned = record.integral + missed, record.learned
    solution = _regress(traces[learned], target[learned])
    times = torch.cat([ends[:1], path.flow.time(nodes[1:]), ends[1:]])
    return TunedLikelihood(
        times,
        model.sde.at(times).log_snr,
        weights,
        solution[:-1],
        float(solution[-1]),
        tuple(x.shape[1:]),
        model_digest(model),
        _held_out_error((_predict(traces, solution) - target)[~learned]),
    )


def fewest_examples(num_steps: int) -> int:
    """Return how many examples a table of so many steps needs."""
    return _FEWEST + _FOR_A_STEP * num_steps


def _choose_nodes(record: _Recording, num_steps: int) -> Tensor:
    """Return places `(num_steps,)`, the first of which is where the path starts."""
    start, end = record.places[0], record.places[-1]
    inner = _eliminate(record, num_steps)
    gaps = torch.cat([inner, end[None]]).diff() / (end - start)
    best, least = inner, record.left_over(inner)
    with torch.enable_grad():
        logits = torch.log(gaps).requires_grad_()
        optimiser = torch.optim.Adam([logits], _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _ITERATIONS)
        for _ in range(_ITERATIONS):
            gone = torch.softmax(logits, 0).cumsum(0)[:-1]
            nodes = torch.cat([start[None], start + (end - start) * gone])
            left = record.left_over(nodes)
            if left.detach() < least:
                best, least = nodes.detach(), left.detach()
            optimiser.zero_grad()
            torch.log(left + torch.finfo(left.dtype).tiny).backward()
            optimiser.step()
            schedule.step()
    return best


def _eliminate(record: _Recording, num_steps: int) -> Tensor:
    """Return those `num_steps` of the places, the first among them, that are left when others go one by one."""
    traces = record.traces[:-1, record.learned].T
    columns = (traces - traces.mean(0)) / _deviation(traces)
    target = record.integral[record.learned]
    gram = columns.T @ columns / len(columns) + _RIDGE * torch.eye(columns.shape[1], dtype=torch.float64)
    product = columns.T @ (target - target.mean()) / len(columns)
    kept = torch.arange(len(gram))
    while len(kept) > num_steps:
        inverse = torch.linalg.inv(gram[kept][:, kept])
        added = (inverse @ product[kept]).square() / inverse.diagonal()
        least = 1 + int(added[1:].argmin())
        kept = torch.cat([kept[:least], kept[least + 1 :]])
    return record.places[kept]


def _follow(path: _Batches, record: _Recording, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the last state by steps at these nodes, the divergences `(B, N)` on the way, and the weights of the steps,
    `(N, N, S)`."""
    gaussian, dimension = gaussian_of_model(path.flow.model), path.dimension
    bands = torch.zeros(1, dtype=torch.int64)
    if gaussian is not None and path.knows_gaussian:
        bands = bands_of(gaussian, len(path.start), path.start[:, :dimension])
    start, rest = path.start[:, :dimension], path.start[:, dimension:]
    w, slopes, traces = start, list[Tensor](), list[Tensor]()
    table = torch.zeros(len(nodes), len(nodes), len(bands), dtype=torch.float64)
    learned = record.learned.to(w.device)
    for i, s in enumerate(nodes):
        slope = path.derivative(s, torch.cat([w, rest], 1))
        slopes.append(slope[:, :dimension])
        traces.append(in_float64(slope[:, dimension:].mean(1)).cpu())
        wanted = record.states[-1] if i + 1 == len(nodes) else record.at(record.states, nodes[i + 1 : i + 2])[0]
        weights = _state_weights([past[learned] for past in slopes], (wanted - start)[learned], bands[path.which.cpu()])
        table[i, : i + 1] = weights[:, bands]
        w = advanced(path.which, start, table[i], slopes)
    return torch.cat([w, rest], 1), torch.stack(traces, 1), table


def _state_weights(columns: list[Tensor], wanted: Tensor, band: Tensor) -> Tensor:
    """Return the weights of least squares, `(columns, bands)`, of columns `(B, d)` for what is wanted in each band."""
    solved = []
    for number in range(int(band.max()) + 1):
        chosen = (band == number).to(wanted.device)
        rows = torch.stack([in_float64(column[:, chosen].flatten()).cpu() for column in columns])
        size = rows.square().mean(1).sqrt().clamp(min=torch.finfo(rows.dtype).tiny)
        rows = rows / size[:, None]
        gram = rows @ rows.T / rows.shape[1] + _RIDGE * torch.eye(len(rows), dtype=torch.float64)
        product = rows @ in_float64(wanted[:, chosen].flatten()).cpu() / rows.shape[1]
        solved.append(torch.linalg.solve(gram, product) / size)
    return torch.stack(solved, 1)


def _regress(features: Tensor, target: Tensor) -> Tensor:
    """Return the weights of least squares of features `(B, N)`, and the constant, `(N + 1,)`; differentiable."""
    mean, size = features.mean(0), _deviation(features)
    columns = (features - mean) / size
    gram = columns.T @ columns / len(columns) + _RIDGE * torch.eye(columns.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, columns.T @ (target - target.mean()) / len(columns)) / size
    return torch.cat([weights, (target.mean() - mean @ weights)[None]])


def _deviation(features: Tensor) -> Tensor:
    return features.std(0).clamp(min=torch.finfo(features.dtype).tiny)


def _predict(features: Tensor, solution: Tensor) -> Tensor:
    return features @ solution[:-1] + solution[-1]


def _held_out_error(error: Tensor) -> HeldOutError:
    def mean(values: Tensor) -> tuple[float, float]:
        return float(values.mean()), float(values.std() / len(values) ** 0.5)

    return HeldOutError(*mean(error.abs()), *mean(error), float(error.abs().max()), len(error))
