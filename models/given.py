"""A model that knows conditions, with that of each example given: a model like any other, of `p(x | condition)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from score_sde.common.condition import Condition, Rows, joined, one_after_another
from score_sde.common.posterior import Posterior
from score_sde.models.wrapper import StepsAsModel, rows_of


class Given(StepsAsModel):
    """`model` is given this condition: solvers, likelihoods and objectives take it for as many examples, in this order.

    Args:
        model: a model whose methods take a condition after their own arguments, as those of `ScoreModel`.
        condition: the condition of the examples, one row each; None leaves the model as it is.
    """

    def __init__(self, model: Any, condition: Condition | None) -> None:
        super().__init__(model)
        self.condition = condition

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x | condition)`; shape of `x`."""
        return self.model.score(x, t, *self._given)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x, condition]`; shape of `x`."""
        return self.model.denoise(x, t, *self._given)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[eps | x_t = x, condition]`; shape of `x`."""
        return self.model.noise(x, t, *self._given)

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the error of the noise at `x_t = alpha x_0 + sigma noise`, which is trained; shape of `x_0`."""
        return self.model.noise_error(x_0, noise, t, *self._given)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x, condition`, if the model has them; each of the shape of `x`."""
        return self.model.posterior(x, t, *self._given)

    @property
    def jump(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The jumps along the flow are the model's under the condition, if it has any."""
        return self.model.jump if self.condition is None else partial(self.model.jump, condition=self.condition)

    def rows(self, rows: Rows) -> Given:
        """Return the model with the condition of these examples."""
        return Given(rows_of(self.model, rows), None if self.condition is None else self.condition[rows])

    @property
    def _given(self) -> tuple[Condition, ...]:
        return () if self.condition is None else (self.condition,)


class GivenBeside(StepsAsModel):
    """`model` is given a part of its condition, and takes the rest as it took the whole.

    Args:
        model: a model whose methods take a condition, as for `Given`.
        condition: the part of the condition, one row for each example.
    """

    def __init__(self, model: Any, condition: Condition) -> None:
        super().__init__(model)
        self.condition = condition

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `∇ log p_t(x)` under both parts; shape of `x`."""
        return self.model.score(x, t, joined(self.condition, condition))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `E[x_0 | x_t = x]` under both parts; shape of `x`."""
        return self.model.denoise(x, t, joined(self.condition, condition))

    def rows(self, rows: Rows) -> GivenBeside:
        """Return the model with this part of the condition of these examples."""
        return GivenBeside(rows_of(self.model, rows), self.condition[rows])


def side_by_side(first: Any, second: Any, count: int) -> Given | None:
    """Return the model of so many examples of the first, and as many of the second, where both are one model that is
    told two things; None where they are not."""
    (model, told), (other, told_other) = _unbound(first), _unbound(second)
    shapes = [{} if each is None else {k: v.shape[1:] for k, v in each.values.items()} for each in (told, told_other)]
    if model is not other or any(shapes[0].get(name, shape) != shape for name, shape in shapes[1].items()):
        return None
    # What only one is told is hidden of the other, which networks that say what they hear know how to read.
    if shapes[0].keys() != shapes[1].keys() and not getattr(getattr(model, "network", None), "conditions", None):
        return None
    condition = one_after_another(told, told_other, count)
    return None if condition is None else Given(model, condition)


def _unbound(model: Any) -> tuple[Any, Condition | None]:
    """Return a model without the condition that it is given, and the condition."""
    if not isinstance(model, Given | GivenBeside):
        return model, None
    inner, told = _unbound(model.model)
    return inner, joined(told, model.condition)


class _ForAnyNumber(StepsAsModel):
    """A model answers for however many examples, by one that is bound to as many."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x | condition)`; shape of `x`."""
        return self._of(x).score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x, condition]`; shape of `x`."""
        return self._of(x).denoise(x, t)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x` under the condition; each of the shape of `x`."""
        return self._of(x).posterior(x, t)

    def _of(self, x: Tensor) -> Any:
        """Return the model that is bound to as many examples as there are states."""
        raise NotImplementedError


class GivenToAll(_ForAnyNumber):
    """`model` is given the same condition for every example, of however many.

    Args:
        model: a model whose methods take a condition, as for `Given`.
        condition: the condition, one row.
    """

    def __init__(self, model: Any, condition: Condition) -> None:
        super().__init__(model)
        self.condition = condition

    def _of(self, x: Tensor) -> Given:
        return Given(self.model, self.condition[torch.zeros(len(x), dtype=torch.long, device=x.device)])


class InTurn(_ForAnyNumber):
    """`model` is bound to so many examples, and is asked for however many, whose conditions are theirs in turn.

    Args:
        model: a model that is bound to conditions.
        count: the number of examples that it is bound to.
    """

    def __init__(self, model: Any, count: int) -> None:
        super().__init__(model)
        self.count = count

    def _of(self, x: Tensor) -> Any:
        return rows_of(self.model, torch.arange(len(x), device=x.device) % self.count)
