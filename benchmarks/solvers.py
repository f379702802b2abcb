"""Solvers side by side with those of diffusers, azula and k-diffusion: `python -m benchmarks.solvers`.

Printed is the median over samples of `|x - x_exact|`, where `x_exact` is the end of the probability flow's trajectory
from the same noise, at 5, 8, 10, 20 and 50 evaluations. The process is `VESDE(0.002, 80)`, the data are scaled to a
standard deviation of about 0.5, `x_T = 80 z`. Problems: a ring of eight narrow Gaussians in the plane, a mixture
fitted to the digits in 64 dimensions, and the trained network of a working folder (`--workdir runs/digits`).

Each peer runs at each of its grids, orders and ends. Two lines sum them up: the best single setting throughout (lowest
geometric mean over the budgets), and the best of each column, picked afterwards. Peers: `pip install diffusers`,
`pip install --no-deps azula k-diffusion`. Last comes what the loop itself costs beside a network of 8x8 images.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.trained import trained_network
from score_sde.models import DDPM, GaussianMixture, ScoreModel
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.base import Model
from score_sde.solvers.fast.tuning import accurate_solution, tune

BUDGETS = (5, 8, 10, 20, 50)
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
OURS = ("default", "deis", "dpmpp_2m", "dpmpp_3m", "unipc", "ddim", "heun")

Sampler = Callable[[Model, Tensor, int], Tensor]


def ring() -> GaussianMixture:
    """Return eight Gaussians of standard deviation 0.03 on a circle; 0.5 a coordinate."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = math.sqrt(0.5) * torch.stack([angle.cos(), angle.sin()], dim=1)
    covariances = 0.03**2 * torch.eye(2, dtype=torch.float64).repeat(8, 1, 1)
    return GaussianMixture(VESDE(SIGMA_MIN, SIGMA_MAX), torch.ones(8), means, covariances)


def digits_mixture() -> GaussianMixture:
    """Return twenty Gaussians fitted to scikit-learn's digits, scaled to a standard deviation of 0.5."""
    from sklearn import mixture
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    pixels = 0.5 * (pixels - pixels.mean()) / pixels.std()
    fit = mixture.GaussianMixture(20, reg_covar=1e-3, random_state=0).fit(pixels)
    arrays = (torch.from_numpy(array) for array in (fit.weights_, fit.means_, fit.covariances_))
    return GaussianMixture(VESDE(SIGMA_MIN, SIGMA_MAX), *arrays)


class AsVE:
    """A model of any process is read as one of `VESDE(0.002, 80)`: the same denoiser at the same `sigma / alpha`.

    Args:
        model: the model that is read.
        scale: factor on the model's data.
    """

    def __init__(self, model: Model, scale: float) -> None:
        self.sde, self._model, self._scale = VESDE(SIGMA_MIN, SIGMA_MAX), model, scale

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`."""
        own = self._model.sde.time_at_log_snr(self.sde.log_snr(t) + 2 * math.log(self._scale))
        return self._scale * self._model.denoise(self._model.sde.alpha(own).to(x) / self._scale * x, own)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`."""
        return (self.denoise(x, t) - x) / (self.sde.at(t).sigma ** 2).to(x)


def network(workdir: Path) -> tuple[Model, tuple[int, ...]]:
    """Return the newest network of a working folder, its data scaled to a standard deviation of 0.5, and the shape."""
    model, dataset, _, _ = trained_network(workdir)
    scale = 0.5 / dataset.units.encode(dataset.train).std().item()
    return AsVE(model, scale), dataset.shape


# A grid is a list of noises' standard deviations; a peer goes from each to the next.


def levels(name: str, count: int) -> Tensor:
    """Return `count` standard deviations of the noise, from 80 to 0.002."""
    position = torch.linspace(0, 1, count, dtype=torch.float64)
    if name == "log":
        return SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** position
    return (SIGMA_MAX ** (1 / 7) + position * (SIGMA_MIN ** (1 / 7) - SIGMA_MAX ** (1 / 7))) ** 7


def noise(model: Model, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the model's noise where its standard deviation is `sigma`."""
    t = torch.log(sigma / SIGMA_MIN) / math.log(SIGMA_MAX / SIGMA_MIN)
    return -sigma.to(x) * model.score(x, t)


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


def peers() -> Iterator[tuple[str, Sampler]]:
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


def our_sampler(name: str) -> Sampler:
    """Return one of our samplers, with as many steps as the budget pays."""

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        steps = (budget + 1) // 2 if name == "heun" else budget
        return get_solver(name, num_steps=steps)(model, x).x

    return run


