"""Counting what a model is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from score_sde.solvers import Model


@pytest.fixture
def count_calls() -> Callable[[Model], Counter]:
    """Return a function that makes a model count its calls from now on, and returns the counter."""

    def count(model: Model) -> Counter:
        counter: Counter = Counter()

        def counted(name: str) -> Callable:
            method = getattr(model, name)

            def call(*arguments):
                counter[name] += 1
                return method(*arguments)

            return call

        for name in ("score", "denoise"):
            setattr(model, name, counted(name))
        return counter

    return count
