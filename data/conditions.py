r"""What a network is told of an example, made from the data: a `common.condition.Condition`.

    class        0 … K - 1, the class of an example; hidden now and then in training
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
    """Return the names that a network is told, with the number of values of each; no class if there are no classes."""
    return ({"class": num_classes} if num_classes else {}) | ({"distorted": 1} if distortion else {})


def of_classes(numbers: Tensor | None) -> Condition | None:
    """Return the condition that tells the class of each example, from whole numbers `(B,)`; None for None."""
    return None if numbers is None else Condition({"class": numbers})


def told(numbers: Tensor | None, dropped: Tensor | None, distorted: Tensor | None) -> Condition | None:
    """Return what the network is told of training examples; None for nothing.

    Args:
        numbers: the class of each example, `(B,)`; None if classes are not told.
        dropped: whether the class of each example is hidden, `(B,)`, bool; None hides no class.
        distorted: whether each example is distorted, `(B,)`, bool; None if distortion is not told.
    """
    values, hidden = {}, {}
    if numbers is not None:
        values["class"] = numbers
        if dropped is not None:
            hidden["class"] = dropped
    if distorted is not None:
        values["distorted"], hidden["distorted"] = torch.zeros_like(distorted, dtype=torch.long), ~distorted
    return Condition(values, hidden) if values else None
