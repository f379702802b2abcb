r"""A classifier of noisy states, `p_t(y | x)`: with the score of `p_t(x)`, its gradient gives that of `p_t(x | y)`.

    ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x)        (Song et al. 2021, arXiv:2011.13456, section 5)

It is trained by cross-entropy at `x_t = alpha x_0 + sigma eps`, at all times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.common.condition import Rows
from score_sde.models.preconditioning import Preconditioned
from score_sde.sde import SDE


class NoisyClassifier(Preconditioned):
    """A classifier of noisy states gives probabilities of classes, from a network with one logit for each.

    Args:
        network: called as `network(x, noise_label)`, labels `(B,)`; returns logits `(B, K)`.
        sde: the forward process.
        noise_label: what the network is told of the time; a key of `NOISE_LABELS`, or a function of `t` `(B,)`.
        data_std: standard deviation of the data, all dimensions together.
        scale_input: whether to divide the network's input by its standard deviation.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        noise_label: str | Callable[[Tensor], Tensor] = "log_snr",
        data_std: float = 1.0,
        scale_input: bool = True,
    ) -> None:
        super().__init__(network, sde, noise_label, data_std, scale_input)

    def log_probs(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `log p_t(y | x)` of all classes, `(B, K)`, for states `x` `(B, *dims)` at `t`, `()` or `(B,)`."""
        return torch.log_softmax(self.output(x, t), dim=1)


class ClassProbability:
    """Each example is asked to have a class, of probability `p_t(y | x)`: `control.ClassifierGuidance` follows it.

    Args:
        classifier: the classifier of noisy states.
        classes: the classes that are asked for, whole numbers `(B,)`, one for each example.
    """

    def __init__(self, classifier: NoisyClassifier, classes: Tensor) -> None:
        self.classifier = classifier
        self.classes = classes

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the log-probability `(B,)` for states `x` `(B, *dims)` at `t`, `()` or `(B,)`."""
        return self.classifier.log_probs(x, t).gather(1, self.classes[:, None])[:, 0]

    def rows(self, rows: Rows) -> ClassProbability:
        """Return the log-probability for these examples alone."""
        return ClassProbability(self.classifier, self.classes[rows])
