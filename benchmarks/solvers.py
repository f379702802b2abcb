"""Solvers side by side with those of others: `python -m benchmarks.solvers`.

Printed is the median over samples of `|x - x_exact|`, where `x_exact` is the end of the probability flow's trajectory
from the same noise (or its denoised mean at the smallest noise, whichever a sampler is nearer to), at 4 to 50
evaluations. Problems are those of `benchmarks.problems`: two mixtures, and the trained
network of a working folder (`--workdir runs/digits`). Peers are those of `benchmarks.peers`.

Each peer runs at each of its grids, orders and ends. Two lines sum up those that learn nothing: the best single setting
(lowest geometric mean over the budgets up to 10), and the best of each column, picked afterwards. Those that learn do
so for each budget alone, from other noise; the processor's seconds it took stand beside (OMP_NUM_THREADS=1). Last comes
what the loop itself costs beside a network of 8x8 images.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import Learned, Learner, learners, untuned
from benchmarks.peers.grids import Sampler
from benchmarks.problems import digits_mixture, network, ring
from score_sde.models import DDPM, GaussianMixture, ScoreModel
from score_sde.sde import SDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.base import Model, gaussian_of_model
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.trajectories import follow
from score_sde.solvers.fast.tuning import accurate_solution, tune

BUDGETS = (4, 5, 6, 8, 10, 20, 50)
# By which the best single setting is chosen.
FEW = 10
OURS = ("default", "deis", "dpmpp_2m", "dpmpp_3m", "unipc", "ddim", "heun")


class Problem(NamedTuple):
    """A problem has a model, noise `x`, and where the model's probability flow takes it.

    There are two such ends, and a sampler aims at one of them: at `sigma = 0`, where the flow ends, or the denoised
    mean at the smallest noise, off by about `sigma_min^2 / (2 c^2)` of a distance from a mode of width `c`.
    """

    model: Model
    x: Tensor
    ends: tuple[Tensor, Tensor]

    def error(self, samples: Tensor) -> float:
        """Return the median distance of samples to their ends, whichever are nearer."""
        distances = [(samples - end).flatten(1).norm(dim=1).nan_to_num(math.inf) for end in self.ends]
        return min(float(distance.median()) for distance in distances)


def our_sampler(name: str) -> Sampler:
    """Return one of our samplers, with as many steps as the budget pays."""

    def run(model: Model, x: Tensor, budget: int) -> Tensor:
        steps = (budget + 1) // 2 if name == "heun" else budget
        return get_solver(name, num_steps=steps)(model, x).x

    return run


def errors(sampler: Sampler, problem: Problem, budgets: Sequence[int]) -> list[float]:
    """Return the median endpoint error at each budget; infinite where the sampler fails."""
    row = []
    for budget in budgets:
        try:
            with torch.no_grad():
                row.append(problem.error(sampler(problem.model, problem.x, budget)))
        except (IndexError, ValueError, RuntimeError, AttributeError):
            row.append(math.inf)
    return row


def show(label: str, row: Sequence[float]) -> None:
    print(f"{label:44s}" + "".join(f"{value:10.4g}" for value in row), flush=True)


def compare(title: str, model: Model, shape: tuple[int, ...], options: argparse.Namespace) -> None:
    """Print one problem's table."""
    dtype = torch.float64 if isinstance(model, GaussianMixture) else torch.float32
    seeds = range(10**6, 10**6 + options.samples)
    x = model.sde.prior_sample((options.samples, *shape), seeds=seeds, dtype=dtype)
    gaussian = gaussian_of_model(model)
    assert gaussian is not None
    at_zero = InAxes(model, gaussian, x).turned_back(follow(model, x, gaussian, 300).end, 1.0)
    problem = Problem(model, x, (at_zero, accurate_solution(model, x, 400)))
    print(f"\n{title}: median endpoint error over {options.samples} samples")
    print(f"{'evaluations':44s}" + "".join(f"{budget:10d}" for budget in options.budgets))
    table = {}
    for label, sampler in untuned(options.peers):
        if options.only and not any(part in label for part in options.only):
            continue
        table[label] = errors(sampler, problem, options.budgets)
        if options.all:
            show(label, table[label])
    array = np.array(list(table.values()))
    few = np.array([budget <= max(FEW, min(options.budgets)) for budget in options.budgets])
    single = list(table)[int(np.log(array[:, few]).mean(1).argmin())]
    show(f"best single peer: {single}", table[single])
    show("best peer of each column", array.min(0))
    ours = {name: errors(our_sampler(name), problem, options.budgets) for name in OURS}
    for name, row in ours.items():
        show(name, row)
    show("  default / best single peer", np.array(ours["default"]) / np.array(table[single]))
    if options.iterations == 0:
        return
    every: dict[str, Learner] = {
        "tuned": partial(tuned, iterations=options.iterations),
        **(learners() if options.learners else {}),
    }
    rows = {name: learned_errors(name, learner, problem, options.budgets) for name, learner in every.items()}
    for name, row in rows.items():
        show(name, row)
    if len(rows) > 1:
        best = np.array([row for name, row in rows.items() if name != "tuned"]).min(0)
        show("  tuned / best learned peer of each column", np.array(rows["tuned"]) / best)


def tuned(model: Model, budget: int, shape: tuple[int, ...], dtype: torch.dtype, iterations: int | None) -> Learned:
    """Tune to the model on other noise, and return what goes from noise to samples."""
    table = tune(model, [budget], shape, iterations=iterations, dtype=dtype)[budget].table
    solver = get_solver("tuned", table=table)
    return lambda x: solver(model, x).x


def learned_errors(name: str, learner: Learner, problem: Problem, budgets: Sequence[int]) -> list[float]:
    """Return the median endpoint error at each budget, learned for it alone; print the processor's seconds it took."""
    row = []
    for budget in budgets:
        start = time.process_time()
        sample = learner(problem.model, budget, tuple(problem.x.shape[1:]), problem.x.dtype)
        seconds = time.process_time() - start
        with torch.no_grad():
            row.append(problem.error(sample(problem.x)))
        print(f"  {name}, {budget} evaluations, learned in {seconds:.0f} s: {row[-1]:.4g}", flush=True)
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
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS, help="numbers of evaluations")
    parser.add_argument("--only", nargs="*", help="peers with one of these in their names; all, if left out")
    parser.add_argument("--no-learners", dest="learners", action="store_false", help="leave out peers that learn")
    parser.add_argument("--all", action="store_true", help="print every peer's every setting")
    parser.add_argument("--peers", type=Path, help="folder of clones of others' code, see benchmarks.peers")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    problems = {"ring": ring, "digits_mixture": digits_mixture}
    for name in options.problems:
        model = problems[name]()
        compare(name, model, (model.means.shape[1],), options)
    if options.workdir is not None:
        compare(f"network of {options.workdir}", *network(options.workdir), options)
    show_overhead()


if __name__ == "__main__":
    main()
