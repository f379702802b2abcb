"""The named methods that ask the model more than once a step; see `solvers.fast.methods` for the notation.

EDM's Euler is here too, since it is the first half of EDM's Heun.

From nothing but noise, where `rho` is infinite, the first step is one of the same order in `1 / rho`, in which the flow
is regular: `d(y / rho) / d(1 / rho) = D`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.sde import SDE, Marginals
from score_sde.solvers.fast.methods import ancestral_split, exact_step
from score_sde.solvers.fast.recorder import Recorder
from score_sde.solvers.options import check_at_least, check_between

# Of the noise that EDM's churn adds, as a multiple of what belongs there; EDM has 1.003 to 1.007.
_MOST_NOISE = 2.0


def dpm_2(recorder: Recorder, nodes: Marginals) -> Tensor:
    """DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, algorithm 1): the midpoint rule in `lambda` on noise
    prediction."""
    middles = _between(recorder.sde, nodes, 1 / 2)
    y = recorder.start
    for k in range(len(nodes) - 1):
        if bool(nodes[k].gone):
            first = recorder.evaluate(y, nodes[k]).data
            ratio = middles.rho[k] / nodes.rho[k]
            y = (nodes.rho[k + 1] / nodes.rho[k]) * y + recorder.evaluate(ratio * y + first, middles[k]).data
            continue
        first = recorder.evaluate(y, nodes[k]).eps
        second = recorder.evaluate(y + (middles.rho[k] - nodes.rho[k]) * first, middles[k]).eps
        y = y + (nodes.rho[k + 1] - nodes.rho[k]) * second
    return y


def dpm_3(recorder: Recorder, nodes: Marginals) -> Tensor:
    """DPM-Solver-3 (Lu et al. 2022, arXiv:2206.00927, algorithm 2): stages a third and two thirds into the step."""
    thirds, two_thirds = _between(recorder.sde, nodes, 1 / 3), _between(recorder.sde, nodes, 2 / 3)
    y = recorder.start
    for k in range(len(nodes) - 1):
        start, a, b, end = nodes[k], thirds[k], two_thirds[k], nodes[k + 1]
        if bool(start.gone):
            # Heun's method of order 3 has these stages.
            first = recorder.evaluate(y, start).data
            at_a = recorder.evaluate((a.rho / start.rho) * y + first, a).data
            at_b = recorder.evaluate((b.rho / start.rho) * y + at_a, b).data
            y = (end.rho / start.rho) * y + (first + 3 * at_b) / 4
            continue
        eps_0 = recorder.evaluate(y, start).eps
        eps_a = recorder.evaluate(y + (a.rho - start.rho) * eps_0, a).eps
        at_b = exact_step(y, [eps_0, eps_a], torch.stack([start.lam, a.lam]), start, b, "noise")
        eps_b = recorder.evaluate(at_b, b).eps
        y = exact_step(y, [eps_0, eps_b], torch.stack([start.lam, b.lam]), start, end, "noise")
    return y


def _between(sde: SDE, nodes: Marginals, fraction: float) -> Marginals:
    """Return the nodes this fraction of each step further, in `lambda`; in `1 / rho` from nothing but noise."""
    lam = nodes.lam[:-1] + fraction * (nodes.lam[1:] - nodes.lam[:-1])
    return sde.at_lambda(torch.where(nodes.gone[:-1], nodes.lam[1:] + math.log(fraction), lam))


def dpmpp_2s(recorder: Recorder, nodes: Marginals, *, eta: float = 0.0) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, algorithm 1): the midpoint rule on data prediction.

    With `eta` it steps further down and adds noise back, as ancestral sampling does.
    """
    down, up = ancestral_split(nodes.rho[:-1], nodes.rho[1:], eta)
    # Halfway down, but for large eta not beyond the end of the step.
    middle = torch.where(nodes.gone[:-1], -torch.log(down) - math.log(2), 0.5 * (nodes.lam[:-1] - torch.log(down)))
    middles = recorder.sde.at_lambda(torch.minimum(middle, nodes.lam[1:]))
    y = recorder.start
    for k in range(len(nodes) - 1):
        first = recorder.evaluate(y, nodes[k]).data
        ratio = middles.rho[k] / nodes.rho[k]
        second = recorder.evaluate(ratio * y + (1 - ratio) * first, middles[k]).data
        ratio = down[k] / nodes.rho[k]
        y = ratio * y + (1 - ratio) * second
        if eta:
            y = y + up[k] * recorder.noise()
    return y


def heun(
    recorder: Recorder,
    nodes: Marginals,
    *,
    second_order: bool = True,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """EDM's stochastic sampler (Karras et al. 2022, arXiv:2206.00364, algorithm 2); with Euler's steps if not
    `second_order`.

    The churn raises the noise level, in `[s_min, s_max]`, before each step but never above that of `T`, where the
    process ends.
    """
    check_at_least("s_churn", s_churn, 0)
    check_at_least("s_min", s_min, 0)
    check_at_least("s_max", s_max, 0)
    check_between("s_noise", s_noise, 0, _MOST_NOISE)
    gamma = min(s_churn / len(nodes), math.sqrt(2) - 1)
    raised_rho = torch.where((nodes.rho >= s_min) & (nodes.rho <= s_max), nodes.rho * (1 + gamma), nodes.rho)
    raised = recorder.sde.at_lambda(-torch.log(torch.minimum(raised_rho, nodes.rho[0]))) if gamma else nodes
    y = recorder.start
    for k in range(len(nodes) - 1):
        if raised.rho[k] > nodes.rho[k]:
            y = y + s_noise * torch.sqrt(raised.rho[k] ** 2 - nodes.rho[k] ** 2) * recorder.noise()
        step = nodes.rho[k + 1] - raised.rho[k]
        output = recorder.evaluate(y, raised[k])
        first = output.eps
        if second_order and bool(raised[k].gone):
            ratio = nodes.rho[k + 1] / raised.rho[k]
            second = recorder.evaluate(ratio * y + output.data, nodes[k + 1]).data
            y = ratio * y + (output.data + second) / 2
        elif second_order:
            second = recorder.evaluate(y + step * first, nodes[k + 1]).eps
            y = y + step * (first + second) / 2
        else:
            y = y + step * first
    return y


def flow_heun(recorder: Recorder, nodes: Marginals) -> Tensor:
    """Heun's method on the straight lines of rectified flow (Lipman et al. 2023, arXiv:2210.02747).

    With `u = sigma / (alpha + sigma)`, which is rectified flow's `t`, and `w = x / (alpha + sigma)`, its state, the
    probability flow of any process is `dw/du = eps - D`. (Euler's method on it is DDIM.)
    """
    u = nodes.rho / (1 + nodes.rho)
    w = recorder.start / (1 + nodes.rho[0])
    for k in range(len(nodes) - 1):
        step = u[k + 1] - u[k]
        first = recorder.evaluate((1 + nodes.rho[k]) * w, nodes[k])
        flow = first.eps - first.data
        second = recorder.evaluate((1 + nodes.rho[k + 1]) * (w + step * flow), nodes[k + 1])
        w = w + step * (flow + second.eps - second.data) / 2
    return (1 + nodes.rho[-1]) * w