def errors(sampler: Sampler, model: Model, x: Tensor, exact: Tensor) -> list[float]:
    """Return the median endpoint error at each budget; infinite where the sampler fails."""
    row = []
    for budget in BUDGETS:
        try:
            with torch.no_grad():
                distance = (sampler(model, x, budget) - exact).flatten(1).norm(dim=1)
            row.append(float(distance.nan_to_num(math.inf).median()))
        except (IndexError, ValueError, RuntimeError, AttributeError):
            row.append(math.inf)
    return row


def show(label: str, row: Sequence[float]) -> None:
    print(f"{label:44s}" + "".join(f"{value:10.4g}" for value in row), flush=True)


def compare(
    title: str, model: Model, shape: tuple[int, ...], samples: int, iterations: int | None, every: bool
) -> None:
    """Print one problem's table."""
    dtype = torch.float64 if isinstance(model, GaussianMixture) else torch.float32
    x = model.sde.prior_sample((samples, *shape), seeds=range(10**6, 10**6 + samples), dtype=dtype)
    exact = accurate_solution(model, x, 400)
    print(f"\n{title}: median endpoint error over {samples} samples")
    print(f"{'evaluations':44s}" + "".join(f"{budget:10d}" for budget in BUDGETS))
    table = {}
    for label, sampler in peers():
        table[label] = errors(sampler, model, x, exact)
        if every:
            show(label, table[label])
    array = np.array(list(table.values()))
    single = list(table)[int(np.log(array).mean(1).argmin())]
    show(f"best single peer: {single}", table[single])
    show("best peer of each column", array.min(0))
    ours = {name: errors(our_sampler(name), model, x, exact) for name in OURS}
    for name, row in ours.items():
        show(name, row)
    show("  default / best single peer", np.array(ours["default"]) / np.array(table[single]))
    if iterations != 0:
        show("tuned", row := tuned_errors(model, shape, x, exact, iterations, dtype))
        show("  tuned / best peer of each column", np.array(row) / array.min(0))


def tuned_errors(
    model: Model, shape: tuple[int, ...], x: Tensor, exact: Tensor, iterations: int | None, dtype: torch.dtype
) -> list[float]:
    """Tune to the model on other noise, once for each budget, and return the errors."""
    row = []
    for budget in BUDGETS:
        start = time.perf_counter()
        tuned = tune(model, [budget], shape, iterations=iterations, dtype=dtype)[budget]
        solver = get_solver("tuned", table=tuned.table)
        row.append(float((solver(model, x).x - exact).flatten(1).norm(dim=1).median()))
        seconds = time.perf_counter() - start
        print(f"  tuned for {budget} evaluations in {seconds:.0f} s: {row[-1]:.4g}", flush=True)
    return row


class Free:
    """This model costs nothing."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def show_overhead() -> None:
    """Print the time of the loop beside that of a network: DDPM with 16 channels, 64 images of 8x8."""
    network = DDPM(8, 1, channels=16, channel_multipliers=(1, 2), attention_resolutions=(4,), dropout=0.0)
    model = ScoreModel(network, VPSDE()).eval().requires_grad_(False)
    x = model.sde.prior_sample((64, 1, 8, 8), seeds=range(64))
    call = median_seconds(lambda: model.score(x, torch.tensor(0.5, dtype=torch.float64)))
    print("\ntime of the loop / time of the network, in percent")
    for name in OURS:
        solver, free = get_solver(name, num_steps=20), Free(model.sde)
        calls = solver(free, x).nfe
        loop = median_seconds(partial(solver, free, x))
        print(f"{name:12s}{100 * loop / (calls * call):8.3f}")


def median_seconds(run: Callable[[], object], repeats: int = 9) -> float:
    """Return the median processor time of a function, after one call to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="working folder of a trained digits network")
    parser.add_argument("--problems", nargs="*", default=["ring", "digits_mixture"], help="which mixtures to run")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--iterations", type=int, help="of tuning; its own number if left out, 0 for none")
    parser.add_argument("--all", action="store_true", help="print every peer's every setting")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    problems = {"ring": ring, "digits_mixture": digits_mixture}
    for name in arguments.problems:
        model = problems[name]()
        compare(name, model, (model.means.shape[1],), arguments.samples, arguments.iterations, arguments.all)
    if arguments.workdir is not None:
        trained, shape = network(arguments.workdir)
        compare(
            f"network of {arguments.workdir}", trained, shape, arguments.samples, arguments.iterations, arguments.all
        )
    show_overhead()


if __name__ == "__main__":
    main()
