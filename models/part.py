r"""A model of a part of each example, given another part: a model like any other, of `p(x_m | x_g)` (`common.part`).

States keep their shape, so that every solver takes them. What is not modelled stands for numbers of its own that are
standard normal and know of nothing else: their score is `-x / (alpha^2 + sigma^2)`, the probability flow leaves `x /
sqrt(alpha^2 + sigma^2)` as it is, and a likelihood leaves them out (`modelled`, see `solvers.density.path`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from score_sde.common.condition import Condition, Rows
from score_sde.common.part import Part
from score_sde.models.gaussian_mixture import GaussianMixture
from score_sde.models.given import Given
from score_sde.models.mixture_part import MixturePart
from score_sde.models.wrapper import ModelWrapper, rows_of


def part_of(model: Any, part: Part, condition: Condition | None = None) -> PartOf:
    """Return the model of these parts: exactly, of a mixture; by what it has learnt, of one that is told of them.

    Args:
        model: a mixture, or a model whose methods take a condition, as those of `ScoreModel`, or `Given` of one.
        part: what of each example is modelled, and what is given.
        condition: what else the model is told of each.
    """
    if isinstance(model, Given) and condition is None:
        return part_of(model.model, part, model.condition)
    if isinstance(model, GaussianMixture):
        return PartOf(MixturePart(model, part), part)
    return PartOf(Given(model, part.beside(condition)), part)


class PartOf(ModelWrapper):
    """`model`, which is bound to the parts, is asked of what is modelled; the rest is standard normal.

    Args:
        model: the model, which looks at nothing of a state that is not modelled.
        part: what of each example is modelled.
    """

    def __init__(self, model: Any, part: Part) -> None:
        super().__init__(model)
        self.part = part

    @property
    def modelled(self) -> Tensor:
        """Likelihoods are those of these numbers alone, `(B, *dims)`, bool."""
        return self.part.modelled

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x_m | x_g)`, and that of standard normal numbers elsewhere; shape of `x`."""
        return self._joined(self.model.score(self._inside(x), t), x, t, -1)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x, x_g]`, and that of standard normal numbers elsewhere; shape of `x`."""
        return self._joined(self.model.denoise(self._inside(x), t), x, t, self.sde.at(t).alpha)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[eps | x_t = x, x_g]`, and that of standard normal numbers elsewhere; shape of `x`."""
        return self._joined(self.model.noise(self._inside(x), t), x, t, self.sde.at(t).sigma)

    def rows(self, rows: Rows) -> PartOf:
        """Return the model of the parts of these examples."""
        return PartOf(rows_of(self.model, rows), self.part[rows])

    def _inside(self, x: Tensor) -> Tensor:
        return torch.where(self.part.modelled, x, 0)

    def _joined(self, inside: Tensor, x: Tensor, t: Tensor, factor: Tensor | float) -> Tensor:
        outside = self.sde.expand(factor / self.sde.at(t).r.square(), x) * x
        return torch.where(self.part.modelled, inside, outside)
