"""Solvers that ours are compared with: of libraries, of clones given by path, and written from their papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.grids import Sampler
from benchmarks.peers.ipndm import ipndm_family
from benchmarks.peers.libraries import libraries


def untuned(clones: Path | None) -> Iterator[tuple[str, Sampler]]:
    """Return every peer that learns nothing, at each of its settings; `clones` is a folder of others' code."""
    yield from ipndm_family()
    yield from libraries()
