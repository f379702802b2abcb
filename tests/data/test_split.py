"""Even splits are scikit-learn's, row for row, and digits its digits; both without importing it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from score_sde.common.errors import UserError
from score_sde.data.sources.digits import load_digits
from score_sde.data.split import split_by_name, split_evenly


def test_even_splits_are_those_of_scikit_learn():
    """Of 1 to 80 examples, of one to five classes or of none, by shares and by numbers; also what is refused."""
    refused = 0
    for seed in range(300):
        chance = np.random.RandomState(seed)
        count, num_classes = chance.randint(1, 80), chance.randint(1, 6)
        classes = None if seed % 3 == 0 else torch.from_numpy(chance.choice(chance.randint(0, 20, num_classes), count))
        size = chance.rand() if seed % 2 else float(chance.randint(1, count + 2))
        stratify, wanted = None if classes is None else classes.numpy(), size if size < 1 else int(size)
        try:
            rest, taken = train_test_split(np.arange(count), test_size=wanted, random_state=seed, stratify=stratify)
        except ValueError:
            refused += 1
            with pytest.raises(UserError, match=r"cannot take validation"):
                split_evenly(count, size, seed, classes, "validation")
            continue
        ours = split_evenly(count, size, seed, classes, "validation")
        np.testing.assert_array_equal(ours.rest, rest)
        np.testing.assert_array_equal(ours.taken, taken)
    assert 30 < refused < 150


def test_digits_are_those_of_scikit_learn():
    pictures, digits = sklearn_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(pictures)), test_size=0.2, random_state=0, stratify=digits)
    parts = load_digits()
    np.testing.assert_array_equal(parts.train.flatten(1), pictures[train])
    np.testing.assert_array_equal(parts.test.flatten(1), pictures[test])
    assert parts.classes is not None
    np.testing.assert_array_equal(parts.classes, digits[train])
    np.testing.assert_array_equal(parts.test_classes, digits[test])
    assert parts.train.dtype == torch.uint8
    assert parts.classes.dtype == torch.int64


def test_without_classes_the_choice_is_that_of_one_class():
    """One that is made without a list of all examples, the other one by one."""
    for count, size in ((2, 0.5), (9, 0.001), (9, 0.99), (50, 0.3), (50, 49), (50, 7), (1000, 0.1)):
        names = list(map(str, range(count)))
        for seed in range(5):
            splits = [
                split_by_name(iter(names), count, size, seed, groups, "test", "test_share", "x")
                for groups in (None, ["a"] * count)
            ]
            assert torch.equal(splits[0].taken, splits[1].taken)
            assert torch.equal(splits[0].rest, splits[1].rest)
            assert torch.equal(torch.cat(list(splits[0])).sort().values, torch.arange(count))
