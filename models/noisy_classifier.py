r"""A classifier of noisy states, `p_t(y | x)`: with the score of `p_t(x)`, its gradient gives that of `p_t(x | y)`.

    ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x)        (Song et al. 2021, arXiv:2011.13456, section 5)

It is trained by cross-entropy at `x_t = alpha x_0 + sigma eps`, at all times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.models.preconditioning import Preconditioning
from score_sde.sde import SDE


class NoisyClassifier(nn.Module):
    """Probabilities of classes, from a network with one logit for each.

    Args:
        network: called as `network(x, labels)`, labels `(B,)`; returns logits `(B, K)`.
        sde: the forward process.
        labels: what the network is told of the time; see `Preconditioning`, as for the rest.
        data_std: standard deviation of the data.
        scale_input: whether to divide the network's input by its standard deviation.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        labels: str | Callable[[Tensor], Tensor] = "log_snr",
        data_std: float = 1.0,
        scale_input: bool = True,
    ) -> None:
        super().__init__()
        self.sde = sde
        self.network = network
        self.preconditioning = Preconditioning(sde, labels, data_std, scale_input)

    def log_probs(self, x: Tensor, t: Tensor) -> Tensor:
        """`log p_t(y | x)` of all classes, `(B, K)`, for states `x` `(B, *dims)` at `t`, `()` or `(B,)`."""
        return torch.log_softmax(self.preconditioning(self.network, x, t), dim=1)
