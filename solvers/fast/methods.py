r"""The named methods of the fast family, each written as in its paper.

The probability flow ODE in `y = x / alpha`, `rho = sigma / alpha`, `lambda = -log rho`, and with it the reverse SDEs of
noise level `eta` (`kappa = 1 + eta^2`), is solved exactly but for one integral:

    noise prediction    y_e = y_s - kappa ∫_s^e exp(-lambda) eps dlambda
                              + eta sqrt(rho_s^2 - rho_e^2) z
    data prediction     y_e = r^kappa y_s + kappa ∫_s^e exp(kappa (lambda - lambda_e)) D dlambda
                              + rho_e sqrt(1 - r^(2 eta^2)) z

with `r = rho_e / rho_s`. Methods differ in which of the two they use and in how they guess `eps` or `D` between the
times at which the model was asked. A method is a function of a recorder (see `solvers.fast.recorder`) and the nodes of
the grid; it returns `y` at the last node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import SDE, Marginals
from score_sde.solvers.fast.recorder import Prediction, Recorder
from score_sde.solvers.options import MAX_ORDER, check_at_least, check_between
from score_sde.solvers.quadrature import adams_weights

Variable = Literal["log_snr", "rho", "t"]
Variant = Literal["bh1", "bh2"]


def exact_step(
    y: Tensor,
    values: list[Tensor],
    nodes: Tensor,
    start: Marginals,
    end: Marginals,
    prediction: Prediction,
    eta: float = 0.0,
    variable: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return `y` at `end`, up to its noise, where the output is the polynomial through `values` at the half log-SNRs
    `nodes`."""
    kappa = 1 + eta**2
    if prediction == "noise":
        weights = -kappa * end.rho * adams_weights(nodes, start.lam, end.lam, -1.0, variable)
        return y + sum(w * v for w, v in zip(weights, values, strict=True))
    weights = kappa * adams_weights(nodes, start.lam, end.lam, kappa, variable)
    return (end.rho / start.rho) ** kappa * y + sum(w * v for w, v in zip(weights, values, strict=True))


def step_noise(recorder: Recorder, start: Marginals, end: Marginals, eta: float) -> Tensor | float:
    """Return the noise of an exact step, which is none for `eta = 0`."""
    if eta == 0:
        return 0.0
    if recorder.prediction == "noise":
        return eta * torch.sqrt(start.rho**2 - end.rho**2) * recorder.noise()
    return end.rho * torch.sqrt(-torch.expm1(2 * eta**2 * (start.lam - end.lam))) * recorder.noise()


def adams(
    recorder: Recorder,
    nodes: Marginals,
    *,
    order: int = 3,
    eta: float = 0.0,
    variable: Variable = "log_snr",
    lower_order_final: bool = False,
) -> Tensor:
    """Exponential Adams–Bashforth: the polynomial through the last `order` outputs, integrated exactly.

    On noise prediction this is DEIS (Zhang & Chen 2023, arXiv:2204.13902), whose authors interpolate in `t` or `rho`;
    on data prediction in `lambda`, at order 3, DPM-Solver++(3M).
    """
    check_between("order", order, 1, MAX_ORDER)
    of_lambda = _interpolation_variable(recorder.sde, variable)
    y, values = recorder.start, []
    for k in range(len(nodes) - 1):
        output = recorder.evaluate(y, nodes[k])
        values.append(output.recorded)
        if eta and recorder.prediction == "noise" and bool(nodes[k].gone):
            # From nothing but noise this step has infinite variance, that of data prediction has not: all is new noise.
            y = (
                (nodes.rho[k + 1] / nodes.rho[k]) ** (1 + eta**2) * y
                + output.data
                + nodes.rho[k + 1] * recorder.noise()
            )
            continue
        used = step_order(recorder, order, k, len(nodes), lower_order_final)
        past = slice(k + 1 - used, k + 1)
        y = exact_step(y, values[past], nodes.lam[past], nodes[k], nodes[k + 1], recorder.prediction, eta, of_lambda)
        y = y + step_noise(recorder, nodes[k], nodes[k + 1], eta)
    return y


# Of Adams–Bashforth on equal steps, by order; the newest output comes first.
EQUAL_STEPS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(recorder: Recorder, nodes: Marginals, *, order: int = 3, lower_order_final: bool = False) -> Tensor:
    """iPNDM (Zhang & Chen 2023, arXiv:2204.13902): Adams–Bashforth in `rho` with the weights of equal steps.

    Where the steps in `rho` are equal its order is `order`, and 2 at most where they change from one to the next.
    """
    check_between("order", order, 1, len(EQUAL_STEPS))
    y = recorder.start
    outputs: list[Tensor] = []
    for k in range(len(nodes) - 1):
        outputs.insert(0, recorder.evaluate(y, nodes[k]).eps)
        weights = EQUAL_STEPS[step_order(recorder, order, k, len(nodes), lower_order_final) - 1]
        slope = sum(w * eps for w, eps in zip(weights, outputs, strict=False))
        y = y + (nodes.rho[k + 1] - nodes.rho[k]) * slope
    return y


def step_order(recorder: Recorder, order: int, k: int, num_nodes: int, lower_order_final: bool) -> int:
    """Return the order at step `k`: at most the outputs there are; and, if asked, the steps still to come, for
    stability in few steps.

    The last step, from `t_min` to `sigma = 0` where there is one, has order 1 in any case.
    """
    steps_left = num_nodes - 1 - k + recorder.denoises
    return min(order, k + 1, steps_left if lower_order_final else order)


