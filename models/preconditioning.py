"""What a network is told: the state, brought to unit size, and a number that stands for the time, its noise label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, choose
from score_sde.common.gaussian import Gaussian
from score_sde.sde import SDE, Ladder, Marginals


def _ladder(sde: SDE) -> Ladder:
    """Return the ladder that a process has.

    Raises:
        UserError: the process is no ladder.
    """
    if sde.ladder is None:
        raise UserError("a rung needs a ladder (DDPM's or NCSN's); for other processes take the noise label 'log_snr'")
    return sde.ladder


NOISE_LABELS: dict[str, Callable[[SDE, Marginals], Tensor]] = {
    # Positional embeddings count in steps: the label has ten for each nat.
    "log_snr": lambda sde, here: 10 * here.log_snr,
    # The published VP and sub-VP networks (positional embeddings) and VE networks (Fourier embeddings) are told these.
    "time": lambda sde, here: 999 * here.t / sde.T,
    "sigma": lambda sde, here: here.sigma,
    # Fourier embeddings take this under any process; `rho` is `sigma` for VE.
    "rho": lambda sde, here: here.rho,
    # SiT counts its time `1 - t` from noise to data.
    "alpha": lambda sde, here: sde.alpha(here.t),
    # EDM calls this c_noise.
    "edm": lambda sde, here: -here.log_snr / 8,
    # DDPM and NCSN count the position on their ladder from 0.
    "rung": lambda sde, here: _ladder(sde).index(here.t),
    # Networks of improved-diffusion count as if there were 1000 rungs.
    "rung_of_1000": lambda sde, here: _ladder(sde).index(here.t) * (1000 / _ladder(sde).num_rungs),
    # The networks published for NCSN's ladder are told a whole rung, counted from the noisiest.
    "rung_from_noisiest": lambda sde, here: torch.round(_ladder(sde).num_rungs - 1 - _ladder(sde).index(here.t)),
}


class Preconditioned(nn.Module):
    """A network is made a function of the state and the time of a process: every model of a network begins so.

    Its attribute `gaussian` is the Gaussian that its data look like (`common.gaussian`), None where it is not known;
    solvers that make use of it may be told by setting it. Its attribute `no_score` says why the model is a flow and no
    score, if it is one (`common.score`), and is empty otherwise.

    Args:
        network: called as `network(x, noise_label)`, with states `(B, *dims)` and labels `(B,)`, or with a condition as
            `network(x, noise_label, condition)`.
        sde: the forward process.
        noise_label: what the network is told of the time: a key of `NOISE_LABELS`, or a function of `t` `(B,)`.
        data_std: standard deviation of the data, all dimensions together.
        scale_input: divide the network's input by `sqrt(data_std^2 alpha^2 + sigma^2)`, which gives it unit variance at
            every time. (The networks published for sub-VP and VE expect it undivided.)

    Raises:
        UserError: there is no such label, or the process has no such label.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        noise_label: str | Callable[[Tensor], Tensor],
        data_std: float,
        scale_input: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.sde = sde
        self.noise_label = noise_label
        self.data_std = data_std
        self.scale_input = scale_input
        self.gaussian: Gaussian | None = None
        self.no_score = ""
        if isinstance(noise_label, str):
            choose("noise label", noise_label, NOISE_LABELS)(sde, sde.at(sde.T))

    def output(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's output for states `x` `(B, *dims)` at times `t`, `()` or `(B,)`, given the condition.

        The network works in the dtype of its weights, whatever that of `x`, which the output has.
        """
        here = self.sde.at(t)
        told = (
            self.noise_label(here.t) if callable(self.noise_label) else NOISE_LABELS[self.noise_label](self.sde, here)
        )
        if self.scale_input:
            x = self.sde.expand(1 / torch.hypot(self.data_std * here.alpha, here.sigma), x) * x
        dtype = x.dtype
        x = x.to(next((weight.dtype for weight in self.network.parameters() if weight.is_floating_point()), dtype))
        dtype_told = torch.promote_types(x.dtype, torch.float32)
        told = told.to(x.device, dtype_told, non_blocking=True).expand(len(x))
        output = self.network(x, told) if condition is None else self.network(x, told, condition)
        return output if x.dtype == dtype else output.to(dtype)
