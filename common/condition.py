"""What samples are asked to be: named values, one row an example, of which some may be hidden.

    class        whole numbers 0 … K - 1, hidden of some examples in training
    distorted    0, hidden of pictures that are not

A condition is made from data (`data.conditions`), bound to a model once (`models.given`), and heard by networks
(`models.layers.condition`). What lies between hands it on whole, and need not know what it says. A name that a
condition lacks is hidden of all examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from score_sde.common.errors import UserError

# Some of the examples of a batch: a stretch of them, or their numbers.
Rows = slice | Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition holds named values with one row an example; a new one is made rather than one changed.

    Attributes:
        values: for each name a tensor `(B, *dims)`.
        hidden_rows: for each name that is hidden of some examples, whether it is hidden of each: `(B,)`, bool.

    Raises:
        UserError: there is no name, or the numbers of rows differ.
    """

    values: Mapping[str, Tensor]
    hidden_rows: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self.values.items()}
        if not lengths or len({*lengths.values(), *map(len, self.hidden_rows.values())}) > 1:
            raise UserError(f"a condition needs values, as many for each name, not {lengths or 'none'}")

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, rows: Rows) -> Condition:
        """Return the condition of these examples."""
        return Condition(
            {name: value[rows] for name, value in self.values.items()},
            {name: hidden[rows] for name, hidden in self.hidden_rows.items()},
        )

    def hidden(self, name: str, rows: Tensor | None = None) -> Condition:
        """Return a condition with `name` hidden of the examples `rows`, `(B,)`, bool, too; of all, if left out."""
        if rows is None:
            rows = torch.ones(len(self), dtype=torch.bool, device=self.values[name].device)
        before = self.hidden_rows.get(name)
        return Condition(self.values, {**self.hidden_rows, name: rows if before is None else before | rows})

    def to(self, device: torch.device | str) -> Condition:
        """Return the condition with its values on this device."""
        return Condition(
            {name: value.to(device) for name, value in self.values.items()},
            {name: hidden.to(device) for name, hidden in self.hidden_rows.items()},
        )


def one_after_another(first: Condition | None, second: Condition | None, count: int) -> Condition | None:
    """Return what two conditions say of so many examples each, as one; what one lacks is hidden of its examples."""
    told = [{} if condition is None else condition.values for condition in (first, second)]
    hidden = [{} if condition is None else condition.hidden_rows for condition in (first, second)]
    values, rows = {}, {}
    for name in {**told[0], **told[1]}:
        like = told[0].get(name, told[1].get(name))
        assert like is not None
        values[name] = torch.cat([each.get(name, torch.zeros_like(like)) for each in told])
        if any(name not in each for each in told) or any(name in each for each in hidden):
            shown = torch.zeros(count, dtype=torch.bool, device=like.device)
            rows[name] = torch.cat(
                [hides.get(name, shown) if name in each else ~shown for each, hides in zip(told, hidden, strict=True)]
            )
    return Condition(values, rows) if values else None


def joined(*told: Condition | None) -> Condition | None:
    """Return the condition that says what each of these says of the same examples, in order; None for nothing."""
    said = [condition for condition in told if condition is not None]
    if not said:
        return None
    values = {name: value for condition in said for name, value in condition.values.items()}
    hidden = {name: rows for condition in said for name, rows in condition.hidden_rows.items()}
    return Condition(values, hidden)
