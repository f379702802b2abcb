"""Two independent implementations of each method agree: ours and diffusers', on the same grid, in float64.

Some of theirs cast their state to float32 at each step, which leaves differences of about 1e-6.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.models import GaussianMixture
from score_sde.sde import SDE
from score_sde.solvers import get_solver

diffusers = pytest.importorskip("diffusers")

NUM_STEPS = 10
DOUBLE = torch.float64


class LogLinear(SDE):
    """The process is variance-preserving, with `rho` geometric in `t`, so that any grid of `rho` has its times."""

    t_min = 0.0

    def __init__(self, rho_max: float, rho_min: float) -> None:
        self.limits = torch.tensor([rho_min, rho_max], dtype=DOUBLE).log()

    def rho(self, t: Tensor) -> Tensor:
        return torch.exp(self.limits[0] + t * (self.limits[1] - self.limits[0]))

    def alpha(self, t: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + self.rho(t) ** 2)

    def sigma(self, t: Tensor) -> Tensor:
        return self.rho(t) / torch.sqrt(1 + self.rho(t) ** 2)

    def times(self, rho: Tensor) -> Tensor:
        times = (rho.log() - self.limits[0]) / (self.limits[1] - self.limits[0])
        return times.clamp(0, 1)


@pytest.fixture(scope="module")
def rho() -> Tensor:
    """Return an uneven grid of `rho = sigma / alpha`."""
    position = torch.linspace(0, 1, NUM_STEPS, dtype=DOUBLE)
    return torch.exp(3.0 - 6.0 * position**0.9)


@pytest.fixture(scope="module")
def model(rho: Tensor) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, generator=generator, dtype=DOUBLE)
    covariances = torch.diag_embed(0.05 + 0.2 * torch.rand(3, 2, generator=generator, dtype=DOUBLE))
    return GaussianMixture(LogLinear(float(rho[0]), float(rho[-1])), torch.ones(3), means, covariances)


@pytest.fixture(scope="module", name="x_T")
def latents(model: GaussianMixture) -> Tensor:
    return model.sde.prior_sample((32, 2), seeds=range(32), dtype=DOUBLE)


def ours(name: str, model: GaussianMixture, x_T: Tensor, rho: Tensor, **options: object) -> Tensor:
    times = model.sde.times(rho)  # type: ignore[attr-defined]
    return get_solver(name, num_steps=len(rho), grid=times, **options)(model, x_T).x


def theirs(scheduler: Any, model: GaussianMixture, x_T: Tensor, levels: Tensor, scaled: bool = False) -> Tensor:
    """Run a scheduler over its `levels` of noise; `scaled`: its state is `x / alpha`."""
    scheduler.set_timesteps(NUM_STEPS)
    scheduler.sigmas = levels
    scheduler.set_begin_index(0)
    x = x_T / model.sde.alpha(torch.ones((), dtype=DOUBLE)) if scaled else x_T
    for k, timestep in enumerate(scheduler.timesteps):
        t = model.sde.times(levels[k])  # type: ignore[attr-defined]
        state = scheduler.scale_model_input(x, timestep)
        x = scheduler.step(-model.sde.sigma(t) * model.score(state, t), timestep, x).prev_sample
    return x


def assert_equal(mine: Tensor, other: Tensor) -> None:
    assert float((mine - other).abs().max()) < 1e-5


def to_zero(rho: Tensor) -> Tensor:
    return torch.cat([rho, rho.new_zeros(1)])


@pytest.mark.parametrize(("order", "name"), [(1, "dpmpp_1"), (2, "dpmpp_2m"), (3, "dpmpp_3m_published")])
def test_dpm_solver_plus_plus(order: int, name: str, model: GaussianMixture, x_T: Tensor, rho: Tensor) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=order, final_sigmas_type="zero")
    options = {} if order == 1 else {"lower_order_final": True}
    assert_equal(ours(name, model, x_T, rho, **options), theirs(scheduler, model, x_T, to_zero(rho)))


def test_second_order_single_step(model: GaussianMixture, x_T: Tensor, rho: Tensor) -> None:
    """Their 2S takes its middle from the grid: give it ours."""
    middle = torch.sqrt(rho[:-1] * rho[1:])
    levels = torch.stack([rho[:-1], middle], dim=1).flatten()
    scheduler = diffusers.DPMSolverSinglestepScheduler(solver_order=2, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(len(levels))
    scheduler.sigmas = torch.cat([levels, rho[-1:]])
    scheduler.order_list = [1, 2] * (len(levels) // 2)
    scheduler.set_begin_index(0)
    x = x_T
    for k, timestep in enumerate(scheduler.timesteps):
        t = model.sde.times(levels[k])  # type: ignore[attr-defined]
        x = scheduler.step(-model.sde.sigma(t) * model.score(x, t), timestep, x).prev_sample
    assert_equal(ours("dpmpp_2s", model, x_T, rho, denoise=False), x)


@pytest.fixture(scope="module")
def levels(rho: Tensor) -> Tensor:
    """Return the grid with one more noise, for schedulers that stop at the last one."""
    return torch.cat([1.5 * rho[:1], rho])


@pytest.fixture(scope="module")
def longer(model: GaussianMixture, levels: Tensor) -> GaussianMixture:
    """Return the mixture under a process that reaches the further noise."""
    covariances = model.basis @ torch.diag_embed(model.eigenvalues) @ model.basis.mT
    sde = LogLinear(float(levels[0]), float(levels[-1]))
    return GaussianMixture(sde, model.log_weights.exp(), model.means, covariances)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order: int, variant: str, longer: GaussianMixture, x_T: Tensor, levels: Tensor) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, solver_type=variant)
    mine = ours("unipc", longer, x_T, levels, order=order, variant=variant, lower_order_final=True, denoise=False)
    assert_equal(mine, theirs(scheduler, longer, x_T, levels))


def test_unipc_to_zero(model: GaussianMixture, x_T: Tensor, rho: Tensor) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, solver_type="bh2", final_sigmas_type="zero")
    mine = ours("unipc", model, x_T, rho, order=3, lower_order_final=True)
    assert_equal(mine, theirs(scheduler, model, x_T, to_zero(rho)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int, longer: GaussianMixture, x_T: Tensor, levels: Tensor) -> None:
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order)
    mine = ours("deis", longer, x_T, levels, order=order, lower_order_final=True, denoise=False)
    assert_equal(mine, theirs(scheduler, longer, x_T, levels))


def test_euler(model: GaussianMixture, x_T: Tensor, rho: Tensor) -> None:
    scheduler = diffusers.EulerDiscreteScheduler()
    assert_equal(ours("euler", model, x_T, rho), theirs(scheduler, model, x_T, to_zero(rho), scaled=True))


def test_heun(model: GaussianMixture, x_T: Tensor, rho: Tensor) -> None:
    scheduler = diffusers.HeunDiscreteScheduler()
    levels = torch.cat([rho[:1], rho[1:].repeat_interleave(2), rho.new_zeros(1)])
    assert_equal(ours("heun", model, x_T, rho), theirs(scheduler, model, x_T, levels, scaled=True))


def test_ddim(x_T: Tensor) -> None:
    """Theirs reads its noise levels from a table of betas."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE), 0)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=DOUBLE)
    scheduler.set_timesteps(NUM_STEPS)
    squares = scheduler.alphas_cumprod[scheduler.timesteps]
    levels = torch.sqrt((1 - squares) / squares)
    model = GaussianMixture(
        LogLinear(float(levels[0]), float(levels[-1])),
        torch.ones(2),
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=DOUBLE),
        0.1 * torch.eye(2, dtype=DOUBLE).repeat(2, 1, 1),
    )
    x = x_T
    for level, timestep in zip(levels, scheduler.timesteps, strict=True):
        t = model.sde.times(level)  # type: ignore[attr-defined]
        x = scheduler.step(-model.sde.sigma(t) * model.score(x, t), timestep, x).prev_sample
    assert_equal(ours("ddim", model, x_T, levels), x)
