"""Solvers that ours are compared with: of libraries, of clones given by path, and written from their papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.grids import Sampler
from benchmarks.peers.ipndm import ipndm_family
from benchmarks.peers.learned import DyWeight, GeneralisedSolver, learn
from benchmarks.peers.libraries import libraries
from benchmarks.peers.published import evodiff, gits
from score_sde.solvers.base import Model

# Takes a model, a number of evaluations, the shape of an example and a dtype, and learns to go from noise to samples.
Learned = Callable[[Tensor], Tensor]
Learner = Callable[[Model, int, tuple[int, ...], torch.dtype], Learned]


def untuned(clones: Path | None) -> Iterator[tuple[str, Sampler]]:
    """Return every peer that learns nothing, at each of its settings; `clones` is a folder of others' code."""
    yield from ipndm_family()
    yield from gits()
    yield from libraries()
    yield from evodiff(clones)


def learners() -> dict[str, Learner]:
    """Return every peer that learns, from each of its starts, by name."""
    made: dict[str, Learner] = {}
    for power in (1, 3):
        made[f"GS from t^{power}"] = partial(learn, partial(GeneralisedSolver, power))
    for grid, smallest in (("karras", 0.002), ("t^3", 0.01), ("log", 0.01)):
        made[f"DyWeight {grid} {smallest:g}"] = partial(learn, partial(DyWeight, grid, smallest))
    return made
