r"""Which part of an example is modelled, given which other: each number of an example is in one of three states.

    given       its value is known, and conditioned on
    modelled    it is noised, and the model tells its score
    absent      nothing is known of it, and nothing asked: it is integrated over

With `g`, `m` and `a` for the three, a model that is told of the part knows `p(x_m | x_g)`, the integral over `x_a`
being taken. What is missing given the rest, and the density of what is observed, are two of these:

    joint        p(x)              all is modelled
    fill         p(x_m | x_g)      what is observed is given, what is missing is modelled, nothing is absent
    marginal     p(x_m)            what is observed is modelled, what is missing is absent, nothing is given

Their densities agree exactly where scores are exact, since each is that of a distribution of its own:
`log p(x_m, x_g) = log p(x_m | x_g) + log p(x_g)`.

One network learns all of them, told by three further channels beside the state (Gloeckler et al. 2024,
arXiv:2404.09636, condition on any part so; Tashiro et al. 2021, arXiv:2107.03502, fill series): the given values, 0
elsewhere, and whether a number is given, and absent. Where all is modelled, nothing is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.condition import Condition, Rows
from score_sde.common.errors import UserError

# The name under which a network is told of the part, and how many channels it takes for each of an example's.
PART, CHANNELS = "part", 3


@dataclass(frozen=True, eq=False)
class Part:
    """A part says of each number of `B` examples what is known of it, and what is asked.

    Attributes:
        values: the given values `(B, *dims)`, in model units; 0 where nothing is given.
        given: which numbers are given, bool, shape of `values`.
        modelled: which numbers are modelled, likewise; what is neither is absent.
    """

    values: Tensor
    given: Tensor
    modelled: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Rows) -> Part:
        """Return the part of these examples."""
        return Part(self.values[rows], self.given[rows], self.modelled[rows])

    def to(self, device: torch.device | str) -> Part:
        """Return the part on this device."""
        return Part(self.values.to(device), self.given.to(device), self.modelled.to(device))

    @property
    def absent(self) -> Tensor:
        """What is neither given nor modelled is absent."""
        return ~(self.given | self.modelled)

    def beside(self, condition: Condition | None = None) -> Condition:
        """Return the condition that tells the part, beside what else is told of the examples.

        It is hidden of examples all of which is modelled: to say nothing is to ask for the joint distribution.
        """
        told = torch.cat([self.values, self.given.to(self.values), self.absent.to(self.values)], dim=1)
        whole = self.modelled.flatten(1).all(1)
        values, hidden = ({}, {}) if condition is None else (condition.values, condition.hidden_rows)
        return Condition({**values, PART: told}, {**hidden, PART: whole})


def observed(x: Tensor, given: Tensor | None = None) -> Part:
    """Return the part that models what is observed of `x` `(B, *dims)`: what is not NaN, nor given; NaN is absent.

    Args:
        x: examples in model units, NaN where nothing was observed.
        given: which numbers are conditioned on, bool, of a shape that broadcasts to that of `x`.

    Raises:
        UserError: of an example nothing is left to be modelled, or a number that is not observed is given.
    """
    known = ~x.isnan()
    given = torch.zeros_like(known) if given is None else given.expand_as(known)
    if bool((given & ~known).any()):
        raise UserError(f"example {_first(given & ~known)} lacks a number that is to be given")
    return _checked(Part(torch.where(given, x, 0), given, known & ~given), "nothing is observed of example {}")


def missing(x: Tensor) -> Part:
    """Return the part that models what is missing of `x` `(B, *dims)`, its NaN, given all else.

    Raises:
        UserError: nothing is missing of an example.
    """
    known = ~x.isnan()
    return _checked(Part(torch.where(known, x, 0), known, ~known), "nothing is missing of example {}")


def _checked(part: Part, complaint: str) -> Part:
    nothing = ~part.modelled.flatten(1).any(1)
    if bool(nothing.any()):
        raise UserError(complaint.format(_first(nothing)))
    return part


def _first(wrong: Tensor) -> int:
    return int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else int(wrong.nonzero()[0])
