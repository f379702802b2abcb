r"""What a network is told of an example, made from the data: a `common.condition.Condition`.

    class        0 … K - 1, of which class an example is; hidden now and then in training
    distorted    0, of a picture that was distorted (`data.augment`); hidden of the others

The two are told independently of each other. A class that is hidden now and then makes the network know `p(x)` beside
`p(x | class)`, which guidance needs (Ho & Salimans 2022, arXiv:2207.12598). A picture that is asked for is one of which
nothing is said of distortion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.condition import Condition


def conditions_of(num_classes: int = 0, distortion: bool = False) -> dict[str, int]:
    """Return what a network is told, and how many values each name has; nothing of classes if there are none."""
    return ({"class": num_classes} if num_classes else {}) | ({"distorted": 1} if distortion else {})


def of_classes(numbers: Tensor | None) -> Condition | None:
    """Return the condition that says of which class each example is, `(B,)`, whole numbers; None for None."""
    return None if numbers is None else Condition({"class": numbers})


def told(numbers: Tensor | None, dropped: Tensor | None, distorted: Tensor | None) -> Condition | None:
    """Return what the network is told of training examples; None for nothing.

    Args:
        numbers: the class of each, `(B,)`; None if it is not told.
        dropped: of which the class is hidden, `(B,)`, bool; of none, if left out.
        distorted: which are, `(B,)`, bool; None if it is not told.
    """
    values, hidden = {}, {}
    if numbers is not None:
        values["class"] = numbers
        if dropped is not None:
            hidden["class"] = dropped
    if distorted is not None:
        values["distorted"], hidden["distorted"] = torch.zeros_like(distorted, dtype=torch.long), ~distorted
    return Condition(values, hidden) if values else None