def _interpolation_variable(sde: SDE, name: Variable) -> Callable[[Tensor], Tensor] | None:
    """Return the function of `lambda` in which outputs are interpolated; None for `lambda` itself."""
    if name not in ("log_snr", "rho", "t"):
        raise UserError(f"outputs are interpolated in log_snr, rho or t, not {name!r}")
    return {"log_snr": None, "rho": lambda lam: torch.exp(-lam), "t": lambda lam: sde.time_at_log_snr(2 * lam)}[name]


def ddim(recorder: Recorder, nodes: Marginals, *, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, arXiv:2010.02502, equation 12); `eta = 1` is DDPM's ancestral sampling."""
    check_at_least("eta", eta, 0)
    y = recorder.start
    for k in range(len(nodes) - 1):
        output = recorder.evaluate(y, nodes[k])
        down, up = ancestral_split(nodes.rho[k], nodes.rho[k + 1], eta)
        y = output.data + down * output.eps
        if eta:
            y = y + up * recorder.noise(data_known=True)
    return y


def ancestral_split(rho_s: Tensor, rho_e: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Return the noise level to step down to, and the standard deviation of the noise to add, whose squares add up to
    `rho_e^2`."""
    up = eta * rho_e * torch.sqrt(1 - (rho_e / rho_s) ** 2)
    return torch.sqrt(rho_e**2 - up**2), up


def dpmpp_2m(recorder: Recorder, nodes: Marginals, *, eta: float = 0.0, lower_order_final: bool = False) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2) and its SDE variant.

    Not quite the exact integral of the line through two outputs: the line's value in the middle of the step stands
    for all of it.
    """
    kappa = 1 + eta**2
    y, data = recorder.start, []
    for k in range(len(nodes) - 1):
        start, end = nodes[k], nodes[k + 1]
        data.append(recorder.evaluate(y, start).data)
        middle = data[k]
        if step_order(recorder, 2, k, len(nodes), lower_order_final) == 2:
            slope = (data[k] - data[k - 1]) / (nodes.lam[k] - nodes.lam[k - 1])
            middle = data[k] + 0.5 * (end.lam - start.lam) * slope
        decay = (end.rho / start.rho) ** kappa
        y = decay * y + (1 - decay) * middle + step_noise(recorder, start, end, eta)
    return y


def dpmpp_3m_published(
    recorder: Recorder, nodes: Marginals, *, eta: float = 0.0, lower_order_final: bool = False
) -> Tensor:
    """DPM-Solver++(3M) with the coefficients in circulation, which halve the second-derivative term: of order 2.

    The corrected method is Adams–Bashforth of order 3 on data prediction.
    """
    kappa = 1 + eta**2
    y, data = recorder.start, []
    for k in range(len(nodes) - 1):
        start, end = nodes[k], nodes[k + 1]
        data.append(recorder.evaluate(y, start).data)
        h = kappa * (end.lam - start.lam)
        decay = torch.exp(-h)
        phi_2, phi_3 = 1 + torch.expm1(-h) / h, 0.5 - (torch.expm1(-h) + h) / h**2
        order = step_order(recorder, 3, k, len(nodes), lower_order_final)
        step = decay * y + (1 - decay) * data[k]
        if order >= 2:
            length = end.lam - start.lam
            gap = (nodes.lam[k] - nodes.lam[k - 1]) / length
            first = (data[k] - data[k - 1]) / gap
            if order == 2:
                step = step + 0.5 * (1 - decay) * first
            else:
                earlier_gap = (nodes.lam[k - 1] - nodes.lam[k - 2]) / length
                bend = (first - (data[k - 1] - data[k - 2]) / earlier_gap) / (gap + earlier_gap)
                step = step + phi_2 * (first + gap * bend) + phi_3 * bend
        y = step + step_noise(recorder, start, end, eta)
    return y


def unipc(
    recorder: Recorder,
    nodes: Marginals,
    *,
    order: int = 3,
    variant: Variant = "bh2",
    lower_order_final: bool = False,
) -> Tensor:
    """UniPC (Zhao et al. 2023, arXiv:2302.04867) on data prediction: Adams–Bashforth, then Adams–Moulton once the new
    output is known.

    Its order conditions have one solution, the exact integral of the interpolating polynomial, whatever `B(h)`. Only
    where the paper fixes a coefficient at 1/2 instead (two-point predictor, two-point corrector) does `B(h)`, the
    variant, play a part.
    """
    if variant not in ("bh1", "bh2"):
        raise UserError(f"UniPC has the variants bh1 and bh2, not {variant!r}")
    check_between("order", order, 1, MAX_ORDER)
    y, corrected, data = recorder.start, recorder.start, []
    used = 0
    for k in range(len(nodes) - 1):
        data.append(recorder.evaluate(y, nodes[k]).data)
        if k > 0:
            corrected = _unipc_step(corrected, data, nodes, list(range(k - used, k + 1)), k - 1, variant)
        used = step_order(recorder, order, k, len(nodes), lower_order_final)
        y = _unipc_step(corrected, data, nodes, list(range(k + 1 - used, k + 1)), k, variant)
    return y


def _unipc_step(y: Tensor, data: list[Tensor], nodes: Marginals, points: list[int], k: int, variant: str) -> Tensor:
    """Step from node `k` to `k + 1` with the polynomial through the outputs at `points`."""
    start, end = nodes[k], nodes[k + 1]
    if len(points) != 2:
        return exact_step(y, [data[j] for j in points], nodes.lam[points], start, end, "data")
    h = end.lam - start.lam
    (other,) = (j for j in points if j != k)
    slope = h * (data[other] - data[k]) / (nodes.lam[other] - start.lam)
    scale = h if variant == "bh1" else -torch.expm1(-h)
    return torch.exp(-h) * y - torch.expm1(-h) * data[k] + 0.5 * scale * slope
