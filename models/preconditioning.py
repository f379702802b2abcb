"""What a network is told: the state, brought to unit size, and a number that stands for the time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, choose
from score_sde.sde import SDE

LABELS: dict[str, Callable[[SDE, Tensor], Tensor]] = {
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
    "level": lambda sde, t: torch.round(sde.num_rungs - 1 - sde.index(t)),  # type: ignore[attr-defined]
}


class Preconditioning:
    """A network `network(x, labels)` is called as a function of the state and the time of a process.

    It is no module and holds no network, so that a model's weights are called what they are called in its network:
    `network.…`.

    Args:
        sde: the forward process.
        labels: what the network is told of the time: a key of `LABELS`, or a function of `t` `(B,)`.
        data_std: standard deviation of the data, all dimensions together.
        scale_input: divide the network's input by `sqrt(data_std^2 alpha^2 + sigma^2)`, which gives it unit variance at
            every time. (The networks published for sub-VP and VE expect it undivided.)

    Raises:
        UserError: there is no such label, or the process has no such label.
    """

    def __init__(self, sde: SDE, labels: str | Callable[[Tensor], Tensor], data_std: float, scale_input: bool) -> None:
        self.sde = sde
        self.data_std = data_std
        self.scale_input = scale_input
        self.labels = labels
        if isinstance(labels, str):
            choose("label", labels, LABELS)
            if labels in ("rung", "level") and not hasattr(sde, "index"):
                raise UserError(
                    f"labels={labels!r} needs a ladder (DDPM's or NCSN's); for other processes use 'log_snr'"
                )

    def __call__(self, network: nn.Module, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the network's output for states `x` `(B, *dims)` at times `t`, `()` or `(B,)`, of `classes` `(B,)` if
        given.

        The network works in the dtype of its weights, whatever that of `x`, which the output has.
        """
        t = t.double()
        labels = self.labels(t) if callable(self.labels) else LABELS[self.labels](self.sde, t)
        if self.scale_input:
            x = self.sde.expand(1 / torch.hypot(self.data_std * self.sde.alpha(t), self.sde.sigma(t)), x) * x
        dtype = x.dtype
        x = x.to(next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), dtype))
        labels = labels.to(torch.promote_types(x.dtype, torch.float32)).expand(len(x))
        output = network(x, labels) if classes is None else network(x, labels, classes)
        return output if x.dtype == dtype else output.to(dtype)
