"""Solvers of a model's own grid, and of others' code, which is given by path and is no part of this project.

    GITS       Chen et al. 2024, arXiv:2405.11326: iPNDM on the times that `gits_times` chooses for the model
    EVODiff    Li et al. 2025, arXiv:2509.26096: its authors' code, a clone of github.com/ShiguiLi/EVODiff

DPM-Solver-v3 (Zheng et al. 2023, arXiv:2310.13268) is left out: its code runs on CUDA only, and asks for statistics of
each model that it does not compute.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.peers.grids import Sampler, noise
from benchmarks.peers.ipndm import End, ipndm_peer
from benchmarks.problems import SIGMA_MAX, SIGMA_MIN
from score_sde.solvers.base import Model
from score_sde.solvers.fast.gits import gits_times

EVODIFF = Path("EVODiff", "code_demo", "edm_cifar10", "samplers")


def gits() -> Iterator[tuple[str, Sampler]]:
    """Return iPNDM of every order on GITS's grid, with and without a free first step, to both its ends."""
    ends: tuple[End, ...] = ("smallest", "denoised")
    for order, free, end in product((1, 2, 3, 4), (False, True), ends):
        yield f"GITS, iPNDM-{order} {end}{', free first step' * free}", partial(_on_gits_grid, order, free, end)


def _on_gits_grid(order: int, free: bool, end: End, model: Model, x: Tensor, budget: int) -> Tensor:
    grid = partial(_chosen, model, tuple(x.shape[1:]), x.dtype)  # type: ignore[arg-type]
    return ipndm_peer(order, grid, free, end)(model, x, budget)


@lru_cache(maxsize=64)
def _chosen(model: Model, shape: tuple[int, ...], dtype: torch.dtype, count: int) -> Tensor:
    """Return the standard deviations at the times that are chosen for a model."""
    return model.sde.sigma(torch.tensor(gits_times(model, count, shape, dtype=dtype), dtype=torch.float64))


def evodiff(clones: Path | None) -> Iterator[tuple[str, Sampler]]:
    """Return EVODiff of its authors' code on both its grids, to both its ends; none without the clone."""
    folder = None if clones is None else clones / EVODIFF
    if folder is None or not folder.is_dir():
        print(f"EVODiff is left out: --peers FOLDER, with a clone in it that has {EVODIFF}")
        return
    code = _package("evodiff_clone", folder)
    for grid, to_zero in product(("logSNR", "edm"), (False, True)):
        yield f"EVODiff {grid}{' to zero' * to_zero}", partial(_evodiff, code, grid, to_zero)


def _evodiff(code: ModuleType, grid: str, to_zero: bool, model: Model, x: Tensor, budget: int) -> Tensor:
    shape = x.shape if x.ndim == 4 else (len(x), 1, 1, x[0].numel())

    def noise_at(states: Tensor, sigma: Tensor) -> Tensor:
        return noise(model, states.reshape(x.shape).to(x), sigma[0].clamp(SIGMA_MIN, SIGMA_MAX).double()).reshape(shape)

    solver = code.evodiff.EVODiff_edm(code.utils.NoiseScheduleEDM())
    ends = {"t_start": SIGMA_MAX, "t_end": SIGMA_MIN, "skip_type": grid, "denoise_to_zero": to_zero}
    return solver.sample(noise_at, x.reshape(shape), steps=budget - to_zero, order=2, **ends).reshape(x.shape).to(x)


def _package(name: str, folder: Path) -> ModuleType:
    """Import two modules of a folder as a package of this name, without what else its `__init__` asks for."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    for part in ("utils", "evodiff"):
        spec = importlib.util.spec_from_file_location(f"{name}.{part}", folder / f"{part}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"{name}.{part}"] = module
        spec.loader.exec_module(module)
        setattr(package, part, module)
    return package
