"""Fields from means over areas, 8 x 8 to 32 x 32: `python -m benchmarks.downscaling`.

Heights in metres (`elevation`), of which the left three quarters of the region are trained on and the right quarter is
tested on. What is known of a field is the mean of every 4 x 4 places, with noise of 5 m deviation. Compared by the fair
CRPS of ensembles, spread beside skill, and nats per dimension, in metres:

    bicubic     interpolation, with a Gaussian error whose mean and deviation at each place are those of the training
                fields; its CRPS is in closed form
    covariance  the same with the whole covariance of the errors
    conditional a network that is told the means, of x; with `--left` also one of what interpolation leaves of x
    ΠGDM        the first of these networks without its condition, led by what was observed
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import score_sde
from score_sde.control import Observation, PiGDM, shrunk
from score_sde.evaluation.samples.ensembles import crps, spread_skill
from score_sde.experiment.run import Run
from score_sde.solvers import get_solver

FACTOR, NOISE = 4, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--fields", type=int, default=40, help="test fields; of densities, a third")
    parser.add_argument("--left", action="store_true", help="train on what interpolation leaves, too")
    arguments = parser.parse_args()
    data = score_sde.load_dataset("elevation")
    generator = torch.Generator().manual_seed(0)
    known, told = data.train, observed(data.train, generator)
    chosen = torch.randperm(len(data.test), generator=generator)[: arguments.fields]
    x, low = data.test[chosen], observed(data.test[chosen], generator)
    print("| | CRPS, m | spread, m | error of the mean, m | ratio | nats/dim |\n|---|---|---|---|---|---|")
    gaussian(known - bicubic(told), x - bicubic(low), arguments.fields // 3)

    settings = {"data.test_share": 0.0, "training.batch_size": 32}
    settings |= dict.fromkeys(("training.sample_every", "training.checkpoint_every"), 0)
    for name, by_known, by_new in (
        ("conditional, of x", torch.zeros_like(known), torch.zeros_like(x)),
        ("conditional, of what bicubic leaves", bicubic(told), bicubic(low)),
    )[: 1 + arguments.left]:
        started = time.time()
        run = score_sde.fit(
            (known - by_known).numpy(), condition={"low": told.numpy()}, num_steps=arguments.steps, settings=settings
        )
        seconds = time.time() - started
        repeated = {"low": low.repeat(arguments.members, 1, 1, 1).numpy()}
        drawn = run.sample(len(repeated["low"]), condition=repeated, num_steps=20)
        some = arguments.fields // 3
        own = (x - by_new)[:some].numpy()
        nats = -run.log_prob(own, condition={"low": low[:some].numpy()}, method="adams", num_steps=32)
        report(name, torch.from_numpy(drawn).unflatten(0, (arguments.members, -1)) + by_new, x, nats / x[0].numel())
        print(f"<!-- {seconds:.0f} s of training, {time.time() - started - seconds:.0f} s of measuring -->", flush=True)
        if not by_known.any():
            plain = -run.log_prob(own, method="adams", num_steps=32)
            report("ΠGDM", led(run, low, arguments.members), x, None)
            print(f"| (the same without a condition) | | | | | {plain.mean() / x[0].numel():.3f} |", flush=True)


def observed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return what is known of fields `(N, 1, H, W)`, `(N, 1, H / 4, W / 4)`."""
    low = F.avg_pool2d(x, FACTOR)
    return low + NOISE * torch.randn(low.shape, generator=generator)


def bicubic(low: Tensor) -> Tensor:
    return F.interpolate(low, scale_factor=FACTOR, mode="bicubic")


def gaussian(known: Tensor, errors: Tensor, some: int) -> None:
    """Report Gaussian errors, fitted to those that are known, `(N, 1, H, W)`, on others."""
    mean, std = known.mean(0), known.std(0)
    z = ((errors - mean) / std).double()
    normal = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
    score = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    spread, skill = float(std.square().mean().sqrt()), float((errors - mean).square().mean().sqrt())
    independent = (std.log() - normal.log_prob(z)).flatten(1).mean(1)[:some]
    rows = (known - mean).flatten(1).double()
    factor = torch.linalg.cholesky(rows.T @ rows / len(rows) + 0.25 * torch.eye(rows.shape[1], dtype=torch.float64))
    white = torch.linalg.solve_triangular(factor, (errors - mean).flatten(1).double().T, upper=False).T
    whole = factor.diagonal().log().mean() + (white.square().mean(1) + math.log(2 * math.pi))[:some] / 2
    figures = f"{float(score.mean()):.3f} | {spread:.2f} | {skill:.2f} | {spread / skill:.3f}"
    for name, nats in (("bicubic", independent), ("covariance", whole)):
        print(f"| {name} | {figures} | {with_error(nats.numpy())} |", flush=True)


def led(run: Run, low: Tensor, members: int) -> Tensor:
    """Return ensembles that the model without a condition gives, led by what was observed."""
    units, count = run.dataset.units, len(low)
    scale = float(units.encode(torch.ones(1, 1, 1, 1)) - units.encode(torch.zeros(1, 1, 1, 1)))
    observation = Observation(shrunk(FACTOR), units.encode(low), NOISE * scale)
    shape, drawn = (count, *run.dataset.shape), []
    for member in range(members):
        seeds = range(member * count, (member + 1) * count)
        solver = get_solver("dpmpp_2s_sde", num_steps=20)
        drawn.append(
            solver(PiGDM(run.model, observation), run.model.sde.prior_sample(shape, seeds=seeds), seeds=seeds).x
        )
    return torch.stack([units.decode(x) for x in drawn])


def report(name: str, ensemble: Tensor, x: Tensor, nats: np.ndarray | None) -> None:
    spread, skill, ratio = spread_skill(ensemble, x)
    density = "" if nats is None else with_error(nats)
    print(f"| {name} | {float(crps(ensemble, x).mean()):.3f} | {spread:.2f} | {skill:.2f} | {ratio:.3f} | {density} |")


def with_error(nats: np.ndarray) -> str:
    return f"{nats.mean():.3f} ± {nats.std(ddof=1) / math.sqrt(len(nats)):.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
