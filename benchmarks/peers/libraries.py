"""Samplers of libraries: azula, diffusers and k-diffusion, each on the standard deviations of a grid.

`pip install diffusers`, `pip install --no-deps azula k-diffusion`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

from benchmarks.peers.grids import Sampler, levels, noise
from benchmarks.problems import SIGMA_MAX, SIGMA_MIN
from score_sde.solvers.base import Model


def azula_peer(name: str, order: int | None, grid: str) -> Sampler:
    """Return one of azula's samplers, on the standard deviations of a grid."""
    # Installed without its dependencies, azula lacks what only its networks use.
    try:
        import einops  # noqa: F401
    except ImportError:
        for module in ("einops", "einops.layers", "einops.layers.torch"):
            sys.modules.setdefault(module, MagicMock())
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior

    class Wrapped(Denoiser):
        def __init__(self, model: Model, sigma: Tensor) -> None:
            super().__init__()
            self.model, self.sigma = model, sigma

        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            index = ((1 - t) * (len(self.sigma) - 1)).round().long()
            return torch.ones_like(t), self.sigma[index]

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> DiracPosterior:
            sigma = self.schedule(t)[1]
            return DiracPosterior(mean=x_t - sigma.to(x_t) * noise(self.model, x_t, sigma))

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        steps = budget // 2 if name == "HeunSampler" else budget
        options = {} if order is None else {"order": order}
        denoiser = Wrapped(model, levels(grid, steps + 1))
        return getattr(sample, name)(denoiser, steps=steps, silent=True, dtype=torch.float64, **options)(x)

    return run


def diffusers_peer(name: str, grid: str, scaled: bool, **options: Any) -> Sampler:
    """Return one of diffusers' schedulers, on the standard deviations of a grid.

    The scheduler's state is `x`, if `scaled`, or the variance-preserving `x / sqrt(1 + sigma^2)`.
    """
    import diffusers

    diffusers.utils.logging.set_verbosity_error()

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        scheduler = getattr(diffusers, name)(**options)
        zero_end = options.get("final_sigmas_type") == "zero" or scaled
        steps = (budget + 1) // 2 if name == "HeunDiscreteScheduler" else budget
        scheduler.set_timesteps(steps)
        sigma = levels(grid, steps if zero_end else steps + 1)
        if name == "HeunDiscreteScheduler":
            sigma = torch.cat([sigma[:1], sigma[1:].repeat_interleave(2)])
        scheduler.sigmas = torch.cat([sigma, sigma.new_zeros(1)]) if zero_end else sigma
        scheduler.set_begin_index(0)
        state = x if scaled else x / math.sqrt(1 + SIGMA_MAX**2)
        for level, timestep in zip(sigma, scheduler.timesteps, strict=False):
            y = state if scaled else state * torch.sqrt(1 + level**2).to(x)
            state = scheduler.step(noise(model, y, level), timestep, state).prev_sample
        return state if zero_end else state * math.sqrt(1 + SIGMA_MIN**2)

    return run


def k_diffusion_peer(name: str, grid: str, **options: Any) -> Sampler:
    """Return one of k-diffusion's samplers, on the standard deviations of a grid and 0."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError
    # The package's samplers need nothing of what it imports besides.
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    absent = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    with patch.dict(sys.modules, {"k_diffusion": package, **{module: MagicMock() for module in absent}}):
        sampling = importlib.import_module("k_diffusion.sampling")

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return x - sigma[0].to(x) * noise(model, x, sigma[0])

        steps = (budget + 1) // 2 if name in ("sample_heun", "sample_dpm_2") else budget
        sigma = torch.cat([levels(grid, steps), torch.zeros(1, dtype=torch.float64)])
        return getattr(sampling, name)(denoise, x, sigma, disable=True, **options).to(x)

    return run


def libraries() -> Iterator[tuple[str, Sampler]]:
    """Return every peer that is installed, at each of its grids and orders."""
    for grid in ("log", "karras"):
        try:
            for order in (2, 3, 4):
                for name in ("zABSampler", "zEABSampler", "xEABSampler", "vABSampler", "REABSampler"):
                    yield f"azula {name} {order} {grid}", azula_peer(name, order, grid)
            for name in ("DDIMSampler", "HeunSampler"):
                yield f"azula {name} {grid}", azula_peer(name, None, grid)
        except ImportError:
            print("azula is not installed (pip install --no-deps azula)")
        try:
            for end in ("zero", "sigma_min"):
                for order in (2, 3):
                    options = {"solver_order": order, "final_sigmas_type": end}
                    yield (
                        f"diffusers DPM++{order}M {end} {grid}",
                        diffusers_peer("DPMSolverMultistepScheduler", grid, False, **options),
                    )
                    yield (
                        f"diffusers UniPC-{order} {end} {grid}",
                        diffusers_peer("UniPCMultistepScheduler", grid, False, **options),
                    )
            for order in (2, 3):
                yield (
                    f"diffusers DEIS-{order} {grid}",
                    diffusers_peer("DEISMultistepScheduler", grid, False, solver_order=order),
                )
            for name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler"):
                yield f"diffusers {name} {grid}", diffusers_peer(name, grid, True)
        except ImportError:
            print("diffusers is not installed (pip install diffusers)")
        try:
            for order in (2, 3, 4):
                yield f"k-diffusion sample_lms {order} {grid}", k_diffusion_peer("sample_lms", grid, order=order)
            for name in ("sample_dpmpp_2m", "sample_heun", "sample_dpm_2", "sample_euler"):
                yield f"k-diffusion {name} {grid}", k_diffusion_peer(name, grid)
        except ImportError:
            print("k-diffusion is not installed (pip install --no-deps k-diffusion)")
