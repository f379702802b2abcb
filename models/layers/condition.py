r"""How a network hears a condition (`common.condition`).

    vector      one for each value of a name; they are added to the embedding of time, and modulate every block:

                    embedding + sum_names v_name[value],        v_name[hidden] where the name is hidden

A network that is trained with some values hidden knows `p(x)` beside `p(x | condition)`, which guidance needs (Ho &
Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import transforms_active

# Standard deviation of vectors at first: about twice the size of the embedding of time that they are added to. Smaller
# ones are heard later, larger ones drown the time.
_STD = 0.5


class ConditionVectors(nn.Module):
    """A condition modulates a network by a sum of vectors, one for each of its names.

    The vectors of a name start apart, drawn from N(0, 1/4): had they to leave zero first, nothing would tell classes
    from each other while the network learns everything else. "Hidden" starts at zero; and so does the one value of a
    name that has no other, so that what is learnt from examples with it counts for those without from the start.

    Args:
        conditions: the number of values of each name; values are whole numbers from 0.
        width: size of a vector.
    """

    def __init__(self, conditions: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.conditions = dict(conditions)
        # The last row is "hidden".
        self.vectors = nn.ModuleDict({name: nn.Embedding(count + 1, width) for name, count in conditions.items()})
        with torch.no_grad():
            for name, count in conditions.items():
                weight = self.vectors[name].weight
                assert isinstance(weight, Tensor)
                weight.mul_(_STD)[0 if count == 1 else count :] = 0.0  # they are drawn from N(0, 1)

    def forward(self, condition: Condition | None, count: int) -> Tensor:
        """Return what is added to the embeddings of `count` examples, `(count, width)`.

        Raises:
            UserError: the condition has another number of rows, a name that this network is not told of, or a value
                out of range. (Values on an accelerator are not looked at, since that would wait for it.)
        """
        if condition is not None:
            self._check(condition, count)
        heard = [vectors(self._numbers(name, condition, count)) for name, vectors in self.vectors.items()]
        return sum(heard[1:], heard[0])

    def _numbers(self, name: str, condition: Condition | None, count: int) -> Tensor:
        """Return the row of each example's vector among those of this name, `(count,)`."""
        hidden = self.conditions[name]
        if condition is None or name not in condition.values:
            weight = self.vectors[name].weight
            assert isinstance(weight, Tensor)
            return torch.full((count,), hidden, dtype=torch.long, device=weight.device)
        value, rows = condition.values[name], condition.hidden_rows.get(name)
        return value if rows is None else torch.where(rows, hidden, value)

    def _check(self, condition: Condition, count: int) -> None:
        if len(condition) != count:
            raise UserError(f"the condition is one of {len(condition)} examples, not of {count} as the states")
        for name, value in condition.values.items():
            if name not in self.conditions:
                raise UserError(f"this network is not told of {name!r}, but of: {', '.join(self.conditions)}")
            last = self.conditions[name] - 1
            wrong = value.is_floating_point() or value.ndim != 1
            if not wrong and value.device.type == "cpu" and not (transforms_active() or torch.compiler.is_compiling()):
                outside = (value < 0) | (value > last)
                if name in condition.hidden_rows:
                    outside = outside & ~condition.hidden_rows[name]
                wrong = bool(outside.any())
            if wrong:
                raise UserError(f"{name!r} must be one whole number from 0 to {last} for each example")
