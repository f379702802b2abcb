"""Handwritten digits: the 1,797 pictures of 8 x 8 pixels and 17 grey levels that come with scikit-learn."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from score_sde.data.split import Parts

LEVELS = 17


def load_digits() -> Parts:
    """The digits `(N, 1, 8, 8)`; a fixed split, 1,437 to train and 360 to test, each digit's share the same in both."""
    pictures, digits = sklearn_digits(return_X_y=True)
    rows = torch.arange(len(pictures))
    train, test = train_test_split(rows.numpy(), test_size=0.2, random_state=0, stratify=digits)
    examples = torch.from_numpy(pictures).to(torch.uint8).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(digits)
    names = tuple(map(str, range(10)))
    return Parts(examples[train], examples[test], LEVELS, classes[train], classes[test], names)
