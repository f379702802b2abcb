r"""What a network is told of an example, made from the data: a `common.condition.Condition`.

    class        0 … K - 1, the class of an example; hidden now and then in training
    distorted    0, of a picture that was distorted (`data.augment`); hidden of the others
    other names  numbers that come with the data: vectors `(B, k)`, or pictures, fields and series that lie beside the
                 examples, `(B, C, *size)`; hidden now and then in training

Distortion is told independently of the rest. With probability `p` all else is hidden of an example together; of several
names each is, besides, hidden by itself with probability `p`. So the network knows `p(x)` beside `p(x | condition)`,
which guidance needs (Ho & Salimans 2022, arXiv:2207.12598), and also what is conditioned on a part. A picture that is
asked for is one of which nothing is said of distortion.

Numbers are told in units of their own: with mean `m` and deviation `s` of the training part, of each column or channel,

    c = (y - m) / s,

and, if they lie beside examples of another size, brought to that: by linear interpolation, or, where no axis grows,
by means over areas. Beside vectors they become vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data.units import Standardised, describe_units, mean_and_std, units_described

# How numbers are brought to another size along so many axes.
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class ConditionUnits:
    """Numbers of a condition in data units become what networks are told.

    Attributes:
        shape: the shape of one example's numbers: `(k,)` or `(C, *size)`.
        standardised: their mean and deviation in the training part.
    """

    shape: tuple[int, ...]
    standardised: Standardised

    def encode(self, values: Tensor, beside: tuple[int, ...]) -> Tensor:
        """Return numbers `(B, *shape)` as they are told beside examples of a shape, `(B, *told_shape(beside))`."""
        return self.brought_to(beside, self.standardised.encode(values).to(torch.get_default_dtype()))

    def brought_to(self, beside: tuple[int, ...], standard: Tensor) -> Tensor:
        """Return standardised numbers `(B, *shape)` in the size in which they are told beside examples of a shape."""
        size, here = beside[1:], self.shape[1:]
        if not size:
            return standard.flatten(1)
        if not here or here == size:
            return standard
        if all(new <= old for new, old in zip(size, here, strict=True)):
            return F.interpolate(standard, size, mode="area")
        return F.interpolate(standard, size, mode=_LINEAR[len(size)])

    def told_shape(self, beside: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is told of one example, where examples have the shape `beside`."""
        if len(beside) == 1:
            return (math.prod(self.shape),)
        return self.shape if len(self.shape) == 1 else (self.shape[0], *beside[1:])

    def describe(self) -> dict[str, Any]:
        """Return what is known of the numbers, in plain values."""
        return {"shape": list(self.shape), "units": describe_units(self.standardised)}

    @staticmethod
    def described(description: Mapping[str, Any]) -> ConditionUnits:
        """Return the units that `describe` described."""
        return ConditionUnits(tuple(description["shape"]), units_described(description["units"]))


def condition_units(name: str, values: Tensor, beside: tuple[int, ...]) -> ConditionUnits:
    """Return the units of a condition, from its numbers in the training part; a constant one is told as zero.

    Args:
        name: what it is called, for complaints.
        values: the numbers `(N, *shape)`.
        beside: the shape of the examples.

    Raises:
        UserError: the numbers extend over other axes than the examples.
    """
    shape = tuple(values.shape[1:])
    if len(shape) > 1 and len(beside) > 1 and len(shape) != len(beside):
        raise UserError(
            f"the condition {name!r} has {' x '.join(map(str, shape))} numbers, which cannot lie beside examples of "
            f"{' x '.join(map(str, beside))}: give it the same axes, channels first, or a vector (N, k)"
        )
    mean, std = mean_and_std(values)
    return ConditionUnits(shape, Standardised(mean, torch.where(std > 0, std, 1.0)))


def conditions_of(num_classes: int = 0, distortion: bool = False) -> dict[str, int]:
    """Return the names that a network is told, with the number of values of each; no class if there are no classes."""
    return ({"class": num_classes} if num_classes else {}) | ({"distorted": 1} if distortion else {})


def of_classes(numbers: Tensor | None) -> Condition | None:
    """Return the condition that tells the class of each example, from whole numbers `(B,)`; None for None."""
    return None if numbers is None else Condition({"class": numbers})


def with_hidden(
    condition: Condition | None, draw: Callable[[], Tensor], always: Collection[str] = ()
) -> Condition | None:
    """Return a condition of training examples with all hidden of some, and then, of several names, each by itself.

    Args:
        condition: what could be told; None for nothing.
        draw: draws of which examples something is hidden, `(B,)`, bool.
        always: names that are never hidden.
    """
    names = [] if condition is None else [name for name in condition.values if name not in always]
    if condition is None or not names:
        return condition
    of_all = draw()
    hidden = dict.fromkeys(names, of_all)
    if len(hidden) > 1:
        hidden = {name: of_all | draw() for name in hidden}
    return Condition(condition.values, hidden)


def with_distortion(condition: Condition | None, distorted: Tensor | None) -> Condition | None:
    """Return a condition that also tells which examples are distorted, `(B,)`, bool; None does not tell it."""
    if distorted is None:
        return condition
    values: dict[str, Tensor] = {} if condition is None else dict(condition.values)
    hidden: dict[str, Tensor] = {} if condition is None else dict(condition.hidden_rows)
    values["distorted"] = torch.zeros_like(distorted, dtype=torch.long)
    return Condition(values, hidden | {"distorted": ~distorted})
