"""What is measured of an example's likelihood: its density for each draw of dequantisation noise, and bounds.

Everything about an example follows from its seed, so that it does not matter which others it is measured with. Of one
that was not observed whole, the density is that of what was (`common.part`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from score_sde.common.condition import Rows
from score_sde.common.noise import SampleNoise
from score_sde.common.part import Part, observed
from score_sde.evaluation.likelihood.bounds import ExampleBound
from score_sde.evaluation.likelihood.dequantisation import Dequantised, Dequantiser
from score_sde.evaluation.watched import Watched
from score_sde.models import part_of, rows_of
from score_sde.solvers import Model, log_likelihood

# A second solution at these tolerances judges the first.
_TIGHT: dict[str, Any] = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
_SOLVER_OPTIONS = ("method", "options", "num_steps", "grid", "rtol", "atol", "table")
# This is added to an example's seed for other probes.
_OTHER_PROBES = 2**40


class Measured(NamedTuple):
    """A batch of examples was measured; tensors lie on the CPU, float64.

    Attributes:
        log_prob: log-density of each draw at `t_min`, in model units, `(B, K)`, in nats.
        log_q: log-density of each draw's noise, `(B, K)`, in nats; without levels, `-log |d x / d y|` of their units.
        latents: where the first draw ends at `T`, `(B, *dims)`, float32.
        bounds: three terms of each bound, `(B, 3)`, in nats, on `-log P(k)` (or, without levels, `-log p(y)`).
        nfe: network calls of one solution.
        seconds: time that everything took.
    """

    log_prob: Tensor
    log_q: Tensor
    latents: Tensor
    bounds: dict[str, Tensor]
    nfe: float
    seconds: float


class Checked(NamedTuple):
    """Examples are measured again with one thing changed; `log p - log q` of each, `(B,)`, in nats, float64.

    Attributes:
        first: the first draw, as it was measured.
        tight: the first draw, solved at tight tolerances.
        other_probes: the first draw, with other probes of the divergence.
        other_draw: another draw of noise, with other probes.
    """

    first: Tensor
    tight: Tensor
    other_probes: Tensor
    other_draw: Tensor


@dataclass(frozen=True)
class Measurement:
    """A measurement says how likelihoods are measured, and measures them.

    Args:
        model: the model; one that is bound to conditions has those of all examples.
        dequantiser: what makes examples, with noise where they are levels, into what the model sees.
        options: options of `log_likelihood`.
        num_draws: number of draws of noise an example.
        bounds: the variational bounds, by name.
        device: where the model is.
        given: which numbers the density is conditioned on, bool, of a shape that broadcasts to the examples'; None for
            none.
        shown: what a model is told of given levels, `(B, *shape)` of examples `(B, *shape)`; None of numbers without
            levels, which are told as they are.
    """

    model: Model
    dequantiser: Dequantiser
    options: Mapping[str, Any]
    num_draws: int = 1
    bounds: Mapping[str, ExampleBound] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    given: Tensor | None = None
    shown: Callable[[Tensor], Tensor] | None = None

    def __call__(self, examples: Tensor, seeds: list[int]) -> Measured:
        """Measure examples `(B, *shape)`, as their dataset has them; `seeds[i]` decides all noise of example `i`."""
        started = time.perf_counter()
        draws = self._draws(examples, seeds, self.num_draws)
        solutions = [self._solve(examples, draw.x, seeds, self.options) for draw in draws]
        terms = {name: self._terms(bound, examples, draws[0], seeds) for name, bound in self.bounds.items()}
        return Measured(
            torch.stack([log_prob for log_prob, _, _ in solutions], dim=1),
            torch.stack([draw.log_q for draw in draws], dim=1),
            solutions[0][1],
            terms,
            sum(nfe for _, _, nfe in solutions) / len(solutions),
            time.perf_counter() - started,
        )

    def check(self, examples: Tensor, seeds: list[int], first: Tensor) -> Checked:
        """Measure examples again, of which the first draw gave `log p - log q` `first` `(B,)`."""
        draw, other = self._draws(examples, seeds, 2)
        changed = [[seed + place * _OTHER_PROBES for seed in seeds] for place in (1, 2)]
        tight = {name: value for name, value in self.options.items() if name not in _SOLVER_OPTIONS} | _TIGHT
        return Checked(
            first,
            self._solve(examples, draw.x, seeds, tight)[0] - draw.log_q,
            self._solve(examples, draw.x, changed[0], self.options)[0] - draw.log_q,
            self._solve(examples, other.x, changed[1], self.options)[0] - other.log_q,
        )

    def rows(self, rows: Rows) -> Measurement:
        """Return the measurement of these examples alone."""
        given = self.given if self.given is None or len(self.given) == 1 else self.given[rows]
        return replace(self, model=rows_of(self.model, rows), given=given)

    def _draws(self, examples: Tensor, seeds: list[int], count: int) -> list[Dequantised]:
        noise = SampleNoise(seeds, stream="dequantisation")
        draws = [self.dequantiser.sample(examples, noise) for _ in range(count)]
        if self.given is None:
            return draws
        # The scale is that of the numbers that have a density, and what is given has none.
        if self.shown is not None:
            share = 1 - self.given.expand(examples.shape).flatten(1).double().mean(1)
            return [draw._replace(log_q=share * draw.log_q) for draw in draws]
        log_q = self.dequantiser.sample(torch.where(self.given, torch.nan, examples), noise).log_q
        return [draw._replace(log_q=log_q) for draw in draws]

    def _solve(
        self, examples: Tensor, x: Tensor, seeds: list[int], options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, int]:
        x, model = x.to(self.device), self.model
        if self.given is not None or bool(x.isnan().any()):
            part = observed(x, None if self.given is None else self.given.to(self.device))
            if self.shown is not None:
                part = replace(part, values=torch.where(part.given, self.shown(examples).to(x), 0))
            model, x = _of_part(model, part), x.nan_to_num()
        result = log_likelihood(model, x, seeds=seeds, **options)
        return result.log_prob.cpu().double(), result.latents.float().cpu(), result.nfe

    def _terms(self, bound: ExampleBound, examples: Tensor, draw: Dequantised, seeds: list[int]) -> Tensor:
        result = bound(self.model, examples.to(self.device), Dequantised(draw.x.to(self.device), draw.log_q), seeds)
        return torch.stack([result.prior, result.diffusion, result.reconstruction], dim=1).cpu().double()


def _of_part(model: Any, part: Part) -> Model:
    """Return the model of these parts of examples, whose calls are counted if those of the model are."""
    if isinstance(model, Watched):
        return Watched(part_of(model.model, part), model.tell)
    return part_of(model, part)
