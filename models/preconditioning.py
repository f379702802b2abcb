"""What a network is told: the state, brought to unit size, and a number that stands for the time, its noise label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, choose
from score_sde.sde import SDE

NOISE_LABELS: dict[str, Callable[[SDE, Tensor], Tensor]] = {
    # For positional embeddings, which count in steps: ten steps for each nat.
    "log_snr": lambda sde, t: 10 * sde.log_snr(t),
    # What the published VP and sub-VP networks (positional embeddings) and VE networks (Fourier embeddings) are told.
    "time": lambda sde, t: 999 * t / sde.T,
    "sigma": lambda sde, t: sde.sigma(t),
    # For Fourier embeddings under any process; `rho` is `sigma` for VE.
    "rho": lambda sde, t: torch.exp(-sde.log_snr(t) / 2),
    # EDM's c_noise.
    "edm": lambda sde, t: -sde.log_snr(t) / 8,
    # DDPM's and NCSN's own: the position on their ladder, counted from 0.
    "rung": lambda sde, t: sde.index(t),  # type: ignore[attr-defined]
    # What the networks published for NCSN's ladder are told: a whole rung, counted from the noisiest.
    "rung_from_noisiest": lambda sde, t: torch.round(sde.num_rungs - 1 - sde.index(t)),  # type: ignore[attr-defined]
}


class Preconditioned(nn.Module):
    """A network as a function of the state and the time of a process: what every model of a network begins with.

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
        if isinstance(noise_label, str):
            choose("noise label", noise_label, NOISE_LABELS)
            if noise_label.startswith("rung") and not hasattr(sde, "index"):
                raise UserError(
                    f"the noise label {noise_label!r} needs a ladder (DDPM's or NCSN's); for other processes use "
                    "'log_snr'"
                )

    def output(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's output for states `x` `(B, *dims)` at times `t`, `()` or `(B,)`, given the condition.

        The network works in the dtype of its weights, whatever that of `x`, which the output has.
        """
        t = t.double()
        told = self.noise_label(t) if callable(self.noise_label) else NOISE_LABELS[self.noise_label](self.sde, t)
        if self.scale_input:
            x = self.sde.expand(1 / torch.hypot(self.data_std * self.sde.alpha(t), self.sde.sigma(t)), x) * x
        dtype = x.dtype
        x = x.to(next((weight.dtype for weight in self.network.parameters() if weight.is_floating_point()), dtype))
        told = told.to(torch.promote_types(x.dtype, torch.float32)).expand(len(x))
        output = self.network(x, told) if condition is None else self.network(x, told, condition)
        return output if x.dtype == dtype else output.to(dtype)
