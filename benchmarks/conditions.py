"""How fast networks learn what vectors they are conditioned on say, by the way in which they are told.

    python -m benchmarks.conditions [gaussian | arcs | two_moons | series]

Each is trained alike with vectors that are added to the embedding of time, as classes are (`Vector`), and with ones
that scale features, too (`Vector(scales=True)`, which `fit` takes); two seeds. Told are the held-out loss, early and at
the end, and for vectors the nats an example that are lost against the exact density (of two moons, whose posterior
density is not in closed form, the mean of -log p itself).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import EMA, MLP, Given, ScoreModel, UNet
from score_sde.models.layers.condition import Kind, Vector
from score_sde.sde import VPSDE
from score_sde.sde.times import TimeShape
from score_sde.solvers import log_likelihood
from score_sde.training.objectives import get_objective

_STEPS, _EARLY, _LENGTH = {"series": 400}, 300, 32


class Pairs(NamedTuple):
    """Conditions `(N, 2)`, examples `(N, *shape)`, and `log p(x | c)` `(N,)` where it is known."""

    c: Tensor
    x: Tensor
    log_prob: Tensor | None = None


def gaussian(count: int, generator: torch.Generator) -> Pairs:
    """Return pairs with a mean and deviations that are curved functions of the condition."""
    c, noise = (torch.randn(count, 2, generator=generator) for _ in range(2))
    first, second = c.T
    mean = torch.stack([torch.sin(2 * first) + 0.3 * second, first * second], 1)
    std = torch.exp(torch.stack([-1.5 + 0.7 * second, -1.5 - 0.7 * first], 1))
    return Pairs(c, mean + std * noise, (-(noise**2) / 2 - std.log() - math.log(2 * math.pi) / 2).sum(1))


def arcs(count: int, generator: torch.Generator) -> Pairs:
    """Return pairs of which x lies on half a circle whose place the condition decides."""
    c = torch.randn(count, 2, generator=generator)
    x, log_prob = _arc(c, 0.3, 0.06, 0.0, generator)
    return Pairs(c, x, log_prob)


def two_moons(count: int, generator: torch.Generator) -> Pairs:
    """Return pairs of sbibm's task: the parameters, given what is observed, lie on two crescents."""
    parameters = 2 * torch.rand(count, 2, generator=generator) - 1
    return Pairs(_arc(parameters, 0.1, 0.01, 0.25, generator)[0], parameters)


def series(count: int, generator: torch.Generator) -> Pairs:
    """Return pairs of which x is a wave with frequency and amplitude by the condition, and any phase."""
    c = 2 * torch.rand(count, 2, generator=generator) - 1
    phase = 2 * math.pi * torch.rand(count, 1, generator=generator)
    turns = (4 + 2 * c[:, :1]) * torch.arange(_LENGTH) / _LENGTH
    wave = c[:, 1:].exp() * torch.sin(2 * math.pi * turns + phase)
    return Pairs(c, (wave + 0.2 * torch.randn(count, _LENGTH, generator=generator))[:, None])


TASKS: dict[str, Callable[[int, torch.Generator], Pairs]] = {
    "gaussian": gaussian,
    "arcs": arcs,
    "two_moons": two_moons,
    "series": series,
}


def main(names: list[str]) -> None:
    """Train on each task in both ways, and print what came of it."""
    torch.set_num_threads(1)
    print("task        told by         seed   early loss   last loss   nats")
    for name in names or TASKS:
        for seed in range(2):
            for scales in (False, True):
                early, last, nats = trained(name, scales, seed)
                told = "scale and shift" if scales else "shift"
                print(f"{name:10s}  {told:15s} {seed}      {early:.4f}       {last:.4f}      {nats:.3f}", flush=True)


def trained(name: str, scales: bool, seed: int) -> tuple[float, float, float]:
    """Return the held-out loss, early and last, and the nats an example, of a network that was trained on a task."""
    generator, steps = torch.Generator().manual_seed(seed), _STEPS.get(name, 1500)
    known, new = TASKS[name](20_000, generator), TASKS[name](2000, torch.Generator().manual_seed(99))
    over = (0,) if known.x.ndim == 2 else (0, 2)
    scale = known.x.std(over, keepdim=True)

    def batch(pairs: Pairs, rows: Tensor | slice) -> Batch:
        told = (pairs.c[rows] - known.c.mean(0)) / known.c.std(0)
        return Batch((pairs.x[rows] - known.x.mean(over, keepdim=True)) / scale, Condition({"c": told}))

    torch.manual_seed(seed)
    conditions: dict[str, Kind] = {"c": Vector(2, scales=scales)}
    network: nn.Module = MLP(2, conditions=conditions)
    size, rate = 256, 2e-3
    if name == "series":
        network = UNet(1, dims=1, channels=16, channel_multipliers=(1, 2, 2), num_blocks=1, conditions=conditions)
        size, rate = 64, 4e-3
    model = ScoreModel(network, VPSDE(), "velocity", "log_snr")
    objective = get_objective(model.sde, weighting="edm", times="edm", shape=TimeShape(-1.0, 1.6))
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    ema, losses = EMA(model, 0.99), []
    for step in range(steps):
        if step in (min(_EARLY, steps // 2), steps - 1):
            with torch.no_grad():
                noise = BatchNoise(len(new.x), torch.Generator().manual_seed(5))
                losses.append(objective(ema.model, batch(new, slice(None)), noise).values.mean().item())
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(0, len(known.x), (size,), generator=generator)
        optimizer.zero_grad()
        objective(model, batch(known, rows), BatchNoise(size, generator)).values.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
    if name == "series":
        return losses[0], losses[1], math.nan
    some = batch(new, slice(400))
    given = Given(ema.model.eval().requires_grad_(False), some.condition)
    found = log_likelihood(given, some.x_0, divergence="exact", rtol=1e-3, atol=1e-3).log_prob - scale.log().sum()
    exact = 0 if new.log_prob is None else new.log_prob[:400]
    return losses[0], losses[1], (exact - found).mean().item()


def _arc(c: Tensor, radius: float, spread: float, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points about half a circle that is moved by two numbers `c`, and their log-density."""
    angle = math.pi * (torch.rand(len(c), generator=generator) - 0.5)
    r = radius + spread * torch.randn(len(c), generator=generator)
    first = r * angle.cos() + shift - c.sum(1).abs() / math.sqrt(2)
    second = r * angle.sin() + (c[:, 1] - c[:, 0]) / math.sqrt(2)
    log_prob = -(((r - radius) / spread) ** 2) / 2 - math.log(spread * math.sqrt(2 * math.pi) * math.pi) - r.abs().log()
    return torch.stack([first, second], 1), log_prob


if __name__ == "__main__":
    main(sys.argv[1:])
