"""Random numbers per sample, and per batch.

Sample `i` depends on its own seed, not on the batch size, the rank, or its neighbours. Each example has its own
generator, seeded by `(seed, stream)`; streams keep apart the different uses of one seed (the latent `x_T`, the
solver's noise, dequantisation, …), so that giving the same seeds to two of them does not correlate them.

In training a batch has one generator. Each process draws the numbers of the whole batch and uses its own rows, so that
all of them together see the batch that one would.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.float64 import widest_dtype

Stream = Literal[
    "prior", "solver", "dequantisation", "probe", "brownian", "bound", "control", "choice", "low_resolution"
]


class SampleNoise:
    """Draws the random numbers of each example of a batch from a generator of its own.

    Args:
        seeds: one non-negative integer an example.
        stream: what the numbers are for.

    Raises:
        UserError: a seed is negative or no integer.
    """

    def __init__(self, seeds: Iterable[int], stream: Stream) -> None:
        self.seeds = [_as_seed(seed) for seed in seeds]
        self._generators = [torch.Generator().manual_seed(stream_seed(seed, stream)) for seed in self.seeds]

    def normal(self, like: Tensor) -> Tensor:
        """Draw the next standard normal numbers, of the shape `(B, *dims)`, dtype and device of `like`.

        Raises:
            UserError: the batch size is not the number of seeds.
        """
        return self._draw(torch.randn, like)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw the next uniform numbers in [0, 1), of the shape `(B, *dims)`, dtype and device of `like`."""
        return self._draw(torch.rand, like)

    def rademacher(self, like: Tensor) -> Tensor:
        """Draw the next random signs, of the shape `(B, *dims)`, dtype and device of `like`, equal for all dtypes."""
        return torch.where(self._draw(torch.rand, like.float()) < 0.5, -1.0, 1.0).to(like.dtype)

    def check_count(self, count: int) -> None:
        """Raise `UserError` unless there are `count` seeds."""
        if len(self.seeds) != count:
            raise UserError(f"{len(self.seeds)} seeds for a batch of {count}: give one seed an example")

    def _draw(self, sampler: Callable[..., Tensor], like: Tensor) -> Tensor:
        self.check_count(like.shape[0])
        rows = [sampler(like.shape[1:], generator=generator, dtype=like.dtype) for generator in self._generators]
        return torch.stack(rows).to(like.device)


class BatchNoise:
    """Draws the random numbers of a whole batch from one generator, and returns those of the rows at hand.

    Args:
        count: examples in the whole batch.
        generator: the source of the numbers; torch's own if left out.
        rows: the rows of the batch that are at hand.
    """

    def __init__(self, count: int, generator: torch.Generator | None = None, rows: slice = slice(None)) -> None:
        self.count = count
        self.rows = rows
        self._generator = self._on_host = generator
        if generator is not None and generator.device.type != "cpu":
            # For numbers that are wanted on the CPU, such as times: those of an accelerator would be waited for.
            self._on_host = torch.Generator().manual_seed(generator.initial_seed())

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers for the rows at hand, of the shape `(B, *dims)`, dtype and device of `like`."""
        return self._draw(torch.randn, like)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers uniform in [0, 1) for the rows at hand, of the shape, dtype and device of `like`."""
        return self._draw(torch.rand, like)

    def permutation(self) -> Tensor:
        """Return the places of the rows at hand in a random order of all, on the CPU, `(B,)`."""
        return torch.randperm(self.count, generator=self._on_host)[self.rows]

    def _draw(self, sampler: Callable[..., Tensor], like: Tensor) -> Tensor:
        generator = self._on_host if like.device.type == "cpu" else self._generator
        place = generator.device if generator is not None else like.device
        shape = (self.count, *like.shape[1:])
        dtype = like.dtype if like.dtype != torch.float64 else widest_dtype(place)
        numbers = sampler(shape, generator=generator, dtype=dtype, device=place)[self.rows]
        return numbers.to(like.device).to(like.dtype)


def _as_seed(seed: int) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise UserError(f"seeds are whole numbers, not negative, unlike {seed!r}")
    return number


def stream_seed(seed: int, stream: Stream) -> int:
    """Return a 63-bit seed made of an example's seed and the purpose of its numbers."""
    sequence = np.random.SeedSequence(int(seed), spawn_key=(zlib.crc32(stream.encode()),))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeds_from_generator(count: int, generator: torch.Generator | None = None) -> list[int]:
    """Draw one seed for each of `count` examples."""
    return torch.randint(2**62, (count,), generator=generator, device=generator.device if generator else "cpu").tolist()
