r"""Log-likelihoods by learned steps: a table of times and weights for the pair of latents and log-density.

From `s_1`, where the data are, to the end, with one call at each of `N` times,

    y_{i+1} = y_1 + sum_{j <= i} a_ij F_j,    F_j = F(s_j, y_j)
    log p   = log p_T(x_T) + d (sum_i b_i div_i + e) + what is known

with `F`, and the divergences over `d`, of `solvers.density.path`. The weights `b` of the divergences are not those of
the states, which have some for each of the Gaussian's scales; the constant `e` takes off what is left on average.
`solvers.density.tuning` says how they are found. A table carries by how much it was off on examples that it was not
learned on, and is for one model: its process, its numbers, and the shape of its examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.resumable import digest
from score_sde.solvers.base import Model, gaussian_of_model
from score_sde.solvers.density.path import DensityPath
from score_sde.solvers.ode.flow import ProbabilityFlow

# The name of the method, and the resolution of its flow.
TUNED = "tuned"
TUNED_RESOLUTION = 0.03
_SAME_LOG_SNR = 1e-6


class HeldOutError(NamedTuple):
    """By how much a table is off on examples that it was not learned on, in nats per dimension.

    Attributes:
        mean_absolute: mean of `|error|`.
        mean_absolute_error: standard error of this mean.
        bias: mean of the error.
        bias_error: standard error of this mean.
        largest: the largest `|error|`.
        num_examples: how many examples were held out.
    """

    mean_absolute: float
    mean_absolute_error: float
    bias: float
    bias_error: float
    largest: float
    num_examples: int


class TunedLikelihood(NamedTuple):
    """A table of learned times and weights; float64, on the CPU.

    Attributes:
        times: where the model is asked, from the first, and the end `T`, `(N + 1,)`.
        log_snr: the process's log-SNR there, `(N + 1,)`.
        state: `a` for each of the Gaussian's scales, `(N, N, S)`, zero for `j > i`; `S = 1` without a Gaussian.
        divergence: `b`, `(N,)`.
        constant: `e`.
        shape: shape of an example.
        model: a digest of the model's numbers.
        held_out: by how much it is off.
        about: what else it was learned with, in words, for whoever keeps it.
    """

    times: Tensor
    log_snr: Tensor
    state: Tensor
    divergence: Tensor
    constant: float
    shape: tuple[int, ...]
    model: str
    held_out: HeldOutError
    about: str = ""

    @property
    def ends(self) -> Tensor:
        """The first and the last time, `(2,)`."""
        return self.times[[0, -1]]

    def check_fits(self, model: Model, x: Tensor) -> None:
        """Raise `UserError` if the table was made for another process, model, or shape of examples than `x`."""
        if not torch.allclose(model.sde.at(self.times).log_snr, self.log_snr, rtol=0, atol=_SAME_LOG_SNR):
            raise UserError("this tuned likelihood was made for another process: tune it again")
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(f"this tuned likelihood is for examples of shape {self.shape}, not {tuple(x.shape[1:])}")
        if model_digest(model) != self.model:
            raise UserError("this tuned likelihood was made for another model: tune it again")

    def follow(self, path: DensityPath) -> Tensor:
        """Return the state of a path at its end, by one call at each time."""
        dimension, start = path.dimension, path.start
        w, slopes = start[:, :dimension], list[Tensor]()
        integrals = torch.full_like(start[:, dimension:], self.constant)
        for s, weights, weight in zip(path.flow.position(self.times), self.state, self.divergence, strict=False):
            slope = path.derivative(s, torch.cat([w, integrals], 1))
            slopes.append(slope[:, :dimension])
            integrals = integrals + float(weight) * slope[:, dimension:]
            w = advanced(path.which, start[:, :dimension], weights, slopes)
        return torch.cat([w, integrals], 1)


def advanced(which: Tensor, start: Tensor, weights: Tensor, slopes: list[Tensor]) -> Tensor:
    """Return the state that slopes `(B, d)` lead to from `start` `(B, d)`; weights `(N, S)` for scales, of which each
    number has one, `which` `(d,)`."""
    each = weights.to(start)[:, which.to(start.device)]
    for weight, slope in zip(each, slopes, strict=False):
        start = start + weight * slope
    return start


def tuned_flow(model: Model, shape: torch.Size, t_min: float) -> ProbabilityFlow:
    """Return the flow that tables are made for."""
    return ProbabilityFlow(model, shape, t_min, TUNED_RESOLUTION)


def model_digest(model: Model) -> str:
    """Return a short name for the numbers of a model, and of the Gaussian it knows; a wrapper with a score of its own
    has no numbers, so that the name is not its model's."""
    gaussian = gaussian_of_model(model)
    numbers: Iterable[Tensor] = getattr(model, "state_dict", dict)().values()
    known = () if gaussian is None else (gaussian.mean, gaussian.scales, gaussian.which, *gaussian.bases)
    return digest(*numbers, *known)


def save_likelihood_table(path: str | Path, table: TunedLikelihood) -> None:
    """Write a table as JSON, whole or not at all."""
    content: dict[str, Any] = {
        name: value.tolist() if isinstance(value, Tensor) else value for name, value in table._asdict().items()
    }
    content["held_out"] = table.held_out._asdict()
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def load_likelihood_table(path: str | Path) -> TunedLikelihood:
    """Read what `save_likelihood_table` wrote.

    Raises:
        UserError: there is no such file, or it is not such a table.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        for name in ("times", "log_snr", "state", "divergence"):
            content[name] = torch.tensor(content[name], dtype=torch.float64)
        content |= {"held_out": HeldOutError(**content["held_out"]), "shape": tuple(content["shape"])}
        table = TunedLikelihood(**content)
        number = len(table.divergence)
        whole = table.times.shape == table.log_snr.shape == (number + 1,) and table.state.shape[:2] == (number, number)
    except FileNotFoundError as error:
        raise UserError(f"there is no tuned likelihood {path}: tune one first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} does not hold a tuned likelihood: tune it again") from error
    if not (whole and table.state.ndim == 3 and isinstance(table.constant, float)):
        raise UserError(f"{path} does not hold a tuned likelihood: tune it again")
    return table
