r"""An adversary of an autoencoder: a discriminator, which learns to tell examples `x` from what is decoded, `x'`.

With `D` its logits, of which there is one for each patch of an example, it minimises the hinge loss (Lim & Ye 2017,
arXiv:1705.02894), means over patches, too,

    1/2 E max(0, 1 - D(x)) + 1/2 E max(0, 1 + D(x'))

and the autoencoder, beside its own loss, `-E D(x')` (Esser et al. 2021, arXiv:2012.09841; Rombach et al. 2022). The
two take their steps at once, each from the gradient at what the other was before: `x'` is decoded once a step. Neither
has the other's gradient, and nothing is drawn.

What the adversary has learnt is kept in checkpoints of training, and is no part of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.weight_files import load_weights
from score_sde.training.optimization import clip, learning_rate, load_optimizer, make_optimizer


class Adversary:
    """A discriminator learns by an optimizer of its own, at the rate of the autoencoder.

    Args:
        discriminator: gives logits `(B, 1, *patches)` of examples in model units `(B, C, *size)`; all processes begin
            with the same one.
        config: the section `training`.

    Attributes:
        step: number of training steps done, with it or without.
    """

    def __init__(self, discriminator: nn.Module, config: ConfigDict) -> None:
        self.discriminator, self.step = discriminator, 0
        self._config, self._parts = config, 0
        self._optimizer = make_optimizer(discriminator.parameters(), config)

    @property
    def has_begun(self) -> bool:
        """The adversary has begun if `training.adversarial_start` steps are done."""
        return self.step >= self._config.adversarial_start

    def doubt(self, decoded: Tensor) -> Tensor:
        """Return `-D(x')` of what is decoded `(B, C, *size)`, `(B,)`, without a gradient for the discriminator."""
        frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return -_mean(torch.func.functional_call(self.discriminator, frozen, (decoded,)))

    def tell_apart(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return the adversary's loss of each pair, `(B,)`, and add its gradient to those of this step."""
        of_examples, of_decoded = self.discriminator(x), self.discriminator(decoded.detach())
        losses = 0.5 * (_mean((1 - of_examples).relu()) + _mean((1 + of_decoded).relu()))
        losses.mean().backward()
        self._parts += 1
        return losses.detach()

    def learn(self) -> None:
        """Do a step by the gradients of all parts of a batch and all processes, which must all ask.

        Raises:
            UserError: the gradient is not finite.
        """
        if self._parts:
            gradients = [weight.grad for weight in self.discriminator.parameters() if weight.grad is not None]
            whole = distributed.mean(torch.cat([gradient.flatten() for gradient in gradients])) / self._parts
            norm = whole.norm()
            if not bool(norm.isfinite()):
                raise UserError(
                    f"the gradient of the discriminator is {norm.item()} at step {self.step + 1}, so training stopped: "
                    f"go on with a lower learning rate than {self._config.learning_rate:g}"
                )
            for gradient, part in zip(gradients, whole.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
            clip(gradients, norm, self._config.max_grad_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self._config)
            self._optimizer.step()
            self._optimizer.zero_grad()
        self.step, self._parts = self.step + 1, 0

    def state(self) -> dict[str, Any]:
        """Return what the adversary has learnt."""
        return {
            "step": self.step,
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            UserError: there was no adversary, or its discriminator was another.
        """
        if "discriminator" not in state:
            raise UserError(
                "this run was begun without an adversarial loss: begin another one with its weights (start_from)"
            )
        load_weights(self.discriminator, state["discriminator"], "the discriminator of this run")
        load_optimizer(self._optimizer, state["discriminator_optimizer"])
        self.step = state["step"]


def _mean(of_patches: Tensor) -> Tensor:
    """Return the mean over each example's patches, `(B,)`, in float32 at least."""
    return of_patches.to(torch.promote_types(of_patches.dtype, torch.float32)).flatten(1).mean(1)
